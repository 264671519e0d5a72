"""What deleted scatters have left goes in parts that cost the same, whoever is in the way and whoever dies (STORE-08)."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from asyncpg import Record

from flowstone_async._engine import pruning
from flowstone_async.engine import Engine
from flowstone_async.pipeline import Pipeline
from flowstone_async.store.postgres import connections, remains
from flowstone_async.store.postgres.remains import REMAINS, TRIMS, statement
from flowstone_async.store.scatters import ItemFailed
from tests.contract import stores as contract
from tests.contract.builders import failure
from tests.contract.test_scatters import Reader, flushed
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.test_held_xmin import reader
from tests.postgres.waiting import blocked
from tests.postgres.wire import LossyProxy

ROWS, PART = 1500, 50
SWEEPING = {statement(each, which).text for each in (REMAINS, TRIMS) for which in ("all", "own")}
TABLES = sorted({table.table for table in REMAINS.tables})
LISTS = (REMAINS.table, TRIMS.table)
S = "md5('s')::uuid"
FILL = f"""
INSERT INTO flowstone.scatter_chunk (scatter, first, page, count, alone, state)
SELECT {S}, n / 2, 0, 1, n % 2 = 1, 'done' FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.scatter_failure (scatter, item_no, at, attempts, code, worker, error)
SELECT {S}, n, now(), 1, '', '', '' FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.scatter_block (scatter, first, page, places, body)
SELECT {S}, n, n % 7, '', '' FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.scatter_result (scatter, item_no, value) SELECT {S}, n, '1' FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.scatter_note (scatter, noted) SELECT {S}, '' FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.scatter_page (scatter, no, count, first, before, fence, duplicates, items)
SELECT {S}, n, 1, n, n, 1, '{{}}', '' FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.scatter_key (scatter, hash, item_no)
SELECT {S}, md5(n::text)::uuid, n FROM generate_series(1, {ROWS}) AS n;
"""
LIST = f"INSERT INTO flowstone.scatter_remains (scatter, part) VALUES ({S}, 'run'), ({S}, 'results'), ({S}, 'read');"
TRIM = f"INSERT INTO flowstone.scatter_trim (scatter, at, read, pages) VALUES ({S}, now(), {ROWS // 3}, {ROWS // 3});"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete few rows at a time."""
    monkeypatch.setattr(remains, "SHARE", PART)
    monkeypatch.setattr(remains, "LARGE", PART)


async def left(sql: asyncpg.Connection) -> dict[str, int]:
    """Return how many rows there are, of tables that have any."""
    counted = {name: await sql.fetchval(f"SELECT count(*) FROM flowstone.{name}") for name in (*TABLES, *LISTS)}
    return {name: count for name, count in counted.items() if count}


async def sweep(opened: Opened) -> list[int]:
    """Prune until nothing is left to be swept; return how many statements each call took."""
    found: list[int] = []
    while (pruned := await opened.store.prune(runs=None, values=None)).swept:
        found.append(pruned.swept)
    return found


class _Undo(Exception):
    """What a transaction did is not to be kept."""


