"""Scatters that several workers run (SCAT-07, SCAT-11, SCAT-14, SCAT-16, SCAT-19, SCAT-24)."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest.mock import AsyncMock

import asyncpg
import pytest

from flowstone_async import (
    Cancelled,
    Context,
    DependencyFailed,
    Engine,
    Gathered,
    LeaseLost,
    Pipeline,
    Rate,
    Retry,
    StoreUnavailable,
    TimedOut,
    Tolerance,
)
from flowstone_async._engine.scatter.bodies import Bodies
from flowstone_async._engine.scatter.scattering import Scattering
from flowstone_async.store.scatters import NewPage, PageAdded
from tests.engine.test_scatter_resume import kept
from tests.support.crash import kill
from tests.support.engines import PostgresEngines
from tests.support.gate import soon

OFTEN: Any = {"poll": "20ms", "grace": "100ms"}


class Who(str):
    """The name of an engine, for the bodies that it calls."""

    __slots__ = ()


class Engines(PostgresEngines):
    """Engines on one database, and how many bodies their scatters were told to run at most."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.limits: list[int | None] = []


class Crew:
    """A scatter whose bodies wait until the test lets them go, on engines with names.

    Attributes:
        running: Items whose bodies run now, with the engine that runs them.
        calls: Bodies that were called, by engine.
        most: The most bodies that ran at once.
    """

    def __init__(self, engines: Engines, source: Any = 40, **options: Any) -> None:
        self._engines, self._limits = engines, engines.limits
        self.pipe = pipe = Pipeline("crew")
        self.running: dict[int, str] = {}
        self.calls: Counter[str] = Counter()
        self.times: Counter[int] = Counter()
        self.most, self.gathered = 0, 0
        self._let: dict[int, asyncio.Event] = {}
        self._all = False
        self.fails: Callable[[int], bool] = lambda _: False

        @pipe.resource
        async def who() -> Who:
            raise AssertionError("each engine is given its name")

        @pipe.scatter(range(40))
        async def first(no: int) -> int:
            return no

        given = first if source == "first" else range(source) if isinstance(source, int) else source

        @pipe.scatter(given, **{"max_concurrent": 10, **options})
        async def items(no: int, who: Who) -> int:
            self.calls[who] += 1
            self.times[no] += 1
            self.running[no] = who
            self.most = max(self.most, len(self.running))
            try:
                if not self._all:
                    await self._let.setdefault(no, asyncio.Event()).wait()
                if self.fails(no):
                    raise ValueError(f"item {no}")
            finally:
                del self.running[no]
            return no * no

        @items.gather
        async def total(results: Gathered[int]) -> int:
            self.gathered += 1
            return sum([value async for value in results])

    async def open(self, name: str, **options: Any) -> Engine:
        """Open an engine; bodies that it calls know its name."""
        return await self._engines.open(self.pipe, resources={Who: Who(name)}, **{**OFTEN, **options})

    def let(self, *numbers: int) -> None:
        """Let some items go."""
        for no in numbers:
            self._let.setdefault(no, asyncio.Event()).set()

    def let_all(self) -> None:
        """Let all items go, also those that have not begun."""
        self._all = True
        for each in self._let.values():
            each.set()

    def of(self, name: str) -> list[int]:
        """Return the items that an engine runs."""
        return [no for no, who in self.running.items() if who == name]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    async def limited(self, *most: int) -> None:
        """Wait until workers have been told to run at most so many bodies."""
        await self.until(lambda: set(most) <= set(self._limits))

    async def shared(self) -> None:
        """Let items of the first engine go until the second has its share of five."""
        await self.limited(5)
        self.let(*self.of("a")[:5])
        await self.until(lambda: len(self.of("b")) == 5)


@pytest.fixture
async def engines(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engines]:
    async with Engines(dsn) as engines:
        limit = Bodies.limit

        def told(self: Bodies, most: int | None) -> None:
            engines.limits.append(most)
            limit(self, most)

        monkeypatch.setattr(Bodies, "limit", told)
        yield engines


