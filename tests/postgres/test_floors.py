"""Claims begin where earlier ones ended, and miss nothing by it for long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from flowstone_async.store.postgres import floors
from flowstone_async.store.postgres.floors import BEHIND, WHOLE, Floors, Look
from flowstone_async.store.records import Submission
from tests.contract.builders import act, run_record
from tests.postgres.conftest import Opened, OpenStore

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
SHOP = ("shop",)


class Monotonic:
    """A monotonic clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def monotonic() -> Monotonic:
    return Monotonic()


@pytest.fixture
def known(monotonic: Monotonic) -> Floors:
    """What is known after a claim that looked at everything and left nothing."""
    found = Floors(monotonic)
    found.learn(found.look("w", SHOP), [], 10)
    return found


def due(*seconds: int, priority: int = 0) -> list[tuple[int, datetime]]:
    return [(priority, NOON + timedelta(seconds=each)) for each in seconds]


def test_the_first_look_is_at_everything(monotonic: Monotonic) -> None:
    assert Floors(monotonic).look("w", SHOP) == Look(monotonic.now)


def test_nothing_left_means_nothing_older_than_that(known: Floors, monotonic: Monotonic) -> None:
    monotonic.now += 2

    look = known.look("w", SHOP)

    assert (look.since, look.ages, look.whole) == ([None] * 4, [2 + BEHIND] * 4, False)


def test_a_claim_that_gives_all_that_it_may_is_gone_on_from(known: Floors, monotonic: Monotonic) -> None:
    monotonic.now += 2
    known.learn(known.look("w", SHOP), [*due(1), *due(5, 7, priority=1)], 3)
    monotonic.now += 2

    look = known.look("w", SHOP)

    assert look.since == [None, NOON + timedelta(seconds=7 - BEHIND), None, None]
    assert look.ages == [2 + BEHIND, 2 + BEHIND, 4 + BEHIND, 4 + BEHIND]


def test_what_was_gone_on_from_counts_no_more_once_nothing_is_left(known: Floors, monotonic: Monotonic) -> None:
    known.learn(known.look("w", SHOP), due(1, 2), 2)
    known.learn(known.look("w", SHOP), due(3), 2)

    assert known.look("w", SHOP).since == [None] * 4


def test_every_few_seconds_everything_is_looked_at(known: Floors, monotonic: Monotonic) -> None:
    monotonic.now += WHOLE

    assert known.look("w", SHOP) == known.look("w", SHOP) == Look(monotonic.now), "until one has been answered"

    known.learn(known.look("w", SHOP), [], 10)
    assert not known.look("w", SHOP).whole


def test_what_everything_gives_is_gone_on_from_also_if_it_was_known_to_be_over(
    known: Floors, monotonic: Monotonic
) -> None:
    """As when the database's clock was set back: there is work that is older than what was claimed last."""
    known.learn(known.look("w", SHOP), due(3600), 1)
    monotonic.now += WHOLE
    known.learn(known.look("w", SHOP), due(1), 1)

    assert known.look("w", SHOP).since[0] == NOON + timedelta(seconds=1 - BEHIND)


@pytest.mark.parametrize(("worker", "pipelines"), [("w", ("shop", "sales")), ("other", SHOP)])
def test_who_asks_for_something_else_knows_nothing(known: Floors, worker: str, pipelines: tuple[str, ...]) -> None:
    """A worker without a lease is given nothing, whatever there is: what it learned is not its successor's."""
    assert known.look(worker, pipelines).whole


# -- on a store -------------------------------------------------------------------------------------------------------


async def submit(opened: Opened, connection: object = None, priority: int = 0) -> str:
    run = run_record(None, state="queued", submitted=True, priority=priority)
    submission = Submission(run=run, subject="", key=None, audit=act("run.submitted", run.id))
    return (await opened.store.submit(submission, connection=connection)).run.id


async def claim(opened: Opened, limit: int = 10) -> list[str]:
    return [run.id for run in await opened.store.claim(opened.worker.id, ("sales",), limit=limit)]


async def test_what_is_committed_late_or_was_locked_is_claimed_at_once(
    opened: Opened, sql: asyncpg.Connection, dsn: str
) -> None:
    transaction = sql.transaction()
    await transaction.start()
    late = await submit(opened, sql)
    locked = await submit(opened)
    holder = await asyncpg.connect(dsn)
    await holder.execute(f"BEGIN; SELECT FROM flowstone.run WHERE id = '{locked}' FOR UPDATE")
    for _ in range(3):
        assert await claim(opened) == []
        run = await submit(opened)
        assert await claim(opened, 1) == [run]

    await transaction.commit()
    await holder.execute("COMMIT")

    assert await claim(opened) == [late, locked]
    await holder.close()


async def test_what_is_seen_even_later_is_found_when_everything_is_looked_at(
    opened: Opened, sql: asyncpg.Connection, monotonic: Monotonic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floors, "BEHIND", 0.0)
    opened.store._queue._floors = Floors(monotonic)
    transaction = sql.transaction()
    await transaction.start()
    late = [await submit(opened, sql, priority) for priority in (0, 2)]
    run = await submit(opened)
    assert await claim(opened, 1) == [run]
    assert await claim(opened) == []
    await transaction.commit()
    assert await claim(opened) == []

    monotonic.now += WHOLE

    assert await claim(opened) == late


async def test_a_backlog_is_worked_off_in_order_by_several(open_store: OpenStore) -> None:
    engines = [await open_store() for _ in range(3)]
    submitted = [await submit(engines[0], priority=no % 3) for no in range(60)]
    expected = [run for priority in range(3) for run in submitted[priority::3]]

    claimed = [run for turn in range(30) for run in await claim(engines[turn % 3], 2)]

    assert claimed == expected
    assert await claim(engines[0]) == []


async def test_what_was_to_start_long_ago_is_due_now(opened: Opened) -> None:
    run = run_record(None, state="queued", submitted=True, at=NOON)
    submission = Submission(run=run, subject="", key=None, audit=act("run.submitted", run.id))
    assert await claim(opened) == []
    await opened.store.submit(submission)
    assert await claim(opened) == [run.id]