class Sent:
    """Statements that delete what is left, as they are sent; one of them may go wrong.

    Attributes:
        costs: Blocks and rows that each read, if they are `explained`.
        calls: How many were sent.
        fails: Which of them is cancelled, `before` it is sent or `after`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, explained: bool = False) -> None:
        self.costs: list[tuple[int, int]] = []
        self.calls = 0
        self.fails: tuple[int, str] | None = None
        send = connections.Session.fetch_text

        async def watched(session: connections.Session, text: str, *arguments: Any) -> list[Record]:
            if text not in SWEEPING:
                return await send(session, text, *arguments)
            self.calls += 1
            if self.fails == (self.calls, "before"):
                raise asyncio.CancelledError
            if explained:
                with suppress(_Undo):
                    async with session.transaction():
                        [told] = await send(session, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", *arguments)
                        self.costs.append(cost(json.loads(told[0])[0]["Plan"]))
                        raise _Undo
            rows = await send(session, text, *arguments)
            if self.fails == (self.calls, "after"):
                raise asyncio.CancelledError
            return rows

        monkeypatch.setattr(connections.Session, "fetch_text", watched)


def cost(plan: dict[str, Any]) -> tuple[int, int]:
    """Return the blocks that a statement touched, and the rows of tables of scatters that it read."""
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], _rows(plan)


def _rows(plan: dict[str, Any]) -> int:
    own = plan["Actual Rows"] * plan["Actual Loops"] if plan.get("Relation Name") in TABLES else 0
    dead = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    return own + dead + sum(map(_rows, plan.get("Plans", ())))


@pytest.mark.parametrize("work", [LIST, TRIM], ids=["deleted", "trimmed"])
async def test_a_part_costs_the_same_however_much_was_deleted_before(
    dsn: str, sql: asyncpg.Connection, opened: Opened, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """Somebody holds a snapshot, so that every deleted row stays where it is; counted in blocks."""
    await sql.execute(FILL)
    await sql.execute(work)
    await sql.execute("VACUUM ANALYZE")
    async with reader(dsn):
        sent = Sent(monkeypatch, explained=True)
        await sweep(opened)
    blocks = [blocks for blocks, rows in sent.costs if rows >= PART]
    assert len(blocks) >= ROWS / PART - 1
    assert max(blocks[-5:]) < 1.5 * max(blocks[:5]) + 10
    assert max(rows for _, rows in sent.costs) <= 3 * (PART + 1) * len(TABLES)
    gone = await left(sql)
    if work is LIST:
        assert gone == {}
    else:
        assert (gone["scatter_page"], gone["scatter_key"], gone["scatter_chunk"]) == (
            ROWS // 3 - 1,
            ROWS // 3 - 1,
            ROWS,
        )
        assert not gone.keys() & set(LISTS)


async def test_more_is_told_from_what_was_there_not_from_what_was_deleted(
    dsn: str, sql: asyncpg.Connection, opened: Opened
) -> None:
    """An engine of the version before deletes the same rows at the same time."""
    await sql.execute(FILL)
    await sql.execute(LIST)
    other = await asyncpg.connect(dsn)
    await other.execute("BEGIN")
    for table in REMAINS.tables:
        await other.execute(
            f"DELETE FROM flowstone.{table.table} WHERE {table.key} IN "
            f"(SELECT {table.key} FROM flowstone.{table.table} ORDER BY {table.key} LIMIT {PART})"
        )
    pruning_one = asyncio.create_task(opened.store.prune(runs=None, values=None, limit=1))
    await blocked(sql)
    await other.execute("COMMIT")
    await other.close()
    assert (await pruning_one).swept == 1
    assert await sql.fetchval("SELECT count(*) FROM flowstone.scatter_remains") == 3
    await sweep(opened)
    assert await left(sql) == {}


async def test_a_call_of_prune_sends_some_statements_and_leaves_the_rest(
    sql: asyncpg.Connection, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one goes on where it ended; ten are sent at most, or `limit`."""
    await sql.execute(FILL)
    await sql.execute(LIST)
    sent = Sent(monkeypatch)
    assert (await opened.store.prune(runs=None, values=None, limit=3)).swept == 3
    assert await sql.fetchval("SELECT count(*) FROM flowstone.scatter_key") == ROWS - 3 * PART
    found = await sweep(opened)
    assert max(found) == 10
    assert sum(found) == ROWS // PART - 3 + 1, "the last one finds that nothing is left"
    assert sent.calls <= sum(found) + 3 + 2 * (len(found) + 2) * 2, "and two for each list that is empty"
    assert await left(sql) == {}