async def test_two_workers_share_the_bodies_and_each_item_runs_once(engines: Engines) -> None:
    """SCAT-07, SCAT-16, SCAT-19: never more than `max_concurrent` over both; the gather runs once."""
    crew = Crew(engines)
    first, _ = await crew.open("a"), await crew.open("b")
    run = asyncio.create_task(first.run("total"))
    await crew.shared()
    assert (len(crew.of("a")), len(crew.of("b"))) == (5, 5)
    crew.let_all()
    assert await soon(run) == sum(no * no for no in range(40))
    assert crew.most == 10
    assert set(crew.times.values()) == {1}
    assert crew.gathered == 1


async def test_who_comes_third_gets_its_share(engines: Engines) -> None:
    """SCAT-07: 4, 3 and 3 of ten."""
    crew = Crew(engines, 60)
    first = await crew.open("a")
    run = asyncio.create_task(first.run("total"))
    await crew.until(lambda: len(crew.running) == 10)
    await crew.open("b")
    await crew.shared()
    engines.limits.clear()
    await crew.open("c")
    await crew.limited(4, 3)
    crew.let(crew.of("a")[0], *crew.of("b")[:2])
    await crew.until(lambda: len(crew.of("c")) == 3)
    assert (len(crew.of("a")), len(crew.of("b"))) == (4, 3)
    crew.let_all()
    await soon(run)
    assert crew.most == 10
    assert set(crew.times.values()) == {1}


@pytest.mark.parametrize("most", [1, 2, False])
async def test_it_finishes_with_any_bound(engines: Engines, most: Any) -> None:
    """SCAT-07: also with fewer permits than workers, and without a bound."""
    crew = Crew(engines, 300, max_concurrent=most, page_size=50)
    first = await crew.open("a")
    run = asyncio.create_task(first.run("total"))
    await crew.until(lambda: len(crew.running) == (most or 4 * 50))
    await crew.open("b")
    await crew.open("c")
    await attended(first, 1 if most == 1 else 3)
    crew.let_all()
    assert await soon(run) == sum(no * no for no in range(300))
    assert set(crew.times.values()) == {1}
    if most:
        assert crew.most == most


async def attended(engine: Engine, workers: int) -> None:
    """Wait until so many workers take part in a scatter."""
    store: Any = engine._live().store
    async with asyncio.timeout(10):
        while True:
            [row] = await store._connections.fetch_text("SELECT count(*) FROM flowstone.scatter_worker")
            if row[0] >= workers:
                return
            await asyncio.sleep(0)


async def test_a_source_is_read_no_further_ahead_than_alone(engines: Engines) -> None:
    """READ-02: items at others count too; and it goes on when they end."""
    read = 0

    async def numbers() -> AsyncIterator[int]:
        nonlocal read
        for no in range(600):
            read += 1
            yield no

    crew = Crew(engines, numbers, page_size=10)
    first, _ = await crew.open("a"), await crew.open("b")
    run = asyncio.create_task(first.run("total"))
    await crew.shared()
    ended = sum(crew.times.values()) - len(crew.running)
    assert read - ended <= 4 * 10 + 2 * 10
    crew.let_all()
    assert await soon(run) == sum(no * no for no in range(600))
    assert set(crew.times.values()) == {1}


async def test_a_helper_that_dies_loses_no_item(engines: Engines) -> None:
    """SCAT-14, SCAT-16: what it had not on record runs again, and takes no attempt."""
    crew = Crew(engines)
    first, second = await crew.open("a"), await crew.open("b", slots=4)
    run = asyncio.create_task(first.run("total"))
    await crew.shared()
    lost = crew.of("b")
    await kill(second)
    crew.let_all()
    assert await soon(run) == sum(no * no for no in range(40))
    assert {no for no, times in crew.times.items() if times > 1} <= set(lost)


async def test_who_owned_it_dies_and_the_helper_goes_on_with_the_run(engines: Engines) -> None:
    """SCAT-16, SCAT-19: what the helper ran goes on until it takes the run over; nothing on record runs again."""
    crew = Crew(engines)
    first = await crew.open("a")
    run = asyncio.create_task(first.run("total"))
    await crew.until(lambda: len(crew.running) == 10)
    second = await crew.open("b")
    await crew.shared()
    done = [no for no in crew.times if no not in crew.running]
    await kept(second, len(done))
    await kill(first)
    with pytest.raises(LeaseLost):
        await soon(run)
    crew.let_all()
    assert await soon(second.wait("total")) == sum(no * no for no in range(40))
    assert {crew.times[no] for no in done} == {1}
    assert crew.gathered == 1


