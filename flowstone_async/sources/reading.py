"""Reading a source page by page: retries, cutting, counting, and closing whatever happens.

`read_pages` is the loop over `_Reading`, which knows the place; `attempt.py` runs the source's own code.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from flowstone_async.clock import Clock, SystemClock
from flowstone_async.config import whole
from flowstone_async.errors import ConfigError, FlowstoneError, SourceError
from flowstone_async.sources.attempt import Attempt
from flowstone_async.sources.place import Place
from flowstone_async.sources.source import BadRow, Page, Source

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

PAGE_SIZE = 1000
_HINT = "What was read is kept: retry the run (`engine.retry`, `flowstone retry`), and it goes on at that cursor."


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPage(Generic[T_co]):
    """Items to record together, with the place behind them.

    Attributes:
        items: At most `page_size` items; a `BadRow` stands for each that could not be made.
        token: What to give to `read_pages` to go on behind this page; JSON-compatible.
        last: Whether nothing comes behind this page. True for exactly one page, which may have no items.
        position: Position of the first item among the items of the source, from 0.
    """

    items: tuple[T_co | BadRow, ...]
    token: dict[str, object]
    last: bool
    position: int


async def read_pages(
    source: Source[T],
    token: object = None,
    *,
    page_size: int = PAGE_SIZE,
    by_position: bool = False,
    clock: Clock | None = None,
) -> AsyncGenerator[ReadPage[T], None]:
    """Read a source page by page; use it with `contextlib.aclosing`. Nothing is read before it is asked for.

    The source is closed before the last page is given, and however else this generator is left.

    Args:
        source: What to read; its options are resolved.
        token: The token of the last page that was recorded; None to begin.
        page_size: The most items in a page, at least 1.
        by_position: What to do with a source that is not `resumable`, when a token is given and when reading is tried
            again: drop as many items as were delivered. Otherwise all are delivered again, from position 0, and the
            keys of the items decide what is new.
        clock: Where the time for `read_timeout` and between retries comes from.

    Raises:
        ConfigError: An option is wrong, or what is read does not go with it.
        SourceError: Reading failed as often as `read_retry` allows.
    """
    size = whole(page_size, what="page_size")
    refuse(source)
    reading = _Reading(source, Place.restored(token), size, by_position=by_position, clock=clock or SystemClock())
    try:
        while not reading.over:
            page = await reading.page()
            for each in reading.cut(page):
                if each.last:
                    await reading.end()
                yield each
    finally:
        await reading.end()


def refuse(source: Source[Any]) -> None:
    """Refuse a source whose options are wrong.

    Raises:
        ConfigError: Naming all that is wrong.
    """
    problems = list(source.problems())
    if problems:
        raise ConfigError(f"{source.label}: {'; '.join(problems)}", details={"source": source.label})


class _Reading(Generic[T]):
    """One call of `read_pages`.

    Attributes:
        over: Whether the last page was made.
    """

    def __init__(self, source: Source[T], place: Place, size: int, *, by_position: bool, clock: Clock) -> None:
        self._source = source
        self._size = min(size, source.page_cap or size)
        self._redelivers = not source.resumable and not by_position
        self._clock = clock
        self._place = Place() if self._redelivers and not place.ended else place
        self._most = self._place.taken
        self._drop = 0
        self._failures = 0
        self._attempt: Attempt | None = None
        self.over = False

    async def page(self) -> Page[T]:
        """Return the next page of the source; one without items that is the last where the source ends."""
        if self._is_full() or self._place.ended:
            return Page((), last=True)
        while True:
            try:
                return await self._next() or Page((), last=True)
            except Exception as error:  # reading a source is user code
                await self.end()
                self._failures += 1
                retry = self._source.read_retry
                if retry is False or not retry.again(error, self._failures):
                    if isinstance(error, ConfigError):
                        raise
                    raise self._failed(error) from _cause(error)
                wait = retry.wait(self._failures)
            if self._redelivers:
                self._place = Place()
            await self._clock.sleep(wait)

    async def _next(self) -> Page[T] | None:
        if self._attempt is None:
            self._attempt = Attempt(self._source, self._place.cursor, self._size, self._clock)
            self._drop = self._place.skip
        return await self._attempt.page()

    def _is_full(self) -> bool:
        limit = self._source.max_items
        return limit is not False and self._place.taken >= limit

    def cut(self, page: Page[T]) -> Iterator[ReadPage[T]]:
        """Yield a page of the source in pieces, moving the place behind each."""
        before, items = self._place, page.items[self._drop :]
        self._drop -= len(page.items) - len(items)
        limit = self._source.max_items
        if limit is not False:
            items = items[: max(0, limit - before.taken)]
        *pieces, last = [items[at : at + self._size] for at in range(0, len(items), self._size)] or [items]
        for piece in pieces:
            self._deliver(piece)
            yield self._made(piece)
        self._deliver(last)
        if page.cursor is not None:
            self._place = replace(self._place, cursor=page.cursor, skip=self._drop)
        self.over = page.last or self._is_full()
        self._place = replace(self._place, ended=self.over)
        if self._place.taken > self._most or self._place.cursor != before.cursor:  # further than any try before
            self._failures, self._most = 0, max(self._most, self._place.taken)
        if last or self.over or self._place != before:
            yield self._made(last)

    def _deliver(self, items: Sequence[T]) -> None:
        count = len(items)
        self._place = replace(self._place, skip=self._place.skip + count, taken=self._place.taken + count)

    def _made(self, items: Sequence[T | BadRow]) -> ReadPage[T]:
        position = self._place.taken - len(items)
        if any(type(item) is BadRow for item in items):
            items = [
                replace(item, position=place) if isinstance(item, BadRow) else item
                for place, item in enumerate(items, start=position)
            ]
        return ReadPage(items=tuple(items), token=self._place.stored(), last=self.over, position=position)

    def _failed(self, error: Exception) -> SourceError:
        cause = f"{type(error).__name__}: {error}"
        details = {"source": self._source.label, "cursor": self._place.cursor, "cause": cause}
        if isinstance(error, SourceError):
            error.details = {**details, **error.details}
            return error
        message = f"{self._source.label} cannot be read behind cursor {self._place.cursor!r}: {cause}"
        retryable = error.retryable if isinstance(error, FlowstoneError) else None
        return SourceError(message, details=details, hint=_HINT, retryable=retryable)

    async def end(self) -> None:
        """Close the source, unless that was done."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            await attempt.end()


def _cause(error: Exception) -> BaseException | None:
    return error.__cause__ if isinstance(error, SourceError) else error
