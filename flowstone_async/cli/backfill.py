"""`flowstone backfill`: one asset for many keys."""

from __future__ import annotations

import asyncio
from typing import Literal, cast

from flowstone_async._engine.backfill import BackfillReport, OnError, Only
from flowstone_async.cli import exit_code
from flowstone_async.cli.failure import code_of, first_line, tell
from flowstone_async.cli.job import Job
from flowstone_async.cli.keys import Keys, read_range
from flowstone_async.cli.opening import working_engine
from flowstone_async.cli.params import read_params
from flowstone_async.cli.progress import Progress
from flowstone_async.cli.reporter import reporting
from flowstone_async.cli.usage import UsageError, read_timeout
from flowstone_async.clock import SystemClock
from flowstone_async.definition.graph import Graph
from flowstone_async.definition.key_text import format_key
from flowstone_async.errors import FlowstoneError
from flowstone_async.pipeline import Pipeline

_SHOWN = 10


async def backfill(job: Job) -> int:
    """Run an asset for many keys and return the exit code."""
    options = job.options
    pipeline = job.pipeline
    graph = pipeline.compiled()
    asset = job.asset(graph)
    given = options.partitions
    keys = _all_keys(graph, asset) if given is None else read_range(graph, asset, given)
    params = read_params(pipeline.params_type, options.param or (), job.project.cwd)
    return await run_range(job, pipeline, asset, keys, params=params, timeout=read_timeout(options.timeout))


async def run_range(
    job: Job,
    pipeline: Pipeline,
    asset: str,
    keys: Keys,
    *,
    params: object,
    timeout: float | Literal[False] | None,
) -> int:
    """Run an asset for a range of keys and return the exit code.

    Args:
        job: The command, with the options of a backfill.
        pipeline: The asset's.
        asset: Its name.
        keys: Which.
        params: Of the pipeline's params type, or None.
        timeout: For each key.
    """
    options = job.options
    progress = Progress(asset, _shown(keys), partitions=keys.count)
    report: BackfillReport | None = None
    problem: FlowstoneError | None = None
    with reporting(job, progress) as reporter:
        async with working_engine(job, pipeline) as engine:
            job.output.redactor.value(params)  # it remembers the secrets that it sees
            reporter.attach(engine)
            try:
                report = await engine.backfill(
                    asset,
                    partitions=keys,
                    parallel=options.parallel,
                    force=options.force,
                    only=cast("Only", options.only or "all"),
                    on_error=cast("OnError", options.on_error),
                    timeout=timeout,
                    params=params,
                    on_progress=progress.take,
                )
            except asyncio.CancelledError:
                progress.end(cut_off=True)
                raise
            except FlowstoneError as error:
                problem = error
            progress.end(cut_off=problem is not None)
        if report is not None:
            reporter.tell(_plain(report))
    if report is None or problem is not None:
        return _broken(job, problem or FlowstoneError("the backfill did not come to its end"), progress)
    return _code(job, report, progress)


def tolerated(job: Job, progress: Progress) -> int:
    """Say what failed without failing the target, and return the exit code of a success."""
    if not progress.tolerated:
        return exit_code.OK
    job.output.say(f"finished; failures that the target tolerates: {progress.tolerated}")
    return exit_code.TOLERATED


def _all_keys(graph: Graph, asset: str) -> Keys:
    declared = graph.nodes[asset].definition.partitions
    if declared is None or not declared.dimensions:
        raise UsageError(
            f"asset {asset!r} declares no partitions", "Run it: flowstone run; or declare a set on the asset."
        )
    return cast("Keys", declared.keys(SystemClock().now()))


def _shown(keys: Keys) -> str:
    if not keys:
        return "no partitions"
    return f"{format_key(keys.first)}..{format_key(keys.last)}" if keys.count > 1 else format_key(keys.first)


def _plain(report: BackfillReport) -> dict[str, object]:
    return {
        "type": "backfill.finished",
        "succeeded": report.succeeded,
        "failed": report.failed,
        "skipped": report.skipped,
        "not_started": report.not_started,
        "errors": {format_key(key): first_line(error) for key, error in report.errors.items()},
    }


def _broken(job: Job, problem: FlowstoneError, progress: Progress) -> int:
    tell(job.output, problem, verbose=job.options.verbose)
    return code_of(problem, running=progress.begun)


def _code(job: Job, report: BackfillReport, progress: Progress) -> int:
    if report.ok:
        return tolerated(job, progress)
    total = report.succeeded + report.failed + report.skipped + report.not_started
    were = "was" if report.not_started == 1 else "were"
    left = f", {report.not_started} {were} not started" if report.not_started else ""
    lines = [f"{report.failed} of {total} partitions failed{left}"]
    lines += [f"  {format_key(key)}: {first_line(error)}" for key, error in list(report.errors.items())[:_SHOWN]]
    if report.failed > _SHOWN:
        lines.append(f"  and {report.failed - _SHOWN} more")
    job.output.fail("\n".join(lines), "Once mended, compute just these: flowstone backfill ... --only failed")
    return exit_code.FAILED