async def test_an_engine_that_leaves_lets_its_bodies_end_and_hands_the_rest_back(engines: Engines) -> None:
    crew = Crew(engines)
    first, second = await crew.open("a"), await crew.open("b", grace="30s")
    run = asyncio.create_task(first.run("total"))
    await crew.shared()
    begun = crew.of("b")
    session = second._live()
    leaving = asyncio.create_task(second.__aexit__(None, None, None))
    await crew.until(lambda: session.closing)
    crew.let_all()
    await soon(leaving)
    assert await soon(run) == sum(no * no for no in range(40))
    assert {crew.times[no] for no in begun} == {1}
    assert set(crew.times.values()) == {1}


async def test_a_failure_at_a_helper_ends_the_scatter(engines: Engines) -> None:
    """SCAT-11: whoever runs it; what runs is cancelled everywhere, and nothing more begins."""
    crew = Crew(engines, retry=False)
    first, _ = await crew.open("a"), await crew.open("b")
    run = asyncio.create_task(first.run("total"))
    await crew.shared()
    crew.fails = lambda no: True
    crew.let(crew.of("b")[0])
    with pytest.raises(DependencyFailed, match="1 of 40 items of scatter crew.items failed"):
        await soon(run)
    await crew.until(lambda: not crew.running)
    assert len(crew.times) < 40


async def test_failures_of_all_workers_are_counted_together(engines: Engines) -> None:
    """SCAT-10: two of each are four of forty."""
    crew = Crew(engines, retry=False, tolerate=Tolerance(fraction=0.1))
    first, _ = await crew.open("a"), await crew.open("b")
    run = asyncio.create_task(first.run("total"))
    await crew.shared()
    bad = {*crew.of("a")[:2], *crew.of("b")[:2]}
    crew.fails = bad.__contains__
    crew.let_all()
    assert await soon(run) == sum(no * no for no in range(40) if no not in bad)


async def test_a_cancelled_run_ends_at_all_workers(engines: Engines) -> None:
    """SCAT-24."""
    crew = Crew(engines)
    first, _ = await crew.open("a"), await crew.open("b")
    run = asyncio.create_task(first.run("total"))
    await crew.shared()
    [record] = await first.runs()
    await (await first.find(record.id)).cancel()
    with pytest.raises(Cancelled):
        await soon(run)
    await crew.until(lambda: not crew.running)
    assert len(crew.times) < 40


async def test_other_code_does_not_help(engines: Engines) -> None:
    """Items are called with the same code and inputs everywhere, or not at all."""
    crew, other = Crew(engines), Pipeline("crew")

    @other.scatter(range(40), max_concurrent=10)
    async def items(no: int) -> int:
        raise AssertionError("other code")

    @items.gather
    async def total(results: Gathered[int]) -> int:
        return 0

    first = await crew.open("a")
    run = asyncio.create_task(first.run("total"))
    await crew.until(lambda: len(crew.running) == 10)
    second = await engines.open(other, **OFTEN)
    await looked(second, 3)
    assert len(crew.of("a")) == 10
    crew.let_all()
    assert await soon(run) == sum(no * no for no in range(40))


async def looked(engine: Engine, times: int) -> None:
    """Wait until an engine has looked for scatters to help with so often."""
    crews: Any = engine._live().store.crews
    calls, joinable = 0, crews.joinable

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return await joinable(*args, **options)

    crews.joinable = counted
    async with asyncio.timeout(10):
        while calls < times:
            await asyncio.sleep(0)
    crews.joinable = joinable


