"""Reading page by page: sizes, ends, limits, retries, time limits, and going on where it stopped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.clock import ManualClock, settle
from flowstone_async.errors import ConfigError, FlowstoneError, SourceError, TimedOut
from flowstone_async.failures import describe, rebuild
from flowstone_async.retry import Retry
from flowstone_async.sources import Page, Source
from flowstone_async.sources.reading import read_pages
from tests.unit.sources.feeds import AT_ONCE, Feed, Moving, items_of, read_all


async def test_pages_come_with_the_place_behind_them() -> None:
    """READ-01, READ-07."""
    pages = await read_all(Feed([1, 2], [3]))
    assert [(page.items, page.position, page.last) for page in pages] == [
        ((1, 2), 0, False),
        ((3,), 2, False),
        ((), 3, True),
    ]
    assert pages[1].token == {"cursor": 2, "taken": 3}


async def test_nothing_is_read_before_it_is_asked_for() -> None:
    """READ-02: reading ahead is the engine's business."""
    feed = Feed([1], [2], [3])
    async with aclosing(read_pages(feed)) as reading:
        await settle()
        assert feed.log == []
        await anext(reading)
        await settle()
        assert feed.log == ["open", "read None", "page 0"]
        await anext(reading)
        assert feed.log[-1] == "page 1"


async def test_a_page_that_is_too_big_is_cut_and_its_cursor_waits() -> None:
    """READ-03."""
    pages = await read_all(Feed(range(5), [5]), page_size=2)
    assert [page.items for page in pages] == [(0, 1), (2, 3), (4,), (5,), ()]
    assert [page.token for page in pages[:3]] == [
        {"skip": 2, "taken": 2},
        {"skip": 4, "taken": 4},
        {"cursor": 1, "taken": 5},
    ]


async def test_the_page_size_is_a_thousand() -> None:
    """READ-03."""
    pages = await read_all(Feed(range(2500)))
    assert [len(page.items) for page in pages] == [1000, 1000, 500, 0]


async def test_the_smaller_of_page_size_and_cap_is_read() -> None:
    """READ-03."""

    class Capped(Source[int]):
        page_cap = 3

        def __init__(self) -> None:
            self.asked: list[int] = []

        async def read_sized(self, cursor: int | None, page_size: int) -> AsyncIterator[Page[int]]:
            self.asked.append(page_size)
            yield Page(range(page_size), last=True)

    source = Capped()
    assert len(items_of(await read_all(source, page_size=1000))) == 3
    assert len(items_of(await read_all(source, page_size=2))) == 2
    assert source.asked == [3, 2]


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "10"])
async def test_a_page_size_below_one_is_refused(size: Any) -> None:
    """READ-03."""
    feed = Feed([1])
    with pytest.raises(ConfigError, match="page_size"):
        await anext(read_pages(feed, page_size=size))
    assert feed.log == []


async def test_a_page_without_items_ends_nothing() -> None:
    """READ-05: and its cursor is told, so that it need not be read again."""
    pages = await read_all(Feed([], [1], [], [], [2], []))
    assert items_of(pages) == [1, 2]
    assert [page.last for page in pages] == [False] * 6 + [True]
    assert pages[0].token == {"cursor": 1}


async def test_the_items_of_a_page_that_is_the_last_are_read_and_nothing_behind_it() -> None:
    """READ-05."""

    class Chatty(Feed):
        async def read(self, cursor: int | None) -> AsyncIterator[Page[int]]:
            yield Page([1, 2], 1, last=True)
            raise AssertionError("asked for more than the last page")

    (page,) = await read_all(Chatty())
    assert (page.items, page.last) == ((1, 2), True)


async def test_a_last_page_that_is_cut_is_last_only_in_its_last_piece() -> None:
    """READ-03, READ-05."""
    pages = await read_all(Feed([1, 2, 3], last=True), page_size=2)
    assert [(page.items, page.last) for page in pages] == [((1, 2), False), ((3,), True)]


