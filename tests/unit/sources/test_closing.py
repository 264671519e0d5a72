"""However a reading ends, its source is closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

import anyio
import pytest

from flowstone_async.clock import settle
from flowstone_async.errors import SourceError
from flowstone_async.sources import Page, Source, attempt
from flowstone_async.sources.iterated import Generated
from flowstone_async.sources.reading import read_pages
from tests.unit.sources.feeds import Feed, read_all


class Thorough(Source[int]):
    """Awaits in every part of its life, and notes what it got done."""

    read_retry = False

    def __init__(self) -> None:
        self.log: list[str] = []

    async def _rest(self, times: int = 3) -> None:
        for _ in range(times):
            await asyncio.sleep(0)

    async def open(self) -> None:
        self.log.append("open")
        await self._rest()

    async def read(self, cursor: object) -> AsyncIterator[Page[int]]:
        self.log.append("read")
        try:
            for number in range(3):
                await self._rest()
                yield Page([number], number)
        finally:
            try:
                await self._rest()
            finally:  # whoever ends by itself may be cancelled here, once
                self.log.append("released")

    async def close(self) -> None:
        await self._rest()
        self.log.append("closed")


async def _native(work: Callable[[], Coroutine[Any, Any, None]], turns: int) -> None:
    """Cancel `work` after some turns of the loop."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()


async def _level(work: Callable[[], Coroutine[Any, Any, None]], turns: int) -> None:
    """The same with anyio's cancellation, which comes again at every await."""
    async with anyio.create_task_group() as group:
        group.start_soon(work)
        for _ in range(turns):
            await asyncio.sleep(0)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("cancel", [_native, _level])
@pytest.mark.parametrize("turns", range(60))
async def test_cancelled_at_any_await_it_is_closed(cancel: Any, turns: int) -> None:
    """READ-01: the `finally` of a generator that began and `close` of a source that was opened run to their ends."""
    source = Thorough()

    async def work() -> None:
        async with aclosing(read_pages(source)) as reading:
            async for _ in reading:
                await asyncio.sleep(0)

    await cancel(work, turns)
    if "open" in source.log:
        assert source.log[-1] == "closed"
        assert source.log.count("closed") == 1
    assert ("read" in source.log) == ("released" in source.log)


async def test_the_cancellations_above_met_every_part() -> None:
    """The same work takes fewer turns than were tried, or nothing was shown."""
    source = Thorough()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(count())
        await read_all(source)
        counting.cancel()
    assert 20 < turns < 60


async def test_it_is_closed_before_the_last_page_is_given() -> None:
    """READ-01: so that the asset can end with it."""
    for last in (False, True):
        feed = Feed([1], last=last)
        async with aclosing(read_pages(feed)) as reading:
            async for page in reading:
                assert (feed.log[-2:] == ["finally", "close"]) == page.last


async def test_leaving_early_closes_it_without_a_cancellation() -> None:
    """READ-01: a source that waits to be asked sees its generator closed, as by `aclosing`."""
    seen: list[BaseException] = []

    class Watching(Feed):
        async def read(self, cursor: int | None) -> AsyncIterator[Page[Any]]:
            try:
                yield Page([1])
            except BaseException as error:
                seen.append(error)
                raise

    await read_all(Watching(), pages=1)
    assert [type(error) for error in seen] == [GeneratorExit]


async def test_a_reading_that_never_began_opened_nothing() -> None:
    """READ-01."""
    feed = Feed([1])
    reading = read_pages(feed)
    await reading.aclose()
    assert feed.log == []


async def test_a_generator_that_is_given_up_is_finished() -> None:
    """READ-01: an async generator function as a source."""
    log: list[str] = []

    async def endless() -> AsyncGenerator[int, None]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            await asyncio.sleep(0)
            log.append("finally")

    await read_all(Generated(endless), pages=2, page_size=3)
    assert log == ["finally"]


async def test_an_error_while_closing_takes_nothing_from_what_was_read(caplog: pytest.LogCaptureFixture) -> None:
    """READ-01: it is logged."""

    class Clumsy(Feed):
        async def close(self) -> None:
            raise OSError("door stuck")

    with caplog.at_level(logging.WARNING, logger="flowstone"):
        pages = await read_all(Clumsy([1]))
    assert pages[0].items == (1,)
    assert "door stuck" in caplog.text


async def test_an_error_in_the_finally_of_read_does_not_keep_it_from_being_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """READ-01."""

    class Clumsy(Feed):
        async def read(self, cursor: int | None) -> AsyncIterator[Page[Any]]:
            try:
                yield Page([1], 1, last=True)
            finally:
                raise OSError("spilled")

    feed = Clumsy()
    with caplog.at_level(logging.WARNING, logger="flowstone"):
        (page,) = await read_all(feed)
    assert page.last
    assert "spilled" in caplog.text
    assert feed.log == ["open", "close"]


async def test_the_error_of_reading_is_told_and_not_that_of_closing() -> None:
    """READ-09."""

    class Clumsy(Feed):
        async def close(self) -> None:
            raise OSError("door stuck")

    feed = Clumsy([1], fail={0: [OSError("away")]})
    feed.read_retry = False
    with pytest.raises(SourceError, match="away"):
        await read_all(feed)


async def test_a_close_that_hangs_is_cut_off(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """READ-01: closing is bounded."""
    monkeypatch.setattr(attempt, "CLOSE_LIMIT", 0.01)

    class Stuck(Feed):
        async def close(self) -> None:
            await asyncio.Event().wait()

    with caplog.at_level(logging.WARNING, logger="flowstone"):
        pages = await read_all(Stuck([1]))
    assert pages[-1].last
    assert "TimeoutError" in caplog.text


async def test_a_source_that_does_not_let_itself_be_cancelled_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """READ-01: nobody waits for it for ever."""
    monkeypatch.setattr(attempt, "CLOSE_LIMIT", 0.01)
    free = asyncio.Event()

    class Stubborn(Feed):
        async def read(self, cursor: int | None) -> AsyncIterator[Page[Any]]:
            yield Page([1], 1)
            while not free.is_set():
                with suppress(asyncio.CancelledError):
                    await free.wait()

    feed = Stubborn()
    with caplog.at_level(logging.WARNING, logger="flowstone"):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(read_all(feed))
            await settle()
            task.cancel()
    assert "is left alone" in caplog.text
    free.set()
    await settle()
    assert feed.log == ["open", "close"]


async def test_scopes_that_stay_open_over_pages_are_left_in_the_task_that_entered_them() -> None:
    """READ-01: open, read and close run in one task, whoever asks for pages and from where."""

    class Scoped(Source[int]):
        async def open(self) -> None:
            self.scope = anyio.create_task_group()
            await self.scope.__aenter__()

        async def read(self, cursor: object) -> AsyncIterator[Page[int]]:
            async with asyncio.timeout(60), anyio.create_task_group():
                for number in range(3):
                    yield Page([number], number)

        async def close(self) -> None:
            await self.scope.__aexit__(None, None, None)

    reading = read_pages(Scoped())
    async with asyncio.TaskGroup() as group:
        first = await group.create_task(anext(reading))
    assert first.items == (0,)
    with anyio.CancelScope():
        assert (await anext(reading)).items == (1,)
    await reading.aclose()
