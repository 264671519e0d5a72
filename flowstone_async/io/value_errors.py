"""Storage errors that say whose value they are about: asset, partition and run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowstone_async.errors import StorageError
from flowstone_async.io.base import ValueRef

_AGAIN = "Run the asset with force=True to compute it again."


def storage_error(
    ref: ValueRef,
    message: str,
    *,
    hint: str | None = None,
    retryable: bool = False,
    details: Mapping[str, object] | None = None,
) -> StorageError:
    """Return an error about a value."""
    return StorageError(
        f"asset {str(ref.key)!r}: {message}",
        asset=ref.key.asset,
        partition=ref.partition,
        run_id=ref.run_id,
        details=details,
        hint=hint,
        retryable=retryable,
    )


def whose(ref: ValueRef, error: StorageError, *, item: int | None = None) -> StorageError:
    """Return a codec's error with the asset, partition and run that it concerns, and the index of a stream's item."""
    if error.asset is not None:
        return error
    if item is None:
        return storage_error(ref, error.message, hint=error.hint, details=error.details)
    message = error.message.replace("the value", f"item {item}", 1)
    return storage_error(ref, message, hint=error.hint, details={**error.details, "item": item})


def missing(ref: ValueRef, where: str) -> StorageError:
    """Return the error of a value whose bytes are gone from `where`."""
    message = f"its stored value is missing from {where}"
    return storage_error(ref, message, hint=_AGAIN, details={"location": where})


def damaged(ref: ValueRef, where: str, problem: str) -> StorageError:
    """Return the error of a value whose bytes at `where` are not those that were stored."""
    message = f"its stored value is damaged in {where}: {problem}"
    return storage_error(ref, message, hint=_AGAIN, details={"location": where})


def undeclared(ref: ValueRef, error: StorageError) -> bool:
    """Tell whether a value was refused only where its declared type says nothing, so that it breaks no promise."""
    return ref.type in (None, Any, object) or "no type is declared" in str(error.details.get("problem"))
