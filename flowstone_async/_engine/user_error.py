"""What user code raised, as the library's own error: facts filled in, secrets hidden, the original as its cause."""

from __future__ import annotations

import asyncio
import traceback
from reprlib import Repr

from flowstone_async.errors import Cancelled, ExecutionError, FlowstoneError
from flowstone_async.planning.units import Unit
from flowstone_async.redaction import Redactor

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def translated(
    error: BaseException, what: str, unit: Unit, *, run_id: str, attempt: int, redactor: Redactor
) -> FlowstoneError:
    """Return an error for an asset: one of the library's own as it is, with asset and partition filled in (`ERR-04`).

    Args:
        error: What was raised.
        what: The function that raised it, as the beginning of a sentence.
        unit: The asset and partition.
        run_id: The run.
        attempt: The attempt, from 1.
        redactor: Hides secrets in whatever is stored and shown of it.
    """
    if isinstance(error, FlowstoneError):
        error.asset = error.asset or unit.node.name
        error.partition = unit.partition if error.partition is None else error.partition
        error.run_id = error.run_id or run_id
        return redacted(error, redactor)
    return wrapped(error, _said(error), what, unit, run_id=run_id, attempt=attempt, redactor=redactor)


def redacted(error: FlowstoneError, redactor: Redactor) -> FlowstoneError:
    """Hide secrets in all that is stored and shown of an error, in place, and return it."""
    error.message = redactor.text(error.message)
    error.hint = None if error.hint is None else redactor.text(error.hint)
    error.details = redactor.value(error.details)
    if error.__cause__ is not None:
        error.cause_text = redactor.text(shown(error.__cause__))
    return error


def fresh(error: FlowstoneError) -> FlowstoneError:
    """Return a copy of an error for one more caller: raising it adds to no other caller's traceback."""
    kind = type(error)
    copied = kind.__new__(kind, *error.args)
    copied.__dict__.update(error.__dict__)
    copied.__cause__, copied.__suppress_context__ = error.__cause__, True
    return copied


def wrapped(
    cause: BaseException,
    text: str,
    what: str,
    unit: Unit | None,
    *,
    run_id: str | None,
    attempt: int,
    redactor: Redactor,
) -> ExecutionError:
    """Return an `ExecutionError` whose cause is an exception of the user's.

    Args:
        cause: The exception.
        text: What is said of it.
        what: As for `translated`.
        unit: The asset and partition, if it is about one.
        run_id: The run, if there is one.
        attempt: The attempt, from 1.
        redactor: As for `translated`.
    """
    error = ExecutionError(
        redactor.text(f"{what} failed: {type(cause).__name__}{f': {text}' if text else ''}"),
        asset=None if unit is None else unit.node.name,
        partition=None if unit is None else unit.partition,
        run_id=run_id,
        details={"error_type": type(cause).__qualname__},
        attempt=attempt,
        traceback_text=redactor.text("".join(traceback.format_exception(cause))),
    )
    error.cause_text = redactor.text(shown(cause))
    error.__cause__ = cause
    return error


def retold(error: BaseException, what: str, *, run_id: str | None, redactor: Redactor) -> FlowstoneError:
    """Return an error as an event tells it, secrets hidden; the error itself stays as it is.

    Args:
        error: What was raised.
        what: What was being done, as the beginning of a sentence.
        run_id: The run, if there is one.
        redactor: As for `translated`.
    """
    if isinstance(error, FlowstoneError):
        return redacted(fresh(error), redactor)
    if isinstance(error, asyncio.CancelledError):
        return Cancelled(f"{what} was cut off", run_id=run_id)
    return wrapped(error, _said(error), what, None, run_id=run_id, attempt=1, redactor=redactor)


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "it has no text that can be read"


def shown(error: BaseException) -> str:
    """Return an exception's class and text, without its traceback."""
    return "".join(traceback.format_exception_only(error)).strip()


def shown_value(value: object) -> str:
    """Return a value in few words; whatever its `repr` does."""
    return _SHORT.repr(value)
