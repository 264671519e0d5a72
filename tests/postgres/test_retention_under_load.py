"""What is old is forgotten while others write, add partitions and verify: nothing that is to be kept is lost by it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterable
from datetime import datetime
from typing import Any, TypeVar

import asyncpg
import pytest

from flowstone_async.store.records import Advance, RunDone, RunRecord, Submission
from tests.contract.builders import Drive, act, completed, event, key, materialization, run_record
from tests.contract.clock import SetClock
from tests.postgres.addresses import apart
from tests.postgres.conftest import Opened, OpenStore

T = TypeVar("T")
DAY = 86_400.0
KEPT = 2 * DAY
"""How long runs are kept; long enough for days to go as a whole."""
ENDED = """
SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
LONG = 4
"""Days for which some runs go on: longer than others are kept."""
NUMBERS = [key("numbers", f"i:{no}") for no in range(6)]


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


async def submit(opened: Opened, number: int) -> str:
    run = run_record(None, state="queued", submitted=True)
    audit = act("run.submitted", run.id, run_id=run.id)
    submission = Submission(run=run, subject="numbers", key=f"order:{number}", audit=audit)
    return (await opened.store.submit(submission)).run.id


async def claim(opened: Opened, limit: int) -> list[Drive]:
    """Claim runs, and tell of their start."""
    claimed = await opened.store.claim(opened.worker.id, ("sales",), limit=limit)
    return [await begun(Drive(opened.store, run)) for run in claimed]


async def begun(drive: Drive) -> Drive:
    assert (await drive.advance("run.started")).accepted
    return drive


async def compute(drive: Drive, number: int) -> None:
    """Replace a value, if nobody else is at it."""
    of = NUMBERS[number % len(NUMBERS)]
    claimed = await drive.advance("asset.started", claims=(of,))
    assert claimed.accepted
    if claimed.claims[of].granted:
        made = materialization(of, drive.id, size=0)
        assert (await drive.advance("asset.succeeded", done=(completed(made),))).accepted


async def end(drive: Drive) -> None:
    told = (event(drive.told + 1, "run.succeeded"), event(drive.told + 2, "run.finished", state="succeeded"))
    step = Advance(run_id=drive.id, fence=drive.run.fence, events=told, finish=RunDone(state="succeeded"))
    drive.told += 2
    assert (await drive.store.advance(step)).accepted


async def ended(opened: Opened, number: int) -> Drive:
    """Submit a run and drive it to its end."""
    await submit(opened, number)
    [drive] = await claim(opened, 1)
    await compute(drive, number)
    await end(drive)
    return drive


