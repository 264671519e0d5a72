"""`flowstone invalidate`: deletes stored values, after showing how many there are."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator

from flowstone_async._engine.session import Session
from flowstone_async.cli import exit_code
from flowstone_async.cli.job import Job
from flowstone_async.cli.keys import Key, read_key
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.usage import UsageError
from flowstone_async.definition.graph import Graph
from flowstone_async.definition.key_text import format_key
from flowstone_async.definition.keys import encode_key
from flowstone_async.planning.units import partition_for
from flowstone_async.store.records import AssetState
from flowstone_async.types import ALL, All, AssetKey


async def invalidate(job: Job) -> int:
    """Delete stored values and return the exit code."""
    options, output, pipeline = job.options, job.output, job.pipeline
    graph = pipeline.compiled()
    asset = job.asset(graph)
    if options.all and options.partition is not None:
        raise UsageError("--all and -p exclude each other", "Give one of the two.")
    key: Key | All = ALL if options.all else _key(graph, asset, options.partition)
    if not options.yes and not _can_ask():
        raise UsageError("invalidate asks before it deletes, and there is no terminal to ask on", "Say --yes.")
    async with looking_engine(job, pipeline) as (engine, session):
        if not options.yes:
            count = await _count(session, graph, asset, key, cascade=options.cascade)
            below = ", with what was computed from it" if options.cascade else ""
            if count and not await _agreed(job, f"{_values(count)} of {asset}{_where(key)}{below}"):
                output.say("nothing was deleted")
                return exit_code.OK
        removed = await engine.invalidate(asset, partition=key, cascade=options.cascade)
    if options.json:
        output.json({"asset": asset, "removed": removed})
    else:
        output.say(f"{_values(removed)} deleted")
    return exit_code.OK


def _key(graph: Graph, asset: str, text: str | None) -> Key:
    declared = graph.nodes[asset].definition.partitions
    if text is None and declared is not None and declared.dimensions:
        raise UsageError(
            f"asset {asset!r} has partitions ({declared.describe()}), and none was named",
            "Name one with -p KEY, or say --all.",
        )
    return read_key(graph, asset, text)


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


async def _agreed(job: Job, what: str) -> bool:
    job.output.say(f"This deletes {what}. Go on? [y/N]")
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _values(count: int) -> str:
    return f"{count} value{'' if count == 1 else 's'}"


def _where(key: Key | All) -> str:
    return "" if key is None else ", every partition" if isinstance(key, All) else f" [{format_key(key)}]"


# -- counting ---------------------------------------------------------------------------------------------------


async def _count(session: Session, graph: Graph, asset: str, key: Key | All, *, cascade: bool) -> int:
    """Return how many values would be deleted; nothing is."""
    pipeline, reached, count = graph.pipeline, set[AssetKey](), 0
    if isinstance(key, All):
        async for state in _states(session, pipeline, asset):
            if state.current is not None:
                reached.add(state.key)
        count = len(reached)
    else:
        name = AssetKey(pipeline, asset, encode_key(partition_for(graph.nodes[asset], key)))
        found = (await session.services.store.states([name])).get(name)
        reached.add(name)
        count = int(found is not None and found.current is not None)
    return count + (await _dependants(session, graph, reached) if cascade else 0)


async def _dependants(session: Session, graph: Graph, reached: set[AssetKey]) -> int:
    """Return how many values were computed from the keys in `reached`, transitively, and add theirs."""
    stored = await session.services.store.stored_assets(graph.pipeline)
    names = [name for name in (*graph.order, *(set(stored) - set(graph.order))) if stored.get(name)]
    before = len(reached)
    count = -1
    while count < len(reached) - before:  # once more for assets that are in no order: the code has them no longer
        count = len(reached) - before
        for name in names:
            async for state in _states(session, graph.pipeline, name):
                if state.current is not None and any(each.key in reached for each in state.current.inputs):
                    reached.add(state.key)
    return count


async def _states(session: Session, pipeline: str, asset: str) -> AsyncGenerator[AssetState]:
    after: str | None = None
    while page := await session.services.store.keys(pipeline, asset, "", after=after):
        for state in page:
            yield state
        after = page[-1].key.partition