async def test_retries_run_wherever_there_is_room(engines: Engines) -> None:
    """SCAT-12: attempts count on, whoever makes them."""
    pipe, attempts = Pipeline("retrying"), dict[int, list[int]]()

    @pipe.scatter(range(30), max_concurrent=10, retry=Retry(3, initial="40ms", jitter=False))
    async def items(no: int, ctx: Context) -> int:
        attempts.setdefault(no, []).append(ctx.item.attempt)
        if len(attempts[no]) < 3:
            raise ConnectionError("gone")
        return no

    first = await engines.open(pipe, **OFTEN)
    await engines.open(pipe, **OFTEN)
    assert await (await soon(first.run(items))).to_list(limit=30) == list(range(30))
    assert set(map(tuple, attempts.values())) == {(1, 2, 3)}


@pytest.mark.not_in("evict", reason="is about a poll that is long, and the mode looks often")
async def test_nobody_is_asked_while_a_scatter_is_short(engines: Engines, sql: asyncpg.Connection) -> None:
    """SCAT-22: one that ends within a poll costs nothing for the sake of others."""
    pipe = Pipeline("short")

    @pipe.scatter(range(10))
    async def items(no: int) -> int:
        return no

    engine = await engines.open(pipe, poll="60s")
    await engine.run(items)
    assert await sql.fetchval("SELECT pg_stat_get_live_tuples('flowstone.scatter_worker'::regclass)") == 0
    assert await sql.fetchval("SELECT last_value FROM flowstone.scatter_worker_no_seq") == 1


async def test_nobody_goes_on_with_a_scatter_whose_source_has_failed(engines: Engines) -> None:
    """READ-09: its asset has failed, and what is not on record waits for whoever resumes it."""
    failing = asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        for no in range(40):
            yield no
        await failing.wait()
        raise OSError("the feed is gone")

    crew = Crew(engines, numbers, page_size=40)
    first, _ = await crew.open("a"), await crew.open("b")
    run = asyncio.create_task(first.run("total"))
    await crew.shared()
    failing.set()
    with pytest.raises(DependencyFailed, match="the feed is gone"):
        await soon(run)
    await crew.until(lambda: not crew.running)
    assert len(crew.times) < 40


async def test_a_run_that_is_out_of_time_is_helped_no_longer(engines: Engines) -> None:
    crew = Crew(engines)
    first, _ = await crew.open("a"), await crew.open("b")
    run = asyncio.create_task(first.run("total", timeout="2s"))
    await crew.shared()
    with pytest.raises(TimedOut):
        await soon(run)
    await crew.until(lambda: not crew.running)
    assert len(crew.times) < 40


@pytest.mark.parametrize("key", [None, lambda no: "all"])
async def test_their_rate_is_one(engines: Engines, key: Any) -> None:
    """SCAT-08, RATE-06: no window sees more over both; what one does not use the other has soon, and what is set holds."""
    crew = Crew(engines, rate=Rate(15, per="1h", key=key), page_size=5)
    first, _ = await crew.open("a"), await crew.open("b")
    run = asyncio.create_task(first.run("total"))
    await crew.until(lambda: crew.calls.total() >= 10)
    crew.let_all()
    await crew.until(lambda: crew.calls.total() == 15)
    await crew.until(lambda: not crew.running)
    store: Any = first._live().store
    [record] = await first.runs()
    [scatter] = await store.scatters.of_run(record.id)
    name = f"scatter:{scatter.id}" + ("" if key is None else ':"all"')
    assert (await first.limits.status(name)).count == 15
    await kept(first, 15)
    assert crew.calls.total() == 15
    await first.limits.set(name, Rate(100, per="1h"))
    assert await soon(run) == sum(no * no for no in range(40))
    assert set(crew.times.values()) == {1}