async def test_behind_the_last_page_there_is_nothing() -> None:
    """READ-05, READ-07: a restart after the end reads nothing again."""
    feed = Feed([1], last=True)
    (page,) = await read_all(feed)
    feed.log.clear()
    (again,) = await read_all(feed, page.token)
    assert (again.items, again.last, again.position) == ((), True, 1)
    assert feed.log == []


@pytest.mark.parametrize(("limit", "expected"), [(1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (9, list(range(5)))])
async def test_max_items_caps_the_items_of_all_pages(limit: int, expected: list[int]) -> None:
    """READ-06: the surplus of the last page is dropped."""
    feed = Feed([0, 1], [], [2, 3], [4])
    feed.max_items = limit
    pages = await read_all(feed)
    assert items_of(pages) == expected
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    assert feed.log[-2:] == ["finally", "close"]


@given(
    sizes=st.lists(st.integers(0, 7), max_size=6),
    page_size=st.integers(1, 5),
    limit=st.one_of(st.just(False), st.integers(1, 20)),
    stops=st.lists(st.integers(1, 3), max_size=12),
    with_cursors=st.booleans(),
)
async def test_stopped_after_any_page_it_goes_on_with_the_next_item(
    sizes: list[int], page_size: int, limit: int, stops: list[int], with_cursors: bool
) -> None:
    """READ-03, READ-05, READ-06, READ-07: whatever the pages, and however often it is stopped."""
    numbers = iter(range(100))
    feed = Feed(*[[next(numbers) for _ in range(size)] for size in sizes])
    feed.max_items = limit
    if not with_cursors:
        feed = _without_cursors(feed)
    whole = items_of(await read_all(feed, page_size=page_size))
    assert whole == list(range(sum(sizes)))[: limit or None]
    token: object = None
    found: list[int] = []
    for stop in [*stops, None]:
        pages = await read_all(feed, token, pages=stop, page_size=page_size)
        assert pages[0].position == len(found)
        found += items_of(pages)
        token = json.loads(json.dumps(pages[-1].token))
    assert found == whole


def _without_cursors(feed: Feed) -> Feed:
    class Silent(Feed):
        async def read(self, cursor: int | None) -> AsyncIterator[Page[Any]]:
            assert cursor is None
            async for page in super().read(cursor):
                yield Page(page.items)

    silent = Silent(*feed.pages)
    silent.max_items = feed.max_items
    return silent


async def test_a_restart_with_another_page_size_repeats_nothing() -> None:
    """READ-03, READ-07: the token counts items, not pieces."""
    feed = Feed(range(10), range(10, 13))
    first = await read_all(feed, page_size=4, pages=2)
    rest = await read_all(feed, first[-1].token, page_size=3)
    assert items_of(first) + items_of(rest) == list(range(13))


async def test_a_restart_may_meet_smaller_pages_of_the_source_than_were_cut() -> None:
    """READ-03, READ-07: what was delivered is left out over all of them, wherever it is stopped again."""

    class Sized(Source[int]):
        step = 10

        async def read_sized(self, cursor: int | None, page_size: int) -> AsyncIterator[Page[int]]:
            step = self.step
            for begin in range(cursor or 0, 20, step):
                yield Page(range(begin, begin + step), begin + step)

    source = Sized()
    found = items_of(await read_all(source, page_size=4, pages=2))
    token: object = {"skip": 8, "taken": 8}
    source.step = 2
    for _ in range(30):
        (page,) = await read_all(source, token, page_size=4, pages=1)
        found += page.items
        token = page.token
    assert found == list(range(20))


@pytest.mark.parametrize(
    "token", [3, "a", [], {"cursor": 1, "more": 2}, {"skip": -1}, {"taken": "1"}, {"ended": 1}, {"cursor": (1, 2)}]
)
async def test_a_token_that_no_page_has_is_refused(token: object) -> None:
    """READ-07."""
    with pytest.raises(ConfigError):
        await read_all(Feed([1]), token)


async def test_an_error_is_retried_from_the_last_cursor() -> None:
    """READ-09: each try opens the source anew, and closes it."""
    feed = Feed([1], [2], [3], fail={1: [OSError("away"), OSError("still")]})
    feed.read_retry = AT_ONCE
    assert items_of(await read_all(feed)) == [1, 2, 3]
    assert feed.log == [
        *("open", "read None", "page 0", "finally", "close"),
        *("open", "read 1", "finally", "close"),
        *("open", "read 1", "page 1", "page 2", "finally", "close"),
    ]


async def test_an_error_within_a_page_that_was_cut_is_retried_behind_what_was_delivered() -> None:
    """READ-03, READ-09."""

    class Shaky(Source[int]):
        read_retry = AT_ONCE
        failed = False

        async def read(self, cursor: object) -> AsyncIterator[Page[int]]:
            yield Page([1, 2, 3])
            if not self.failed:
                Shaky.failed = True
                raise OSError("away")
            yield Page([4])

    assert items_of(await read_all(Shaky(), page_size=2)) == [1, 2, 3, 4]


async def test_the_waits_are_those_of_the_policy_and_start_again_after_a_page() -> None:
    """READ-09: attempts are counted for a place, not for the whole reading."""
    clock = Moving()
    feed = Feed([1], [2], fail={0: [OSError(), OSError()], 1: [OSError(), OSError()]})
    feed.read_retry = Retry(3, jitter=False)
    assert items_of(await read_all(feed, clock=clock)) == [1, 2]
    assert clock.slept == [1, 2, 1, 2]


async def test_the_third_error_in_a_row_is_a_source_error() -> None:
    """READ-09, ERR-03: it says source, cursor and cause, and may be retried by resuming the run."""
    cause = OSError("away")
    feed = Feed([1], [2], fail={1: [OSError(), OSError(), cause]})
    feed.read_retry = AT_ONCE
    read: list[Any] = []
    with pytest.raises(SourceError, match="Feed cannot be read behind cursor 1: OSError: away") as raised:
        async with aclosing(read_pages(feed)) as reading:
            async for page in reading:
                read.append(page)  # noqa: PERF401 - what came before the error counts
    error = raised.value
    assert error.details == {"source": "Feed", "cursor": 1, "cause": "OSError: away"}
    assert error.__cause__ is cause
    assert (error.code, error.retryable) == ("SOURCE", True)
    assert items_of(await read_all(feed, read[-1].token)) == [2]
    again = rebuild(describe(error))
    assert (type(again), again.details, again.retryable) == (SourceError, error.details, True)


async def test_an_error_that_is_never_got_over_ends_the_reading() -> None:
    """READ-09: also where the tries before it brought pages again."""

    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise OSError("away")

    from flowstone_async.sources.iterated import Generated

    source = Generated(numbers)
    source.read_retry = AT_ONCE
    for by_position in (False, True):
        with pytest.raises(SourceError):
            await read_all(source, page_size=1, by_position=by_position)


@pytest.mark.parametrize("retry", [False, Retry(1), Retry(5, on=KeyError), Retry(5, when=lambda _: False)])
async def test_a_policy_may_forbid_retries(retry: Any) -> None:
    """READ-09."""
    feed = Feed([1], fail={0: [OSError("away")]})
    feed.read_retry = retry
    with pytest.raises(SourceError):
        await read_all(feed)
    assert feed.log.count("open") == 1


async def test_an_error_of_the_library_that_is_not_retryable_is_told_at_once() -> None:
    """READ-09, ERR-03."""
    feed = Feed([1], fail={0: [FlowstoneError("hopeless")]})
    with pytest.raises(SourceError) as raised:
        await read_all(feed)
    assert not raised.value.retryable
    assert feed.log.count("open") == 1


async def test_a_source_error_of_the_source_itself_is_completed() -> None:
    """READ-09."""
    feed = Feed([1], fail={0: [SourceError("my words", details={"source": "mine"}, retryable=False)]})
    with pytest.raises(SourceError, match="my words") as raised:
        await read_all(feed)
    assert raised.value.details == {"source": "mine", "cursor": None, "cause": "SourceError: my words"}
    assert raised.value.__cause__ is None


async def test_an_option_that_turns_out_wrong_stays_a_config_error() -> None:
    """READ-13, ERR-04."""
    feed = Feed([1], fail={0: [ConfigError("no such column")]})
    with pytest.raises(ConfigError, match="no such column"):
        await read_all(feed)
    assert feed.log == ["open", "read None", "finally", "close"]


async def test_an_open_that_fails_is_retried_and_closed() -> None:
    """READ-01, READ-09."""

    class Shy(Feed):
        async def open(self) -> None:
            await super().open()
            if self.log.count("open") < 3:
                raise OSError("not yet")

    feed = Shy([1])
    feed.read_retry = AT_ONCE
    assert items_of(await read_all(feed)) == [1]
    assert feed.log[:4] == ["open", "close", "open", "close"]


class Slow(Feed):
    """Hangs on page 1 for as often as `hangs` says."""

    hangs = 1

    async def read(self, cursor: int | None) -> AsyncIterator[Page[Any]]:
        async for page in super().read(cursor):
            if page.cursor == 2 and self.hangs:
                self.hangs -= 1
                try:
                    await asyncio.Event().wait()
                finally:
                    self.log.append("cut off")
            yield page


async def test_a_page_that_takes_too_long_is_an_error() -> None:
    """READ-09: the time counts for each page, from when it is asked for."""
    clock, feed = ManualClock(), Slow([1], [2], [3])
    feed.read_retry = AT_ONCE
    async with aclosing(read_pages(feed, clock=clock)) as reading:
        await anext(reading)
        await clock.advance(1000)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(anext(reading))
            await settle()
            await clock.advance(299)
            assert "cut off" not in feed.log
            await clock.advance(1)
        assert task.result().items == (2,)
    assert feed.log.count("cut off") == 1


async def test_a_page_that_comes_at_the_last_moment_is_in_time() -> None:
    """READ-09: nor is the next one too late then."""
    gate = asyncio.Event()
    due: list[Any] = []

    class Punctual(ManualClock):
        def call_later(self, delay: float, callback: Any) -> Any:
            due.append(callback)
            return super().call_later(delay, callback)

    class Gated(Feed):
        async def read(self, cursor: int | None) -> AsyncIterator[Page[Any]]:
            await gate.wait()
            yield Page([1], 1)
            yield Page([2], 2)

    async with aclosing(read_pages(Gated(), clock=Punctual())) as reading:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(anext(reading))
            await settle()
            gate.set()
            await asyncio.sleep(0)  # the page is there, and was not taken yet
            assert not task.done()
            due[0]()
        assert task.result().items == (1,)
        assert (await anext(reading)).items == (2,)


async def test_too_slow_too_often_is_a_source_error() -> None:
    """READ-09."""
    clock, feed = ManualClock(), Slow([1], [2])
    feed.read_retry, feed.read_timeout = False, "10s"
    async with aclosing(read_pages(feed, clock=clock)) as reading:
        await anext(reading)
        async with asyncio.TaskGroup() as group:
            group.create_task(clock.advance(10))
            with pytest.raises(SourceError, match="a page took longer than read_timeout='10s'") as raised:
                await anext(reading)
    assert isinstance(raised.value.__cause__, TimedOut)
    assert feed.log.index("cut off") < feed.log.index("close")


async def test_without_a_limit_a_page_takes_its_time() -> None:
    """READ-09."""
    clock, feed = ManualClock(), Slow([1], [2])
    feed.read_timeout = False
    async with aclosing(read_pages(feed, clock=clock)) as reading:
        await anext(reading)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(anext(reading))
            await settle()
            await clock.advance(1e9)
            assert not task.done()
            task.cancel()


async def test_a_source_that_cancels_itself_has_failed() -> None:
    """READ-09: the reader is not taken to be cancelled."""
    feed = Feed([1], fail={0: [asyncio.CancelledError()]})
    feed.read_retry = False
    with pytest.raises(SourceError, match="CancelledError, although nobody cancelled it"):
        await read_all(feed)
