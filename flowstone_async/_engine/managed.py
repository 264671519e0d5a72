"""Calls of I/O managers, which may be anybody's: what they raise of their own becomes a `StorageError` (`STORE-11`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

from typing_extensions import override

from flowstone_async.errors import FlowstoneError, StorageError
from flowstone_async.io.base import IOManager, Stored, ValueRef

Hide: TypeAlias = Callable[[str], str]
"""Hides the secrets in what is told of an error."""


async def store(manager: IOManager, ref: ValueRef, value: Any, hide: Hide) -> Stored:
    """Store a value, or the items of a stream; what the stream itself raises passes through."""
    source = _Source(value) if ref.stream else None
    try:
        return await manager.store(ref, value if source is None else source)
    except Exception as error:
        if source is not None and source.raised is not None:
            raise source.raised from None
        if isinstance(error, FlowstoneError):
            raise
        raise _failed(manager, "store", ref, hide, error) from error


async def load(manager: IOManager, ref: ValueRef, wanted: object, hide: Hide) -> Any:
    """Load a value."""
    try:
        return await manager.load(ref, wanted)
    except FlowstoneError:
        raise
    except Exception as error:
        raise _failed(manager, "load", ref, hide, error) from error


async def delete(manager: IOManager, ref: ValueRef, hide: Hide) -> None:
    """Delete a value."""
    try:
        await manager.delete(ref)
    except FlowstoneError:
        raise
    except Exception as error:
        raise _failed(manager, "delete", ref, hide, error) from error


async def publish(manager: IOManager, ref: ValueRef, hide: Hide) -> None:
    """Show what is current now, where a manager does that."""
    show = getattr(manager, "publish", None)
    if show is None:
        return
    try:
        await show(ref)
    except FlowstoneError:
        raise
    except Exception as error:
        raise _failed(manager, "publish", ref, hide, error) from error


def _failed(manager: IOManager, verb: str, ref: ValueRef, hide: Hide, error: Exception) -> StorageError:
    text = hide(f"{type(error).__name__}: {error}".rstrip(": "))
    return StorageError(
        f"{manager.name} could not {verb} {ref.key}: {text}",
        asset=ref.key.asset,
        partition=ref.partition,
        run_id=ref.run_id or None,
        retryable=isinstance(error, OSError),
    )


class _Source(AsyncIterator[Any]):
    """The items of a stream, and what iterating them raised."""

    def __init__(self, items: AsyncIterator[Any]) -> None:
        self._next = items.__anext__
        self.raised: BaseException | None = None

    @override
    async def __anext__(self) -> Any:
        try:
            return await self._next()
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self.raised = error
            raise
