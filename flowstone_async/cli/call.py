"""Calling the function of a command: its errors become messages and exit codes."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias, assert_never, cast

from flowstone_async.cli import exit_code
from flowstone_async.cli.failure import code_of, tell
from flowstone_async.cli.interrupts import Reactions, run_interruptible
from flowstone_async.cli.job import Job
from flowstone_async.cli.output import OutputError, ReaderGone
from flowstone_async.cli.target import BrokenModule
from flowstone_async.cli.usage import UsageError
from flowstone_async.errors import FlowstoneError

Handler = Callable[[Job], int | Awaitable[int]]
Expected: TypeAlias = FlowstoneError | UsageError | BrokenModule | OutputError | ReaderGone
EXPECTED = (FlowstoneError, UsageError, BrokenModule, OutputError, ReaderGone)


def call(handler: Handler, job: Job, *, pipeline: bool = True) -> int:
    """Call the function of a command, in an event loop if it is async, and return the exit code.

    Args:
        handler: The function.
        job: The command.
        pipeline: Whether it is about a pipeline.
    """
    try:
        if not inspect.iscoroutinefunction(handler):
            return cast("int", handler(job))
        if pipeline:
            _ = job.pipeline  # imported before there is an event loop: the user's modules may run one of their own
    except EXPECTED as error:
        return code_for(error, job)

    async def awaited() -> int:
        # Told inside the loop: threads of the user's may hold up its end.
        try:
            return await cast("Awaitable[int]", handler(job))
        except EXPECTED as error:
            return code_for(error, job)

    def cancelling(what: str) -> None:
        job.output.say(f"{job.interrupting}; {what} again ends at once")

    return run_interruptible(
        awaited,
        Reactions(
            first=cancelling,
            ended=lambda: job.output.say(f"{job.interrupted}\n  {job.again}"),
            leaving=job.output.end_within,
        ),
    )


def code_for(error: Expected, job: Job) -> int:
    """Say what ended a command and return the exit code."""
    output = job.output
    match error:
        case FlowstoneError():
            tell(output, error, verbose=job.options.verbose)
            return code_of(error)
        case UsageError():
            output.fail(error.message, error.hint)
            return exit_code.USAGE
        case BrokenModule():
            output.fail(f"{error.location}: {error}", None if job.options.verbose else error.hint)
            if job.options.verbose:
                output.say(error.trace.rstrip())
            return exit_code.DEFINITION
        case OutputError():
            output.fail(str(error))
            return exit_code.FAILED
        case ReaderGone():
            return exit_code.OK
        case _:
            assert_never(error)
