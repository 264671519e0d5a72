"""From an error to what is said of it, and to an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from flowstone_async.cli import exit_code
from flowstone_async.cli.output import Output
from flowstone_async.errors import (
    AssetNotFound,
    Cancelled,
    ConfigError,
    DefinitionError,
    DependencyNotReady,
    ExecutionError,
    FlowstoneError,
    GateNotFound,
    NotMaterialized,
    RunNotFound,
    StoreUnavailable,
    TimedOut,
)

_CHAIN = 20


def code_of(error: FlowstoneError, *, running: bool = False) -> int:
    """Return the exit code for an error that ended a command.

    Args:
        error: The error.
        running: Whether a run had begun: what a body raises is a failure of its asset, whatever its type.
    """
    match error:
        case DefinitionError() if not running:
            return exit_code.DEFINITION
        case ConfigError() | AssetNotFound() | RunNotFound() | GateNotFound() if not running:
            return exit_code.USAGE
        case TimedOut():
            return exit_code.TIMED_OUT
        case Cancelled():
            return exit_code.CANCELLED
        case StoreUnavailable():
            return exit_code.STORE_UNREACHABLE
        case _:
            return exit_code.FAILED


def tell(output: Output, error: FlowstoneError, *, verbose: bool) -> None:
    """Say what went wrong: message, causes and hint, and with `verbose` the traceback of the body."""
    for each in (error, *error.also):
        text = "\n".join([each.message, *(f"  because {cause}" for cause in _causes(each))])
        output.fail(text, _hint(each))
        trace = next((found.traceback_text for found in _library_errors(each) if found.traceback_text), None)
        if trace is not None:
            output.say(trace.rstrip() if verbose else "  --verbose shows the traceback.")


def _hint(error: FlowstoneError) -> str | None:
    """Return the way forward, in words of the command line where the library's own are those of Python."""
    match error:
        case NotMaterialized():
            return "Compute it first, with flowstone run."
        case DependencyNotReady():
            return _compute_first(error)
        case TimedOut(asset=None):
            return "Give it more time: --timeout 1h, or none; what was committed is kept and reused."
        case _:
            return error.hint


def _compute_first(error: DependencyNotReady) -> str | None:
    missing, external = (list(map(str, _items(error.details.get(each)))) for each in ("missing", "external"))
    ways: list[str] = []
    if len(missing) > len(external):
        ways.append("Compute them first, or leave --no-deps out.")
    if external:
        ways.append(f"Of another pipeline, and so computed only there, on the same store: {', '.join(external)}.")
    return " ".join(ways) or error.hint


def _items(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def first_line(error: FlowstoneError) -> str:
    """Return an error on one line."""
    return error.message.split("\n", 1)[0]


def _causes(error: FlowstoneError) -> Iterator[str]:
    """Yield what the library's errors behind an error say that was not said yet."""
    said = error.message
    for cause in _chain(error):
        if isinstance(cause, FlowstoneError) and cause.message not in said:
            said = cause.message
            yield said


def _library_errors(error: FlowstoneError) -> Iterator[ExecutionError]:
    for each in (error, *_chain(error)):
        if isinstance(each, ExecutionError):
            yield each


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__
    for _ in range(_CHAIN):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__
