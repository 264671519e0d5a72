"""`flowstone run`: one asset for one key; a range of keys is a backfill."""

from __future__ import annotations

import asyncio
from typing import Any

from flowstone_async.cli import exit_code
from flowstone_async.cli.backfill import run_range, tolerated
from flowstone_async.cli.failure import code_of, tell
from flowstone_async.cli.job import Job
from flowstone_async.cli.keys import read_keys
from flowstone_async.cli.opening import working_engine
from flowstone_async.cli.params import read_params
from flowstone_async.cli.plan import plan
from flowstone_async.cli.progress import Progress
from flowstone_async.cli.reporter import reporting
from flowstone_async.cli.usage import UsageError, read_timeout
from flowstone_async.definition.key_range import KeyRange
from flowstone_async.definition.key_text import format_key
from flowstone_async.definition.stream import Stream
from flowstone_async.engine import Engine
from flowstone_async.errors import FlowstoneError, TargetSkipped
from flowstone_async.pipeline import Pipeline


async def run(job: Job) -> int:
    """Bring an asset up to date and return the exit code."""
    options = job.options
    if options.dry_run:
        return await plan(job)
    pipeline = job.pipeline
    graph = pipeline.compiled()
    asset = job.asset(graph)
    key = read_keys(graph, asset, options.partition)
    params = read_params(pipeline.params_type, options.param or (), job.project.cwd)
    timeout = read_timeout(options.timeout)
    if isinstance(key, KeyRange):
        refuse_with_range(job)
        return await run_range(job, pipeline, asset, key, params=params, timeout=timeout)
    given: dict[str, Any] = {
        "partition": key,
        "params": params,
        "force": options.force,
        "with_deps": not options.no_deps,
        "timeout": timeout,
        "concurrency": options.concurrency,
    }
    return await _run_one(job, pipeline, asset, given)


async def _run_one(job: Job, pipeline: Pipeline, asset: str, given: dict[str, Any]) -> int:
    key = given["partition"]
    progress = Progress(asset, None if key is None else format_key(key))
    problem: FlowstoneError | None = None
    value: object = None
    with reporting(job, progress) as reporter:
        async with working_engine(job, pipeline) as engine:
            job.output.redactor.value(given["params"])  # it remembers the secrets that it sees
            reporter.attach(engine)
            if reporter.drawn:
                progress.expect(await engine.plan(asset, **given))
            try:
                value = await _awaited(engine, asset, given, progress)
            except FlowstoneError as error:
                problem = error
    if problem is not None:
        return _failed(job, problem, progress)
    if reporter.drawn and value is not None and not isinstance(value, Stream):
        from flowstone_async.cli.preview import preview

        job.output.show(f"{asset} = {preview(value)}")
    return tolerated(job, progress)


async def _awaited(engine: Engine, asset: str, given: dict[str, Any], progress: Progress) -> object:
    try:
        value = await engine.run(asset, **given)
    except (asyncio.CancelledError, FlowstoneError) as error:
        progress.end(cut_off=not isinstance(error, TargetSkipped))
        raise
    progress.end(cut_off=False)
    return value


def _failed(job: Job, error: FlowstoneError, progress: Progress) -> int:
    if isinstance(error, TargetSkipped):
        job.output.say(error.message)
        return exit_code.OK
    tell(job.output, error, verbose=job.options.verbose)
    return code_of(error, running=progress.begun)


def refuse_with_range(job: Job) -> None:
    """Refuse options that a backfill has no use for.

    Raises:
        UsageError: One of them is given.
    """
    options = job.options
    if options.no_deps or options.concurrency is not None:
        given = "--no-deps" if options.no_deps else "--concurrency"
        raise UsageError(
            f"{given} cannot be given with a range of keys",
            "A range is a backfill: --parallel of `backfill` and `submit` bounds it.",
        )
