"""What a redrive costs, what is left of it, and a lost reply to it (SCAT-25, SCAT-22, CFG-06)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import asyncpg
import pytest

from flowstone_async import Batch, Batching, Engine, Gathered, Pipeline
from flowstone_async._engine.pruning import prune
from flowstone_async.store.postgres import connections
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.records import AuditEntry, Submission
from flowstone_async.store.redrives import Redrive
from flowstone_async.store.scatters import ScatterRecord
from tests.contract.builders import Drive, identifier, key, run_record
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.waiting import blocked

ITEMS, PAGE = 3000, 500
TABLES = ("scatter", "page", "key", "chunk", "block", "result", "failure")
NAMES = {text: name for name, text in QUERIES.items()}


def _pipeline(**options: Any) -> tuple[Pipeline, set[int], Counter[int]]:
    pipe, broken, calls = Pipeline("redriven"), set(range(0, ITEMS, 100)), Counter[int]()

    @pipe.scatter(range(ITEMS), **{"tolerate": 0.5, "retry": False, "page_size": PAGE, **options})
    async def items(no: int) -> int:
        calls[no] += 1
        if no in broken:
            raise ValueError("broken")
        return no

    @items.gather
    async def total(results: Gathered[int]) -> int:
        return results.succeeded

    return pipe, broken, calls


def _batched() -> tuple[Pipeline, set[int], Counter[int]]:
    """Return the same in batches of ten: every other one fails whole, of the rest one item leaves its batch and fails."""
    pipe, broken, calls = Pipeline("redriven"), set(range(0, ITEMS, 10)), Counter[int]()

    @pipe.scatter(range(ITEMS), batch=Batching(max_items=10), tolerate=1.0, retry=False, page_size=PAGE)
    async def items(batch: Batch[int]) -> int:
        calls.update(batch)
        if broken.intersection(batch):
            if len(batch) == 1 or batch[0] % 20:
                raise ValueError("broken")
            raise batch.failed({0: ValueError("broken")}, value=len(batch) - 1)
        return len(batch)

    @items.gather
    async def total(results: Gathered[int]) -> int:
        return sum([count async for count in results])

    return pipe, broken, calls


async def rows(sql: asyncpg.Connection) -> dict[str, int]:
    names = {each: "scatter" if each == "scatter" else f"scatter_{each}" for each in TABLES}
    return {each: await sql.fetchval(f"SELECT count(*) FROM flowstone.{name}") for each, name in names.items()}


async def test_what_is_kept_is_not_copied(sql: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SCAT-22: a few statements, and a row for each page; however many items there are."""
    pipe, broken, calls = _pipeline()
    async with asyncio.timeout(60), Engine(pipe, store=dsn, notify=False, poll="50ms") as engine:
        run = await engine.submit("total")
        assert await run == ITEMS - len(broken)
        failed, before = len(broken), await rows(sql)
        broken.clear()
        calls.clear()
        sent: Counter[str] = Counter()
        send = connections.Session.fetch_text

        async def count(session: connections.Session, text: str, *arguments: object) -> list[asyncpg.Record]:
            sent[NAMES.get(text, "other")] += 1
            return await send(session, text, *arguments)

        async with Engine(pipe, store=dsn, notify=False, slots=0) as asking:
            with monkeypatch.context() as patched:
                patched.setattr(connections.Session, "fetch_text", count)
                again = await (await asking.find(run.id)).redrive("items")
        assert {name for name in sent if name.startswith("redr")} == {
            "redriven_by",
            "redrive_failures",
            "redrive_chunks",
            "redrive_scatter",
        }
        assert max(sent[name] for name in sent if name.startswith("redr")) == 1
        assert await (await engine.find(again.id)) == ITEMS
        after = await rows(sql)
    assert sum(calls.values()) == failed
    assert {each: after[each] - before[each] for each in ("scatter", "page", "key", "chunk", "failure")} == {
        "scatter": 1,
        "page": 0,
        "key": 0,
        "chunk": ITEMS // PAGE,
        "failure": 0,
    }
    assert after["block"] - before["block"] <= failed


