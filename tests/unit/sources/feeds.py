"""Sources that tests read, and reading them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from flowstone_async.clock import ManualClock
from flowstone_async.retry import Retry
from flowstone_async.sources import Page, Source
from flowstone_async.sources.reading import ReadPage, read_pages


class Feed(Source[Any]):
    """Gives prepared pages; the cursor of each is its number. It notes what is done to it in `log`.

    Args:
        pages: Items of each page.
        fail: Page number -> errors to raise, one a time, before the page is given.
        last: Whether the last page says that it is.
    """

    def __init__(
        self, *pages: Sequence[Any], fail: dict[int, list[BaseException]] | None = None, last: bool = False
    ) -> None:
        self.pages, self.fail, self.says_last = pages, fail or {}, last
        self.log: list[str] = []

    async def open(self) -> None:
        self.log.append("open")

    async def close(self) -> None:
        self.log.append("close")

    async def read(self, cursor: int | None) -> AsyncIterator[Page[Any]]:
        self.log.append(f"read {cursor}")
        try:
            for number in range(cursor or 0, len(self.pages)):
                await asyncio.sleep(0)
                if self.fail.get(number):
                    raise self.fail[number].pop(0)
                self.log.append(f"page {number}")
                yield Page(self.pages[number], number + 1, last=self.says_last and number + 1 == len(self.pages))
        finally:
            self.log.append("finally")


class Moving(ManualClock):
    """A clock on which every sleep is over at once; `slept` has their lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, delay: float) -> None:
        self.slept.append(delay)
        await self.advance(delay)


AT_ONCE = Retry(3, backoff="none")


async def read_all(
    source: Source[Any], token: object = None, *, pages: int | None = None, **options: Any
) -> list[ReadPage[Any]]:
    """Read a source to its end, or so many pages of it."""
    read: list[ReadPage[Any]] = []
    async with aclosing(read_pages(source, token, **options)) as reading:
        async for page in reading:
            read.append(page)
            if len(read) == pages:
                break
    return read


def items_of(pages: Sequence[ReadPage[Any]]) -> list[Any]:
    """The items of pages, in order."""
    return [item for page in pages for item in page.items]