async def test_whoever_prunes_goes_on_until_nothing_is_left_or_the_time_is_up(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """CFG-06: an engine's prune is as many calls as it takes."""
    await sql.execute(FILL)
    await sql.execute(LIST)
    async with Engine(Pipeline("none"), store=dsn).looking() as session:  # nobody else prunes
        await pruning.prune(session, runs=None, values=None, within=-1.0)
        assert (await left(sql))["scatter_key"] == ROWS - 10 * PART
        await pruning.prune(session, runs=None, values=None)
    assert await left(sql) == {}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_whoever_is_interrupted_leaves_the_rest_to_the_next(
    sql: asyncpg.Connection, opened: Opened, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Before each statement, and after each was committed."""
    await sql.execute(FILL)
    await sql.execute(LIST + TRIM)
    sent, interrupted = Sent(monkeypatch), 0
    for number in (1, 2):
        sent.calls, sent.fails = 0, (number, when)
        with pytest.raises(asyncio.CancelledError):
            await opened.store.prune(runs=None, values=None)
    while before := await left(sql):
        sent.calls, sent.fails = 0, (2, when)
        with pytest.raises(asyncio.CancelledError):
            await opened.store.prune(runs=None, values=None)
        interrupted += 1
        if interrupted == 3:
            assert await opened.store.verify() == (), "this is work that is left, and no damage"
        assert sum((await left(sql)).values()) < sum(before.values())
    assert interrupted > ROWS / PART / 3


async def test_a_straggler_adds_nothing_to_what_is_deleted(
    sql: asyncpg.Connection, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run has failed and never ended the scatter, whose chunk a worker still has."""
    monkeypatch.setattr(remains, "SHARE", 2)
    reader = await Reader.begin(contract.Engine(worker=opened.worker, store=opened.store))
    for no in range(6):
        await reader.add(f"a{no}", f"b{no}")
    await reader.drive.finish("failed")
    await opened.store.prune(runs=0.0, values=None, limit=1)
    assert await opened.store.scatters.scatter(reader.id) is None
    assert (await left(sql))["scatter_chunk"] > 1
    last = reader.chunk(10, 2, 5)
    failed = (ItemFailed(10, 1, failure("late")),)
    assert await reader.flush(flushed(last, 11, state="done", failures=failed, failed=1)) == []
    assert await reader.take() == ()
    await sweep(opened)
    assert (await left(sql)) == {}


async def test_many_are_deleted_whole(sql: asyncpg.Connection, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are taken from the list for one statement, though none of those has much."""
    monkeypatch.setattr(remains, "LISTED", 2)
    scatters = [await Reader.begin(contract.Engine(worker=opened.worker, store=opened.store)) for _ in range(3)]
    for each in scatters:
        await each.add("a", "b", last=True)
    await opened.store.scatters.delete([each.id for each in scatters])
    assert await left(sql) == {}


async def test_a_lost_reply_costs_nothing(dsn: str, sql: asyncpg.Connection, open_store: OpenStore) -> None:
    """The part was deleted, and nobody heard of it: the next one begins behind it."""
    await sql.execute(FILL)
    await sql.execute(LIST)
    async with LossyProxy(dsn) as proxy:
        far = await open_store(proxy.dsn, notify=False)
        for number in (1, 2, 3):
            proxy.lose = number
            assert (await far.store.prune(runs=None, values=None, limit=3)).swept == 3
            assert proxy.lose == 0
        await sweep(far)
        assert await left(sql) == {}
        await far.store.close()


async def test_two_at_once_share_the_work(
    dsn: str, sql: asyncpg.Connection, opened: Opened, open_store: OpenStore
) -> None:
    """What one is at is left to it; neither waits, and all of it goes."""
    scatters = 20
    await sql.execute(FILL)
    for table in REMAINS.tables:
        columns = await sql.fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'flowstone' AND table_name = $1 "
            "AND column_name <> 'scatter' AND is_identity = 'NO'",
            table.table,
        )
        names = ", ".join(row[0] for row in columns)
        await sql.execute(
            f"INSERT INTO flowstone.{table.table} (scatter, {names}) SELECT md5('s' || n)::uuid, {names} "
            f"FROM (SELECT * FROM flowstone.{table.table} LIMIT 60) AS t CROSS JOIN generate_series(1, {scatters}) AS n"
        )
    await sql.execute(LIST)
    await sql.execute(
        "INSERT INTO flowstone.scatter_remains (scatter, part) SELECT md5('s' || n)::uuid, part "
        f"FROM generate_series(1, {scatters}) AS n CROSS JOIN unnest('{{run,results,read}}'::text[]) AS part"
    )
    other = await open_store()
    while any(await asyncio.gather(sweep(opened), sweep(other), sweep(opened))):
        pass
    assert await left(sql) == {}


async def test_what_somebody_holds_is_passed_by(dsn: str, sql: asyncpg.Connection, opened: Opened) -> None:
    """A sweeper that stands still keeps nobody from the rest of the list."""
    await sql.execute(FILL)
    await sql.execute(LIST)
    held = await asyncpg.connect(dsn)
    await held.execute("BEGIN")
    await held.fetch("SELECT FROM flowstone.scatter_remains WHERE part = 'read' FOR UPDATE")
    await sweep(opened)
    assert await left(sql) == {"scatter_key": ROWS, "scatter_page": ROWS, "scatter_remains": 1}
    held.terminate()
    async with asyncio.timeout(30):
        while await left(sql):
            await sweep(opened)


async def test_an_engine_of_the_version_before_may_work_at_the_same_list(
    sql: asyncpg.Connection, opened: Opened
) -> None:
    """It lists no instant and no key, and deletes in any order."""
    await sql.execute(FILL)
    await sql.execute(LIST)
    assert (await opened.store.prune(runs=None, values=None, limit=2)).swept == 2
    await sql.execute("DELETE FROM flowstone.scatter_key WHERE item_no % 2 = 0")
    await sql.execute("DELETE FROM flowstone.scatter_chunk; DELETE FROM flowstone.scatter_failure")
    await sql.execute("DELETE FROM flowstone.scatter_remains WHERE part = 'run'")
    await sweep(opened)
    assert await left(sql) == {}