async def test_batches_that_left_theirs_are_carried_over(sql: asyncpg.Connection, dsn: str) -> None:
    """SCAT-22, BATCH-08: a row for each page, and one for each of them."""
    pipe, broken, calls = _batched()
    async with asyncio.timeout(60), Engine(pipe, store=dsn, notify=False, poll="50ms") as engine:
        run = await engine.submit("total")
        first = await run
        left = await sql.fetchval("SELECT count(*) FROM flowstone.scatter_chunk WHERE first >= 1::bigint << 62")
        assert first == 9 * left > 0
        broken.clear()
        calls.clear()
        before = await rows(sql)
        async with Engine(pipe, store=dsn, notify=False, slots=0) as asking:
            again = await (await asking.find(run.id)).redrive("items")
        assert await (await engine.find(again.id)) == ITEMS
        assert calls.total() == ITEMS - first
        assert set(calls.values()) == {1}
        after = await rows(sql)
        assert {each: after[each] - before[each] for each in ("scatter", "page", "key", "chunk", "failure")} == {
            "scatter": 1,
            "page": 0,
            "key": 0,
            "chunk": before["chunk"],
            "failure": 0,
        }
        assert await engine._live().store.verify() == ()


@pytest.mark.parametrize("pipeline", [_pipeline, _batched])
async def test_a_lost_reply_is_made_good(dsn: str, monkeypatch: pytest.MonkeyPatch, pipeline: Any) -> None:
    """The redrive was committed, and nobody heard of it: the same run is returned."""
    pipe, broken, _ = pipeline()
    async with asyncio.timeout(60), Engine(pipe, store=dsn, notify=False, poll="50ms") as engine:
        run = await engine.submit("total")
        await run
        broken.clear()
        execute, lost, here = connections.Session.execute, list[str](), asyncio.current_task()

        async def lose(session: connections.Session, text: str) -> None:
            await execute(session, text)
            if text == "COMMIT" and not lost and asyncio.current_task() is here:
                lost.append(text)
                raise asyncpg.ConnectionDoesNotExistError("gone")

        async with Engine(pipe, store=dsn, notify=False, slots=0) as asking:
            with monkeypatch.context() as patched:
                patched.setattr(connections.Session, "execute", lose)
                again = await (await asking.find(run.id)).redrive("items")
        assert lost
        assert await (await engine.find(again.id)) == ITEMS
        assert len(await engine.runs()) == 2
        acts = [entry.action for _, _, entry in await engine._live().store.audit()]
        assert acts.count("scatter.redriven") == 1


@pytest.mark.parametrize("pipeline", [_pipeline, _batched])
@pytest.mark.parametrize(
    "point",
    [
        "submit",
        "lock_siblings",
        "lock_scatter",
        "redriven_by",
        "redrive_failures",
        "redrive_chunks",
        "redrive_scatter",
        "append_audit",
    ],
)
async def test_whoever_dies_in_the_middle_has_done_nothing(
    sql: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch, point: str, pipeline: Any
) -> None:
    """Before any of its statements: the next one who asks begins from the same."""
    pipe, broken, _ = pipeline()
    async with asyncio.timeout(60), Engine(pipe, store=dsn, notify=False, poll="50ms") as engine:
        run = await engine.submit("total")
        await run
        broken.clear()
        before = await rows(sql)
        send, here = connections.Session.fetch_text, asyncio.current_task()

        async def die(session: connections.Session, text: str, *arguments: object) -> list[asyncpg.Record]:
            if NAMES.get(text) == point and asyncio.current_task() is here:
                raise _Died
            return await send(session, text, *arguments)

        async with Engine(pipe, store=dsn, notify=False, slots=0) as asking:
            handle = await asking.find(run.id)
            with monkeypatch.context() as patched, pytest.raises(_Died):
                patched.setattr(connections.Session, "fetch_text", die)
                await handle.redrive("items")
            assert await rows(sql) == before
            assert await sql.fetchval("SELECT count(*) FROM flowstone.run") == 1
            again = await handle.redrive("items")
        assert await (await engine.find(again.id)) == ITEMS
        assert await engine._live().store.verify() == ()


class _Died(BaseException):
    """Stands for the end of the process."""


