"""`flowstone items` and `redrive`: the items of a scatter, looked at and run again. Nothing is executed here."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Literal, cast

from flowstone_async._engine.handle import RunHandle
from flowstone_async.cli import exit_code
from flowstone_async.cli.failure import first_line
from flowstone_async.cli.job import Job
from flowstone_async.cli.keys import read_key
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.plain import plain_error
from flowstone_async.cli.table import table
from flowstone_async.cli.usage import UsageError
from flowstone_async.definition.batch import Batch
from flowstone_async.definition.scatter_item import ErrorGroup, ItemState, ScatterItem
from flowstone_async.engine import Engine
from flowstone_async.errors import NotMaterialized

_PAGE = 500


async def items(job: Job) -> int:
    """List items of a scatter, or the errors of those that failed, and return the exit code."""
    options = job.options
    if options.group_by is not None and (options.state not in (None, "failed") or options.after is not None):
        given = "--after" if options.after is not None else f"--state {options.state}"
        raise UsageError(f"{given} cannot be given with --group-by", "Errors are those of failed items, all of them.")
    asset, key = _asked(job)
    async with looking_engine(job, job.pipeline) as (engine, _):
        handle = await _run(job, engine, asset, key)
        if options.group_by is not None:
            _show_errors(job, await handle.item_errors(asset, partition=key, limit=options.limit))
        else:
            await _show_items(job, handle, asset, key)
    return exit_code.OK


async def redrive(job: Job) -> int:
    """Submit a run that runs items of a scatter again, print its id and return the exit code."""
    asset, key = _asked(job)
    only = cast("Literal['failed', 'all']", job.options.only or "failed")
    async with looking_engine(job, job.pipeline) as (engine, _):
        handle = await _run(job, engine, asset, key)
        again = await handle.redrive(asset, only=only, partition=key)
    if job.options.json:
        job.output.json({**dataclasses.asdict(again.ref), "of_run": handle.id, "only": only})
    else:
        job.output.show(again.id)
    return exit_code.OK


def _asked(job: Job) -> tuple[str, Any]:
    """Return the asset and the key of the partition; with `--run` that need not be named."""
    graph = job.pipeline.compiled()
    asset = job.asset(graph)
    if job.options.run is not None and job.options.partition is None:
        return asset, None
    return asset, read_key(graph, asset, job.options.partition)


async def _run(job: Job, engine: Engine, asset: str, key: Any) -> RunHandle[Any]:
    """Return the run that the items are of.

    Raises:
        NotMaterialized: None was named, and none has tried to compute the asset.
    """
    run_id = job.options.run
    if run_id is None:
        run_id = (await engine.status(asset, partition=key)).run_id
        if run_id is None:
            raise NotMaterialized(f"asset {asset!r} was never run", asset=asset, partition=key)
    return await engine.find(run_id)


async def _show_items(job: Job, handle: RunHandle[Any], asset: str, key: Any) -> None:
    output, state = job.output, job.options.state or "failed"
    rows: list[list[str]] = []
    last, count = job.options.after, 0
    async with aclosing(_pages(job, handle, asset, key)) as found:
        async for each in found:
            last, count = each.place, count + 1
            if job.options.json:
                output.json(_plain(each))
            else:
                rows.append(_cells(each))
    if rows:
        output.show(table([["index", "key", "attempts", "worker", "error"], *rows]))
    elif not count and not job.options.json:
        behind = "" if job.options.after is None else f" behind {job.options.after}"
        output.say(f"run {handle.id} has no {state} items of {asset}{behind}")
    if count == job.options.limit:
        output.say(f"{count} items of run {handle.id}; for those behind them: --after {last}")


async def _pages(job: Job, handle: RunHandle[Any], asset: str, key: Any) -> AsyncGenerator[ScatterItem]:
    state, left, after = cast("ItemState", job.options.state or "failed"), job.options.limit, job.options.after
    while left > 0:
        page = await handle.items(asset, state=state, partition=key, limit=min(left, _PAGE), after=after)
        for each in page:
            yield each
        if len(page) < min(left, _PAGE):
            return
        after, left = page[-1].place, left - len(page)


def _show_errors(job: Job, groups: tuple[ErrorGroup, ...]) -> None:
    if job.options.json:
        for each in groups:
            job.output.json({"error_type": each.error_type, "count": each.count, "example": plain_error(each.example)})
    elif groups:
        rows = [[str(each.count), each.error_type, first_line(each.example)] for each in groups]
        job.output.show(table([["items", "error", "example"], *rows]))
    else:
        job.output.say("no item failed")


def _cells(item: ScatterItem) -> list[str]:
    from flowstone_async.cli.preview import preview

    return [
        str(item.index),
        item.key if isinstance(item.key, str) else preview(item.key),
        "" if item.attempts is None else str(item.attempts),
        item.worker or "",
        "" if item.error is None else first_line(item.error),
    ]


def _plain(item: ScatterItem) -> dict[str, object]:
    return {
        "key": _json(item.key),
        "index": item.index,
        "state": item.state,
        "item": _json(item.item),
        "place": str(item.place),  # of what left its batch, it is more than readers of JSON take for a whole number
        "attempts": item.attempts,
        "worker": item.worker,
        "error_type": item.error_type,
        "error": None if item.error is None else plain_error(item.error),
    }


def _json(value: object) -> object:
    """Return an item or key as JSON holds it."""
    from pydantic_core import to_jsonable_python

    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        return {str(name): _json(each) for name, each in entries}
    if isinstance(value, Batch):
        return [_json(each) for each in cast("Batch[object]", value)]
    return to_jsonable_python(value, serialize_unknown=True, bytes_mode="base64", inf_nan_mode="strings")
