"""What a scatter costs in statements and tasks: counted, so that one for each item is noticed (SCAT-22)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from asyncpg import Record

from flowstone_async import Batch, Batching, Engine, Gathered, Pipeline, Rate, Retry
from flowstone_async.store.postgres import connections
from flowstone_async.store.postgres.queries import QUERIES
from tests.support.gate import Gate, soon

ITEMS, PAGE = 5000, 500
PAGES = ITEMS // PAGE
AT_ONCE = 20
NAMES = {text: name for name, text in QUERIES.items()}
# Of a scatter that is read and run at the same time, a page is flushed a few times at most: with the one before it, when
# a worker lets the loop go on, and when it ends.
FLUSHES = 6 * PAGES


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The statements that are sent, counted by name."""
    found: Counter[str] = Counter()
    send = connections.Session.fetch_text

    async def count(session: connections.Session, text: str, *arguments: object) -> list[Record]:
        found[NAMES.get(text, "advance" if "accepted" in text else "other")] += 1
        return await send(session, text, *arguments)

    monkeypatch.setattr(connections.Session, "fetch_text", count)
    return found


def tasks_made() -> list[asyncio.Task[Any]]:
    """Return a list to which each task of this loop is added from now on."""
    made: list[asyncio.Task[Any]] = []

    def make(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **more: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **more)
        made.append(task)
        return task

    asyncio.get_running_loop().set_task_factory(make)  # pyright: ignore[reportArgumentType] - the stub knows no options
    return made


def bodies(made: list[asyncio.Task[Any]]) -> int:
    return sum(" body " in task.get_name() for task in made)


async def source() -> AsyncIterator[int]:
    for no in range(ITEMS):
        yield no


@pytest.mark.not_in("evict", reason="counts statements, and more are sent where polls come often")
@pytest.mark.parametrize("results", ["packed", "rows"])
async def test_nothing_is_sent_for_an_item(dsn: str, sent: Counter[str], results: Any) -> None:
    """One transaction for a page and its cursor, and a few flushes of it; no task for an item."""
    pipe = Pipeline("counted")

    @pipe.scatter(source, page_size=PAGE, results=results)
    async def items(no: int) -> int:
        return no

    @items.gather
    async def total(results: Gathered[int]) -> int:
        return sum([value async for value in results])

    async with Engine(pipe, store=dsn, notify=False) as engine:
        sent.clear()
        made = tasks_made()
        assert await engine.run(total) == sum(range(ITEMS))
        assert sent["add_page"] - PAGES in (0, 1), "the page that ends the source may be one of its own"
        assert sent["flush"] <= FLUSHES
        assert sent["scatter_blocks"] <= PAGES + 1, "gathered a page at a time"
        assert not sent["page_added"] + sent["flushed"], "a reply that came is not asked for again"
        assert sent.total() < 2 * PAGES + FLUSHES + 50
        assert len(made) < ITEMS / 25
        assert bodies(made) < PAGES + 10


async def test_bodies_that_wait_share_tasks_and_statements(dsn: str, sent: Counter[str]) -> None:
    """As many tasks as bodies at once, each of which goes on with the next item."""
    pipe = Pipeline("counted")

    @pipe.scatter(source, page_size=PAGE, max_concurrent=AT_ONCE)
    async def items(no: int) -> int:
        await asyncio.sleep(0)
        return no

    async with Engine(pipe, store=dsn, notify=False) as engine:
        sent.clear()
        made = tasks_made()
        assert (await engine.run(items)).succeeded == ITEMS
        assert sent["add_page"] - PAGES in (0, 1)
        assert sent["flush"] < ITEMS / 10, "what ends while a flush is under way goes with the next one"
        assert bodies(made) < (AT_ONCE + 1) * (PAGES + 1), "they end when all that was read is begun"


async def test_a_task_is_for_a_body_that_runs_beside_others(dsn: str) -> None:
    """SCAT-07, SCAT-22: the first page is at hand as a whole, and no more tasks are made than bodies may run."""
    pipe, gate = Pipeline("counted"), Gate()

    @pipe.scatter(range(ITEMS), page_size=ITEMS, max_concurrent=AT_ONCE)
    async def items(no: int) -> int:
        if gate.calls < AT_ONCE:
            await gate()
        await asyncio.sleep(0)
        return no

    async with Engine(pipe, store=dsn, notify=False) as engine:
        made = tasks_made()
        running = asyncio.create_task(engine.run(items))
        await gate.reached(AT_ONCE)
        gate.open()
        assert (await soon(running)).succeeded == ITEMS
        assert bodies(made) <= AT_ONCE + 5