async def test_what_nobody_needs_any_more_is_pruned(sql: asyncpg.Connection, dsn: str) -> None:
    """CFG-06: the value that a redrive has superseded goes, and what the new one has of it stays."""
    pipe, broken, _ = _pipeline()
    async with asyncio.timeout(60), Engine(pipe, store=dsn, notify=False, poll="50ms") as engine:
        run = await engine.submit("total")
        await run
        broken.clear()
        again = await run.redrive("items")
        assert await again == ITEMS
        before = await rows(sql)
        await prune(engine._live(), runs=None, values=0.0)
        left = await rows(sql)
        assert (before["scatter"], left["scatter"], left["failure"]) == (2, 1, 0)
        assert {each: left[each] for each in ("page", "key", "block")} == {
            each: before[each] for each in ("page", "key", "block")
        }
        found = await engine.get("items")
        assert await found.to_list(limit=ITEMS) == list(range(ITEMS))
        assert await found.get(100) == 100
        assert await engine._live().store.verify() == ()
        assert await engine.invalidate("items") == 1
        assert set((await rows(sql)).values()) == {0}


async def test_scatters_without_a_value_go_with_their_runs(sql: asyncpg.Connection, dsn: str) -> None:
    """CFG-06: that of a run that failed, and that of the run which went on from it."""
    pipe, broken, _ = _pipeline(tolerate=0)
    async with asyncio.timeout(60), Engine(pipe, store=dsn, notify=False, poll="50ms") as engine:
        run = await engine.submit("items")
        failed = (await run.report()).state
        again = await run.redrive("items")
        assert ((await again.report()).state, failed) == ("failed", "failed")
        assert (await rows(sql))["scatter"] == 2
        broken.clear()
        last = await again.redrive("items")
        assert (await last).succeeded == ITEMS
        await prune(engine._live(), runs=0.0, values=None)
        left = await rows(sql)
        assert (left["scatter"], left["failure"]) == (1, 0)
        assert await (await engine.get("items")).to_list(limit=ITEMS) == list(range(ITEMS))
        assert await engine._live().store.verify() == ()


async def _begun(drive: Drive, opened: Opened, asset: str) -> str:
    record = ScatterRecord(id=identifier(), run_id=drive.id, key=key(asset))
    begun = await opened.store.scatters.begin(record, drive.run.fence, opened.worker.id)
    assert begun is not None
    return begun.id


async def _redriven(opened: Opened, scatter: str) -> str:
    run = run_record(None, state="queued", submitted=True)
    audit = AuditEntry("run.submitted", run.id, actor="process", actor_kind="process", run_id=run.id)
    asked = Redrive(scatter, identifier(), "failed")
    return (await opened.store.submit(Submission(run=run, subject="s", audit=audit), redrives=[asked])).run.id


async def test_two_redrives_of_one_run_do_not_wait_for_each_other(
    sql: asyncpg.Connection, dsn: str, open_store: OpenStore
) -> None:
    """Each ends all scatters that the run has left open: whoever has its own first would wait for the other's."""
    first = await open_store()
    drive = await first.start()
    scatters = [await _begun(drive, first, asset) for asset in ("numbers", "more")]
    assert (await drive.finish("failed")).accepted
    # Instead of looking for deadlocks after a second, which are then resolved and tried again: never.
    await sql.execute(f"ALTER DATABASE {await sql.fetchval('SELECT current_database()')} SET deadlock_timeout = '1h'")
    holding = await asyncpg.connect(dsn)
    stores = [await open_store(), await open_store()]
    try:
        await holding.execute("BEGIN")
        await holding.fetch("SELECT FROM flowstone.scatter WHERE id = $1 FOR UPDATE", scatters[0])
        async with asyncio.timeout(30):
            one = asyncio.ensure_future(_redriven(stores[0], scatters[0]))
            await blocked(sql)
            other = asyncio.ensure_future(_redriven(stores[1], scatters[1]))
            await blocked(sql, 2)
            await holding.execute("ROLLBACK")
            runs = {await one, await other}
    finally:
        holding.terminate()
    states = await sql.fetch("SELECT id, state, run_id FROM flowstone.scatter")
    assert {str(row["id"]): row["state"] for row in states if str(row["id"]) in scatters} == dict.fromkeys(
        scatters, "cancelled"
    )
    assert {str(row["run_id"]) for row in states if row["state"] == "running"} == runs