async def test_what_a_helper_could_not_let_go_of_is_taken_by_others(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SCAT-16: its worker lives on, the store was away when it gave up, and it does not help again."""
    crew = Crew(engines)
    first, second = await crew.open("a"), await crew.open("b")
    run = asyncio.create_task(first.run("total"))
    await crew.shared()
    store: Any = second._live().store
    away = AsyncMock(side_effect=StoreUnavailable("away"))
    with monkeypatch.context() as patched:
        for port, verb in ((store.scatters, "flush"), (store.scatters, "release"), (store.crews, "leave")):
            patched.setattr(port, verb, away)
        patched.setattr(store.crews, "joinable", AsyncMock(return_value=()))
        [helping] = second._live().jobs.values()
        helping.lose()
        await soon(helping.done.wait())
        assert away.await_count >= 1
    patched.setattr(store.crews, "joinable", AsyncMock(return_value=()))
    crew.let_all()
    assert await soon(run) == sum(no * no for no in range(40))
    await attended(first, 0)


@pytest.mark.parametrize("who_dies", ["a", "b"])
async def test_a_scatter_on_a_scatter_is_shared_too(engines: Engines, who_dies: str) -> None:
    """SCAT-16, SCAT-26: items that are results of another scatter run at both, and survive either."""
    crew = Crew(engines, "first")
    opened = {name: await crew.open(name) for name in ("a", "b")}
    run = asyncio.create_task(opened["a"].run("total"))
    await crew.shared()
    done = [no for no in crew.times if no not in crew.running]
    other = opened["b" if who_dies == "a" else "a"]
    await kept(other, len(done))
    await kill(opened[who_dies])
    crew.let_all()
    if who_dies == "a":
        with pytest.raises((LeaseLost, DependencyFailed)):
            await soon(run)
    else:
        await soon(run)
    assert await soon(other.wait("total")) == sum(no * no for no in range(40))
    assert all(crew.times[no] == 1 for no in done)
    assert crew.gathered == 1


async def test_a_helper_that_comes_back_finds_what_it_had(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """SCAT-16: it gave up while the store was away, and helps again as soon as the store answers."""
    crew = Crew(engines)
    first, second = await crew.open("a"), await crew.open("b")
    run = asyncio.create_task(first.run("total"))
    await crew.shared()
    store: Any = second._live().store
    away = AsyncMock(side_effect=StoreUnavailable("away"))
    with monkeypatch.context() as patched:
        for port, verb in ((store.scatters, "flush"), (store.scatters, "release"), (store.crews, "leave")):
            patched.setattr(port, verb, away)
        [helping] = second._live().jobs.values()
        helping.lose()
        await soon(helping.done.wait())
    crew.let_all()
    assert await soon(run) == sum(no * no for no in range(40))


async def test_pages_that_are_shared_are_not_kept(engines: Engines) -> None:
    """SCAT-22: a reader with helpers holds a few pages at most."""
    kept: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        for no in range(400):
            yield no
            if no % 50:
                continue
            kept.append(max((len(each._pages) for each in found(Scattering)), default=0))

    crew = Crew(engines, numbers, page_size=10)
    first, _ = await crew.open("a"), await crew.open("b")
    run = asyncio.create_task(first.run("total"))
    await crew.shared()
    crew.let_all()
    assert await soon(run) == sum(no * no for no in range(400))
    assert 1 < max(kept) <= 9


def found(kind: type[Any]) -> list[Any]:
    """Return what there is of a type."""
    return [each for each in gc.get_objects() if isinstance(each, kind)]


@pytest.mark.parametrize(("workers", "chunks"), [(2, 1), (3, 2)])
async def test_pages_are_cut_no_smaller_than_it_takes(engines: Engines, workers: int, chunks: int) -> None:
    """SCAT-22: each worker is to have two chunks of what is read ahead; more of them would only cost the store more."""
    crew = Crew(engines, 400, page_size=10)
    first = await crew.open("a")
    scatters, pages = first._live().store.scatters, list[NewPage]()
    add = scatters.add_page

    async def noted(page: NewPage, worker: str) -> PageAdded | None:
        pages.append(page)
        return await add(page, worker)

    scatters.add_page = noted  # pyright: ignore[reportAttributeAccessIssue] - notes, then adds
    run = asyncio.create_task(first.run("total"))
    await crew.until(lambda: len(crew.running) == 10)
    for name in "bc"[: workers - 1]:
        await crew.open(name)
    await attended(first, workers)
    pages.clear()
    crew.let_all()
    assert await soon(run) == sum(no * no for no in range(400))
    assert {len(page.chunks) for page in pages if page.size} <= {1, chunks}
    assert chunks in {len(page.chunks) for page in pages}
    assert {page.owned for page in pages if len(page.chunks) == 1} <= {0, 1}
    assert set(crew.times.values()) == {1}
