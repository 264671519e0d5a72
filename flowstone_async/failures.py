"""Errors as they are stored, and back: the same type, code, message and text in another process.

Nothing is imported by name: an error comes back as one of the library's own types, with the class name and text of a
foreign one kept.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from typing import Any, cast

from flowstone_async import approval_errors
from flowstone_async.errors import DefinitionError, ExecutionError, Failure, FlowstoneError, Problem

ENDINGS = (SystemExit, KeyboardInterrupt, GeneratorExit)
"""What user code may raise that is no failure of its own: it ends the program, or the coroutine. Everything else is."""

_OURS = (FlowstoneError.__module__, approval_errors.__name__)


def without_endings(error: BaseException) -> BaseException | None:
    """Return what is left of an error, or of a group of them, without `ENDINGS`; None if nothing is."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    return cast("BaseExceptionGroup[BaseException]", error).split(ENDINGS)[1]


def _kinds(base: type[FlowstoneError]) -> Iterator[type[FlowstoneError]]:
    if base.__module__ in _OURS:
        yield base
        for kind in base.__subclasses__():
            yield from _kinds(kind)


def _kind(failure: Failure) -> type[FlowstoneError]:
    """Return the library's class of an error; for a subclass of the user's, the one that it was derived from."""
    kinds = [*_kinds(FlowstoneError)]
    for kind in kinds:
        if kind.__name__ == failure.type and kind.code == failure.code:
            return kind
    return next((kind for kind in kinds if kind.code == failure.code), ExecutionError)


def describe(error: FlowstoneError, *, partition: str | None = None) -> Failure:
    """Return an error as values that can be stored.

    Args:
        error: The error.
        partition: Its partition key, encoded.
    """
    cause = error.__cause__
    return Failure(
        type=type(error).__name__,
        library=True,
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        asset=error.asset,
        partition=partition,
        run_id=error.run_id,
        hint=error.hint,
        details=error.details,
        attempt=error.attempt if isinstance(error, ExecutionError) else 1,
        traceback_text=error.traceback_text if isinstance(error, ExecutionError) else "",
        cause=error.cause_text or (None if cause is None else _text(cause)),
    )


def _text(cause: BaseException) -> str:
    if isinstance(cause, RecordedError):
        return str(cause)
    return "".join(traceback.format_exception_only(cause)).strip()


def rebuild(failure: Failure, *, partition: object = None) -> FlowstoneError:
    """Return the error that `failure` describes; its cause is a text of the original one.

    Args:
        failure: What was stored.
        partition: The partition key, as a real object.
    """
    kind = _kind(failure)
    error = kind.__new__(kind)
    if isinstance(error, DefinitionError):
        error.pipeline, error.problems = str(failure.details.get("pipeline", "")), _problems(failure.details)
    FlowstoneError.__init__(
        error,
        failure.message,
        asset=failure.asset,
        partition=partition,
        run_id=failure.run_id,
        details=failure.details,
        hint=failure.hint,
        retryable=failure.retryable,
    )
    if isinstance(error, ExecutionError):
        error.attempt, error.traceback_text = failure.attempt, failure.traceback_text
    if failure.cause:
        error.__cause__ = RecordedError(failure.cause)
    return error


def _problems(details: Mapping[str, Any]) -> tuple[Problem, ...]:
    return tuple(
        Problem(
            code=str(each["code"]),
            message=str(each["message"]),
            file=str(each["location"]).rpartition(":")[0],
            line=int(str(each["location"]).rpartition(":")[2]),
        )
        for each in details.get("problems", ())
    )


class RecordedError(Exception):
    """The text of an exception that was raised in another process."""
