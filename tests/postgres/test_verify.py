"""Damage to the records is found, and work that is left is none (CLI-03)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async import Context, Engine, ExecutionError, Pipeline
from flowstone_async.store.postgres.verify import MOST
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.wire import Pooler
from tests.support.postgres import TestServer
from tests.support.waits import in_state

DONE = "(SELECT id FROM flowstone.run WHERE state = 'succeeded' AND targets LIKE '%total%')"
GOING = "(SELECT id FROM flowstone.run WHERE state = 'running')"
LAST = f"(SELECT max(first_no) FROM flowstone.event WHERE run_id = {DONE})"
OLD = "(SELECT materialization FROM flowstone.superseded ORDER BY at LIMIT 1)"
CURRENT = "(SELECT current FROM flowstone.asset_key WHERE asset = 'numbers')"
GATE = "00000000-0000-4000-8000-000000000001"
UNCHECKED = "ALTER TABLE flowstone.run DROP CONSTRAINT run_check"


def told(old: str, new: str) -> str:
    """Let the run that is done have told something else."""
    return f"UPDATE flowstone.event SET body = replace(body, '{old}', '{new}') WHERE run_id = {DONE}"


def gated(where: str = "", *, of: str = GOING, opened: bool = True) -> str:
    """Let a run that goes on have a gate, and do something about it."""
    gate = (
        "INSERT INTO flowstone.gate (id, run_id, opened_at, open, kind, pipeline, asset, io, partition, name, body, key, "
        f"facts) VALUES ('{GATE}', {of}, now(), {opened}, 'signal', 'shop', 'endless', '', '', '', '', '', '{{}}')"
    )
    return f"{gate}; {where}" if where else gate


def decided(how: str = "signalled", *, of: str = GOING) -> str:
    return f"INSERT INTO flowstone.gate_outcome (gate, run_id, at, how, woken) VALUES ('{GATE}', {of}, now(), '{how}', true)"


PARKED = "waits, and nothing will wake it"
ITEM = "(SELECT gate FROM flowstone.scatter_wait)"
WOKEN = (
    f"UPDATE flowstone.gate SET open = false WHERE id = {ITEM}; INSERT INTO flowstone.gate_outcome (gate, run_id, at, how, "
    f"woken) SELECT id, run_id, now(), 'signalled', true FROM flowstone.gate WHERE id = {ITEM}"
)
SUSPEND = f"UPDATE flowstone.run SET state = 'waiting', worker = NULL WHERE id = {GOING}"
DAMAGE = {
    "a gate without a run": (gated(of="gen_random_uuid()"), "which there is not"),
    "a gate that ended without an outcome": (gated(opened=False), "has ended, and there is no outcome"),
    "a gate that is open with an outcome": (gated(decided()), "is open, and signalled"),
    "an outcome of another run's gate": (gated(decided(of=DONE), opened=False), "and its outcome of run"),
    "an outcome without a gate": (decided(), "which there is not, has an outcome"),
    "a token without a gate": (
        "INSERT INTO flowstone.gate_token (token, gate) VALUES ('x', gen_random_uuid())",
        "which there is not, has a token",
    ),
    "a suspended run without gates": (SUSPEND, "nothing will wake it"),
    "a suspended run that was never woken": (
        gated(f"{decided()}; {SUSPEND}", opened=False),
        "nothing will wake it",
    ),
    "a suspended run with an owner": (
        gated(f"UPDATE flowstone.run SET state = 'waiting' WHERE id = {GOING}"),
        "is waiting, and belongs to worker",
    ),
    "no instant of an end": (
        f"{UNCHECKED}; UPDATE flowstone.run SET finished_at = NULL WHERE id = {DONE}",
        "no instant",
    ),
    "an instant of an end": (
        f"{UNCHECKED}; UPDATE flowstone.run SET finished_at = now() WHERE id = {GOING}",
        "has an in",
    ),
    "another end": (
        f"UPDATE flowstone.run SET state = 'failed' WHERE id = {DONE}",
        "is failed, and its events tell run.s",
    ),
    "back to life": (
        f"UPDATE flowstone.run SET state = 'running', finished_at = NULL WHERE id = {DONE}",
        "is running, and its events tell that it has ended",
    ),
    "a grant that was used before it was granted": (
        "INSERT INTO flowstone.limit_key (key, firsts, lasts, counts) VALUES ('api', '{now}', '{yesterday}', '{1}')",
        "limit 'api' remembers grants that cannot be",
    ),
    "a grant of less than nothing": (
        "INSERT INTO flowstone.limit_key (key, firsts, lasts, counts) VALUES ('api', '{now}', '{now}', '{-1}')",
        "limit 'api' remembers",
    ),
    "a grant without an end": (
        "INSERT INTO flowstone.limit_key (key, firsts, counts) VALUES ('api', '{now}', '{1}')",
        "limit 'api' remembers",
    ),
    "no event of an end": (f"DELETE FROM flowstone.event WHERE run_id = {DONE}", "its events tell of no end"),
    "no last event": (f"{told('run.finished', 'run.ended')}", "0 events run.finished"),
    "two ends": (f"{told('run.started', 'run.failed')}", "run.failed and run.succeeded"),
    "two last events": (
        f"{told('run.started', 'run.finished')}",
        "has 2 events run.finished",
    ),
    "another state at the end": (
        (
            f'UPDATE flowstone.event SET body = replace(body, \'"state":"succeeded"\', \'"state":"x"\') '
            f"WHERE run_id = {DONE}"
        ),
        "its run.finished tells x",
    ),
    "an event after the end": (
        (
            "INSERT INTO flowstone.event (born, run_id, first_no, count, cursor, at, pipeline, body) SELECT born, run_id, "
            f"first_no + count, 1, 0, now(), pipeline, '[]' FROM flowstone.event "
            f"WHERE (run_id, first_no) = ({DONE}, {LAST})"
        ),
        "after its run.finished, which is number",
    ),
    "a gap": (
        f"UPDATE flowstone.event SET first_no = first_no + 5 WHERE (run_id, first_no) = ({DONE}, {LAST})",
        "next",
    ),
    "an overlap": (
        f"UPDATE flowstone.event SET count = count + 1 WHERE (run_id, first_no) = ({DONE}, 1)",
        "comes next",
    ),
    "a queued run with an owner": (
        f"UPDATE flowstone.run SET state = 'queued' WHERE id = {GOING}",
        "belongs to worker",
    ),
    "no fence": (f"UPDATE flowstone.run SET fence = 0 WHERE id = {GOING}", "has the fence 0"),
    "more owners than fences": (f"UPDATE flowstone.run SET lost = 7 WHERE id = {GOING}", "has lost 7 owners"),
    "a claim of an ended run": (f"UPDATE flowstone.asset_key SET claim_run = {DONE}", "which is succeeded"),
    "a claim of no run": ("UPDATE flowstone.asset_key SET claim_run = gen_random_uuid()", "which there is not"),
    "a claim of a queued run": (
        f"UPDATE flowstone.run SET state = 'queued', worker = NULL WHERE id = {GOING}",
        "which is queued",
    ),
    "a queued run without a place": (
        f"UPDATE flowstone.run SET state = 'queued', worker = NULL, due_at = NULL WHERE id = {GOING}",
        "nobody will claim it",
    ),
    "steps without a run": (
        (
            "INSERT INTO flowstone.step (run_id, body, id, at, born, place, seen, attempt, kind, key, path, function, "
            "arguments) SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now(), now(), 0, 0, 1, 'step', "
            "'f#0', '', 'f', ''"
        ),
        "which there is not, has 1 step on record",
    ),
    "a key of a submission without a run": (
        "INSERT INTO flowstone.run_key (pipeline, key, run_id, subject) VALUES ('shop', 'mine', gen_random_uuid(), '')",
        "the key 'mine' of a submission",
    ),
    "no current value": ("DELETE FROM flowstone.materialization WHERE asset = 'total'", "which there is not"),
    "another key's value": (
        f"UPDATE flowstone.asset_key SET current = {CURRENT} WHERE asset = 'total'",
        "which is another key's",
    ),
    "a current value without contents": (
        f"UPDATE flowstone.materialization SET payload = NULL WHERE id = {CURRENT}",
        "nothing but the record is left",
    ),
    "an older value": (f"UPDATE flowstone.asset_key SET current = {OLD} WHERE asset = 'numbers'", "committed after it"),
    "an impossible count": ("UPDATE flowstone.asset_key SET lost = -1 WHERE asset = 'total'", "has lost -1 owners"),
    "a value that is lost": (f"DELETE FROM flowstone.superseded WHERE materialization = {OLD}", "superseded 0 times"),
    "a value superseded twice": (f"INSERT INTO flowstone.superseded VALUES (now(), {OLD})", "superseded 2 times"),
    "a current value that is superseded": (
        f"INSERT INTO flowstone.superseded VALUES (now(), {CURRENT})",
        "is current and superseded 1 time",
    ),
    "a superseded value that is gone": (
        f"DELETE FROM flowstone.materialization WHERE id = {OLD}",
        "is superseded, and there is none",
    ),
    "an input without an edge": ("DELETE FROM flowstone.lineage", "lineage does not know it"),
    "an edge without an input": (
        "UPDATE flowstone.materialization SET inputs = '[]' WHERE asset = 'total'",
        "the former does not record it",
    ),
    "an edge of nothing": (
        "UPDATE flowstone.lineage SET materialization = gen_random_uuid()",
        "the former there is not",
    ),
    "a result too many": (
        (
            "INSERT INTO flowstone.scatter_block (scatter, first, page, places, body) "
            "SELECT scatter, first, page, places, body FROM flowstone.scatter_block"
        ),
        "is closed and counts 3 succeeded and 1 failed of 4, in 0 open chunks; there are 6 results",
    ),
    "a result too few": ("DELETE FROM flowstone.scatter_block", "there are 0 results and 1 failures"),
    "a failure too few": ("DELETE FROM flowstone.scatter_failure", "there are 3 results and 0 failures"),
    "an item too many": ("UPDATE flowstone.scatter SET total = total + 1", "3 succeeded and 1 failed of 5"),
    "an open chunk of what is closed": (
        "UPDATE flowstone.scatter_chunk SET state = 'ready' WHERE NOT alone",
        "in 1 open chunks",
    ),
    "a value without its scatter": (
        (
            "DELETE FROM flowstone.scatter; DELETE FROM flowstone.scatter_chunk; DELETE FROM flowstone.scatter_block; "
            "DELETE FROM flowstone.scatter_failure"
        ),
        "and its scatter is not there",
    ),
    "rows of a scatter that nobody deletes": (
        "UPDATE flowstone.scatter_key SET scatter = gen_random_uuid()",
        "is not there, and has pages or keys that nobody deletes",
    ),
    "chunks of a scatter that nobody deletes": (
        "UPDATE flowstone.scatter_chunk SET scatter = gen_random_uuid()",
        "is not there, and has chunks or failures that nobody deletes",
    ),
    "results that are to be deleted": (
        "INSERT INTO flowstone.scatter_remains (scatter, part) SELECT id, 'results' FROM flowstone.scatter",
        "has results or notes that are listed to be deleted, and is there",
    ),
    "an item that waits at no gate": ("DELETE FROM flowstone.scatter_wait", PARKED),
    "an item that waits at a gate that there is not": (
        "UPDATE flowstone.scatter_wait SET gate = gen_random_uuid()",
        PARKED,
    ),
    "an item that waits at a gate that has ended": (WOKEN, PARKED),
    "an item one of whose gates has ended": (
        (
            f"{WOKEN}; INSERT INTO flowstone.gate (id, run_id, opened_at, kind, pipeline, asset, io, partition, name, body, key, "
            f"facts) SELECT '{GATE}', run_id, now(), kind, pipeline, asset, io, partition, name, body, key, facts "
            f"FROM flowstone.gate; INSERT INTO flowstone.scatter_wait SELECT '{GATE}', scatter, first "
            f"FROM flowstone.scatter_wait"
        ),
        PARKED,
    ),
    "what an item waits at, of a scatter that nobody deletes": (
        "UPDATE flowstone.scatter_wait SET scatter = gen_random_uuid()",
        "is not there, and has chunks or failures that nobody deletes",
    ),
    "a value of a scatter that failed": ("UPDATE flowstone.scatter SET state = 'failed'", "and its scatter is failed"),
}


async def fill(connection: asyncpg.Connection, server: TestServer) -> None:
    """Leave runs that succeeded, failed, were cancelled and go on, and values that were replaced and removed."""
    pipe, begun = Pipeline("shop"), asyncio.Event()

    @pipe.asset
    async def numbers() -> list[int]:
        return [1, 2, 3]

    @pipe.asset
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    @pipe.asset
    async def broken(numbers: list[int]) -> int:
        raise ValueError("\0")

    @pipe.asset
    async def endless(numbers: list[int]) -> int:
        begun.set()
        await asyncio.Event().wait()
        return 0

    @pipe.scatter(range(4), tolerate=0.5, retry=False)
    async def parts(no: int) -> int:
        if no == 2:
            raise ValueError("bad")
        return no

    @pipe.scatter([1], park_after=0)
    async def asked(no: int, ctx: Context) -> str:
        return await ctx.signal(str, token=f"item {no}")

    dsn = server.address.dsn(await connection.fetchval("SELECT current_database()"))
    async with Engine(pipe, store=dsn, direct=dsn, grace="1ms", secret=b"s" * 32) as engine:
        await in_state(engine, (await engine.submit(asked)).id, "waiting")
        await engine.run(numbers)
        await engine.run(total, force="all")
        await engine.run(parts)
        with pytest.raises(ExecutionError):
            await engine.run(broken)
        await engine.invalidate(numbers)
        await engine.run(numbers)
        cancelled = await engine.submit(endless)
        await begun.wait()
        await cancelled.cancel()
        begun.clear()
        await engine.submit(endless)
        await begun.wait()
    await connection.execute("UPDATE flowstone.run SET worker = 'somebody' WHERE state = 'running'")


@pytest_asyncio.fixture
async def dsn(server: TestServer) -> AsyncIterator[str]:
    """A database of the test's own, with a history."""
    await server.create_template("verify", lambda connection: fill(connection, server))
    made = await server.clone("verify")
    yield made
    await server.drop(made)


