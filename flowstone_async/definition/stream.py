"""The value of a stream asset: iterated any number of times, never held whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Generic, TypeVar, cast

from typing_extensions import override

from flowstone_async.config import whole
from flowstone_async.errors import ConfigError

T_co = TypeVar("T_co", covariant=True)


class Stream(Generic[T_co]):
    """Items that were written in chunks as they were produced, and are read back in chunks.

    Iterate it as often as you like; each iteration reads from the start.

    Example:
        >>> async for url in await pipe.run(image_urls): ...
    """

    __slots__ = ("_open",)

    def __init__(self, open_: Callable[[], AsyncIterator[T_co]]) -> None:
        self._open = open_

    def __aiter__(self) -> AsyncIterator[T_co]:
        return self._open()

    async def to_list(self, *, limit: int) -> list[T_co]:
        """Return the items as a list.

        Args:
            limit: The most items you are ready to hold in memory.

        Raises:
            ConfigError: There are more than `limit` items, or `limit` is no whole number.
        """
        whole(limit, what="limit", least=0)
        items: list[T_co] = []
        async with aclosing(cast("AsyncClosing[T_co]", self._open())) as opened:
            async for item in opened:
                if len(items) == limit:
                    raise ConfigError(
                        f"the stream has more than limit={limit} items", hint="Raise limit=, or iterate the stream."
                    )
                items.append(item)
        return items

    @override
    def __repr__(self) -> str:
        return "<Stream>"


class AsyncClosing(AsyncIterator[T_co]):
    """An async iterator that can be closed, as an async generator can."""

    async def aclose(self) -> None:
        """Run the generator's `finally` blocks."""
