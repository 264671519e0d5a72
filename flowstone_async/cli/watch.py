"""`flowstone watch`: a run that is executed anywhere, followed here."""

from __future__ import annotations

from typing import assert_never

from flowstone_async._engine import stopped
from flowstone_async._engine.handle import RunHandle
from flowstone_async.cli.backfill import tolerated
from flowstone_async.cli.failure import code_of, tell
from flowstone_async.cli.job import Job
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.progress import Progress
from flowstone_async.cli.queue import run_of
from flowstone_async.cli.reporter import Reporter, reporting
from flowstone_async.definition.key_text import format_key
from flowstone_async.definition.keys import decode_key
from flowstone_async.errors import FlowstoneError
from flowstone_async.events import RunFinished
from flowstone_async.store.records import RunState


async def watch(job: Job) -> int:
    """Follow a run to its end and return the exit code that stands for it."""
    run_id = run_of(job)
    job.interrupting = "no longer watching; the run goes on"
    job.interrupted = f"run {run_id} goes on; to watch it again:"
    async with looking_engine(job, job.pipeline) as (engine, _):
        handle = await engine.find(run_id)
        ref = handle.ref
        key = decode_key(ref.partition)
        progress = Progress(", ".join(ref.targets), None if key is None else format_key(key))
        progress.run_id = run_id
        with reporting(job, progress) as reporter:
            try:
                error = await _follow(handle, reporter)
            finally:
                progress.end(cut_off=False)
        state = (await handle.status()).state
    return _code(job, progress, run_id, state, error)


async def _follow(handle: RunHandle[object], reporter: Reporter) -> FlowstoneError | None:
    """Report the events of a run until its last, and return the error that it ended with."""
    reporter.start()
    async for event in handle.events():
        await reporter.hear(event)
        if isinstance(event, RunFinished):
            return event.error
    return None


def _code(job: Job, progress: Progress, run_id: str, state: RunState, error: FlowstoneError | None) -> int:
    match state:
        case "succeeded":
            return tolerated(job, progress)
        case "cancelled":
            error = stopped.cancelled(run_id)
        case "failed":
            error = error or FlowstoneError(f"run {run_id} failed, and its events are not on record any more")
        case "queued" | "running" | "waiting":
            error = FlowstoneError(f"run {run_id} is {state}, and tells of nothing any more")
        case _:
            assert_never(state)
    tell(job.output, error, verbose=job.options.verbose)
    return code_of(error, running=True)