async def test_runs_that_lost_their_events_with_their_day_are_not_damaged(
    sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    """The day goes at once, its runs in batches: whoever verifies in between finds nothing wrong."""
    opened = await open_store(clock=clock)
    for number in range(3):
        await ended(opened, number)
    clock.advance(4 * DAY)

    assert (await opened.store.prune(runs=KEPT, values=None, limit=1)).runs == 1

    assert await sql.fetchval("SELECT count(*) FROM flowstone.event") == 0
    assert await sql.fetchval("SELECT count(*) FROM flowstone.run") == 2
    assert await opened.store.verify() == ()


class Load:
    """Workers that submit, drive and end runs, day after day, while others prune, verify, add and drop partitions.

    Attributes:
        drives: All runs that were begun, by id.
        over: When each that has ended did so.
        pruned: How many were forgotten.
        answers: What adding and dropping a partition answered.
    """

    def __init__(self, engines: list[Opened], clock: SetClock) -> None:
        self._engines, self._clock = engines, clock
        self._submitted = itertools.count()
        self._going: list[tuple[int, Drive]] = []
        self._writing = 0
        self.keys: dict[str, int] = {}
        self.drives: dict[str, Drive] = {}
        self.over: dict[str, datetime] = {}
        self.pruned = 0
        self.answers: set[str] = set()

    async def day(self, number: int) -> None:
        """Do what is done on one day; a run in three goes on for some more."""
        going, self._going = self._going, []
        self._writing = len(self._engines)
        async with asyncio.TaskGroup() as group:
            for place, opened in enumerate(self._engines):
                left = [(since, drive) for since, drive in going if drive.store is opened.store]
                group.create_task(self._write(opened, number, left))
                group.create_task(self._prune(opened, limit=5 + 20 * place))
            group.create_task(self._verify(self._engines[0]))
            group.create_task(self._move_partitions(self._engines[-1], number))

    async def _write(self, opened: Opened, today: int, left: list[tuple[int, Drive]]) -> None:
        try:
            for since, drive in left:
                assert (await drive.advance("asset.started")).accepted
                await self._go_on(drive, since, today)
            for _ in range(3):
                numbers = [next(self._submitted) for _ in range(5)]
                for number, run_id in zip(numbers, await gather(submit(opened, each) for each in numbers), strict=True):
                    self.keys[run_id] = number
                drives = await claim(opened, 5)
                self.drives |= {drive.id: drive for drive in drives}
                await gather(compute(drive, self.keys[drive.id]) for drive in drives)
                await gather(self._go_on(drive, today, today) for drive in drives)
        finally:
            self._writing -= 1

    async def _go_on(self, drive: Drive, since: int, today: int) -> None:
        if self.keys[drive.id] % 3 == 0 and today < since + LONG:
            self._going.append((since, drive))
            return
        await end(drive)
        self.over[drive.id] = self._clock.now()

    async def _prune(self, opened: Opened, limit: int) -> None:
        while self._writing:
            pruned = await opened.store.prune(runs=KEPT, values=DAY, limit=limit)
            self.pruned += pruned.runs
            await opened.store.maintain()

    async def _verify(self, opened: Opened) -> None:
        while self._writing:
            assert await opened.store.verify() == ()

    async def _move_partitions(self, opened: Opened, number: int) -> None:
        """Add and drop partitions that are of no use, one after another."""
        fetch = opened.store._connections.fetch_text
        while self._writing:
            for query in (
                f"SELECT flowstone.add_event_partition('2031-01-0{number + 1}')",
                f"SELECT flowstone.drop_event_partition('event_2031010{number + 1}', now())",
            ):
                self.answers.add((await fetch(query))[0][0])


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    return await asyncio.gather(*coroutines)


async def test_nothing_that_is_kept_is_lost_while_others_write_prune_and_move_partitions(
    dsn: str, sql: asyncpg.Connection, open_store: OpenStore, clock: SetClock
) -> None:
    engines = [await open_store(apart(dsn), clock=clock) for _ in range(3)]
    load = Load(engines, clock)
    for number in range(7):
        await load.day(number)
        clock.advance(0.8 * DAY)
    while gone := (await engines[0].store.prune(runs=KEPT, values=DAY)).runs:
        load.pruned += gone

    store = engines[0].store
    there: dict[str, RunRecord] = {run.id: run for run in await store.runs(pipelines=["sales"], limit=10_000)}
    assert len(load.drives) == 7 * 3 * 15
    assert load.pruned == len(load.drives.keys() - there.keys()) > 0
    assert load.answers >= {"added", "dropped"}
    for run_id, drive in load.drives.items():
        age = (clock.now() - load.over[run_id]).total_seconds() if run_id in load.over else 0
        if age <= KEPT:
            assert there[run_id].state == ("succeeded" if run_id in load.over else "running")
            assert [told.no for told in await store.events(run_id)] == list(range(1, drive.told + 1))
            assert await submit(engines[1], load.keys[run_id]) == run_id
        assert run_id not in there or age <= KEPT + 2 * DAY
    assert await store.verify() == ()
    for one in engines:
        await one.store.close()

    await sql.fetch(ENDED)  # what a server's process has counted is known when it has ended
    assert await sql.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