async def test_items_that_are_tried_again_share_statements(dsn: str, sent: Counter[str]) -> None:
    """SCAT-12: what fails together leaves its chunk, is taken and is flushed together."""
    pipe, calls = Pipeline("counted"), Counter[int]()

    @pipe.scatter(source, page_size=PAGE, retry=Retry(2, backoff="none"))
    async def items(no: int) -> int:
        calls[no] += 1
        if calls[no] == 1:
            raise ConnectionError("once")
        return no

    async with Engine(pipe, store=dsn, notify=False) as engine:
        sent.clear()
        assert (await engine.run(items)).succeeded == ITEMS
        assert calls.total() == 2 * ITEMS
        assert sent["add_page"] - PAGES in (0, 1)
        assert sent["take_chunks"] < ITEMS / 20
        assert sent["flush"] < ITEMS / 10
        assert sent["scatter_pages"] < ITEMS / 20


async def test_batches_cost_a_look_up_for_each_page(dsn: str, sent: Counter[str]) -> None:
    """BATCH-07, SCAT-22: none for a batch, nor for an item that leaves one, and none to dedupe what has no keys."""
    pipe = Pipeline("counted")

    @pipe.scatter(source, batch=Batching(max_items=5), page_size=PAGE, retry=Retry(2, backoff="none"))
    async def items(batch: Batch[int]) -> list[int]:
        if len(batch) > 1 and not batch.number % 10:
            raise batch.failed({1: ConnectionError("once")}, value=[*batch[:1], *batch[2:]])
        return list(batch)

    @pipe.scatter(source, batch=Batching(max_items=5), page_size=PAGE, key=False)
    async def unkeyed(batch: Batch[int]) -> int:
        return len(batch)

    async with Engine(pipe, store=dsn, notify=False) as engine:
        sent.clear()
        found = await engine.run(items)
        assert found.total > ITEMS / 5
        assert sorted([no async for no in found.flat()]) == list(range(ITEMS))
        assert sent["add_page"] - PAGES in (0, 1)
        assert sent["known_keys"] <= PAGES + 1
        assert sent["flush"] < ITEMS / 25
        assert sent["split_chunks"] <= sent["flush"]
        assert sent["take_chunks"] < ITEMS / 50
        sent.clear()
        assert (await engine.run(unkeyed)).total == ITEMS / 5
        assert not sent["known_keys"]
        assert not sent["split_chunks"] + sent["lock_scatters"]


@pytest.mark.parametrize("key", [None, lambda no: no % 7])
async def test_permits_are_asked_for_in_blocks(dsn: str, sent: Counter[str], key: Any) -> None:
    """SCAT-08, SCAT-22: neither a statement nor a task for an item, where the rate holds nobody back."""
    pipe = Pipeline("counted")

    @pipe.scatter(source, page_size=PAGE, max_concurrent=AT_ONCE, rate=Rate(10**6, per="1m", key=key))
    async def items(no: int) -> int:
        await asyncio.sleep(0)
        return no

    async with Engine(pipe, store=dsn, notify=False) as engine:
        sent.clear()
        made = tasks_made()
        assert (await engine.run(items)).succeeded == ITEMS
        assert sent["take_permits"] < ITEMS / 10
        assert sent["give_back_permits"] <= sent["take_permits"]
        assert len(made) < ITEMS / 2


async def test_nothing_is_sent_for_an_item_of_batches_that_follow_others(dsn: str, sent: Counter[str]) -> None:
    """SCAT-22: a few statements for a page of the upstream, and for one of the scatter that follows it."""
    pipe, items, size = Pipeline("counted"), 5000, 10

    @pipe.scatter(range(items), page_size=500, batch=Batching(max_items=size))
    async def first(numbers: Batch[int]) -> list[int]:
        return list(numbers)

    @pipe.scatter(first, page_size=100, batch=Batching(max_items=size))
    async def second(lists: Batch[list[int]]) -> int:
        return sum(no for numbers in lists for no in numbers)

    async with Engine(pipe, store=dsn, notify=False) as engine:
        await engine.run(first)
        sent.clear()
        found = await engine.run(second)
        pages = items // size // 100
        assert found.total == items // size // size
        assert pages <= sent["add_page"] <= pages + 2
        assert sent["known_keys"] <= pages + 1
        assert sent["scatter_pages"] <= 10 + 1, "each of the upstream once"
        assert sent["committed_blocks"] + sent["committed_results"] <= 10
        assert sent["flush"] <= 6 * pages
        assert sent.total() < 100