async def test_a_store_that_works_is_whole(opened: Opened) -> None:
    assert await opened.store.verify() == ()


@pytest.mark.parametrize(
    "left",
    [
        gated(SUSPEND),
        gated(f"{decided()}; {SUSPEND}; UPDATE flowstone.gate_outcome SET woken = false", opened=False),
        gated(of=DONE),
        f"{WOKEN}; UPDATE flowstone.gate_outcome SET woken = false",
    ],
    ids=["a run waits", "nobody has woken it yet", "its run has ended", "nobody has made the item due yet"],
)
async def test_gates_that_wait_or_are_left_to_a_sweep_are_no_damage(
    opened: Opened, sql: asyncpg.Connection, left: str
) -> None:
    await sql.execute(f"DELETE FROM flowstone.asset_key WHERE claim_run IS NOT NULL; {left}")
    assert await opened.store.verify() == ()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_damage_is_told(opened: Opened, sql: asyncpg.Connection, damage: tuple[str, str]) -> None:
    statement, words = damage
    await sql.execute(statement)

    found = await opened.store.verify()

    assert any(words in each.problem for each in found), found
    assert not any(each.remedy for each in found)


async def test_it_reads_through_a_transaction_pooler_and_leaves_nothing_on_it(
    opened: Opened, dsn: str, open_store: OpenStore
) -> None:
    async with Pooler(dsn) as pooler:
        pooled = await open_store(pooler.dsn, direct=dsn, notify=False)
        assert await pooled.store.verify() == ()
        assert await pooled.store.verify() == ()


async def test_it_writes_nothing_and_waits_for_nobody(opened: Opened, dsn: str) -> None:
    async with asyncio.timeout(20):
        other = await asyncpg.connect(dsn)
        async with other.transaction():
            await other.execute("SELECT FROM flowstone.run FOR UPDATE; SELECT FROM flowstone.asset_key FOR UPDATE")
            assert await opened.store.verify() == ()
        await other.close()


async def test_a_run_that_is_forgotten_meanwhile_is_no_damage(
    opened: Opened, dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prune` deletes a run's events in transactions of their own, and then the run."""
    await sql.execute(f"DELETE FROM flowstone.event WHERE run_id = {DONE}")
    assert await opened.store.verify()
    other = await asyncpg.connect(dsn)
    run_id = await other.fetchval(f"SELECT {DONE}")
    inside = other.transaction()
    await inside.start()
    await other.execute("DELETE FROM flowstone.run WHERE id = $1", run_id)
    await other.execute("LOCK TABLE flowstone.lineage IN ACCESS EXCLUSIVE MODE")
    verifying = asyncio.create_task(opened.store.verify())
    async with asyncio.timeout(20):
        while not await sql.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0)
    await inside.commit()
    await other.close()

    assert await verifying == ()


async def test_no_more_than_some_examples_are_named(opened: Opened, sql: asyncpg.Connection) -> None:
    await sql.execute(
        "INSERT INTO flowstone.superseded SELECT now(), gen_random_uuid() FROM generate_series(1, 1000);"
        "INSERT INTO flowstone.run (id, fence, created_at, continuable, state, pipeline, partition, targets, options, "
        "params) SELECT gen_random_uuid(), 0, now(), true, 'queued', 'shop', '', '[]', '{}', '{}' "
        "FROM generate_series(1, 1000)"
    )

    found = await opened.store.verify()

    assert len([each for each in found if "is superseded" in each.problem]) == MOST
    assert len([each for each in found if "fence 0" in each.problem]) == MOST
