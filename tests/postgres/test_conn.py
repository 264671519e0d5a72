"""Submitting in a transaction of the caller's (JOB-05), and what others see of it."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from flowstone_async.errors import ConfigError, KeyConflict, StoreUnavailable
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.records import Submission, Submitted
from tests.contract.builders import run_record
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.waiting import blocked


def submission(key: str | None = None, subject: str = "subject", **changes: Any) -> Submission:
    return Submission(run=run_record(None, state="queued", submitted=True, **changes), subject=subject, key=key)


async def claimed(opened: Opened) -> list[str]:
    return [run.id for run in await opened.store.claim(opened.worker.id, ["sales"], limit=10)]


async def test_it_becomes_visible_with_the_commit(open_store: OpenStore, sql: asyncpg.Connection) -> None:
    opened = await open_store()
    async with sql.transaction():
        stored = await opened.store.submit(submission(), connection=sql)
        assert stored.created
        assert await opened.store.run(stored.run.id) is None
        assert await claimed(opened) == []
    assert await claimed(opened) == [stored.run.id]


async def test_it_vanishes_with_a_rollback(open_store: OpenStore, sql: asyncpg.Connection) -> None:
    """With its key, its audit entry, and what it joined."""
    opened = await open_store()
    other = (await opened.store.submit(submission(request="same"))).run
    for key, request in (("order:1", ""), (None, "same")):
        sent = submission(key, request=request)
        transaction = sql.transaction()
        await transaction.start()
        stored = await opened.store.submit(sent, connection=sql)
        await transaction.rollback()
        assert await opened.store.run(sent.run.id) is None
        assert stored.run.id in (sent.run.id, other.id)
    assert (await opened.store.submit(submission("order:1", "another subject"))).created
    assert await sql.fetchval("SELECT count(*) FROM flowstone.run") == 2
    assert await sql.fetchval("SELECT count(*) FROM flowstone.audit") == 2


async def test_a_connection_of_a_pool_without_a_transaction(open_store: OpenStore, dsn: str) -> None:
    """It is stored at once."""
    opened = await open_store()
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        stored = await opened.store.submit(submission(), connection=connection)
    assert await claimed(opened) == [stored.run.id]


async def test_within_the_transaction_its_own_submissions_are_known(
    open_store: OpenStore, sql: asyncpg.Connection
) -> None:
    """JOB-03: by key; an equal run is one of its own, for another that has begun does not see what is written here."""
    opened = await open_store()
    async with sql.transaction():
        first = await opened.store.submit(submission("order:1", request="same"), connection=sql)
        found = await opened.store.submit(submission("order:1"), connection=sql)
        assert (found.run.id, found.created) == (first.run.id, False)
        assert found.run.targets == first.run.targets
        other = await opened.store.submit(submission("order:2", request="same"), connection=sql)
        assert other.created
        with pytest.raises(KeyConflict):
            await opened.store.submit(submission("order:1", "another"), connection=sql)
    assert await claimed(opened) == [first.run.id, other.run.id]


@pytest.mark.parametrize("commits", [True, False])
async def test_whoever_submits_the_same_waits_for_the_transaction(
    open_store: OpenStore, sql: asyncpg.Connection, commits: bool
) -> None:
    """JOB-03: it joins what was committed, and stores its own if that was rolled back."""
    opened = await open_store()
    transaction = sql.transaction()
    await transaction.start()
    first = await opened.store.submit(submission("order:1"), connection=sql)
    waiting = asyncio.create_task(opened.store.submit(submission("order:1")))
    await blocked(sql)
    await (transaction.commit() if commits else transaction.rollback())
    found: Submitted = await asyncio.wait_for(waiting, 30)
    assert (found.run.id == first.run.id) is commits
    assert found.created is not commits


async def test_a_transaction_that_stays_open_is_not_waited_for_for_ever(
    open_store: OpenStore, sql: asyncpg.Connection
) -> None:
    """It is said what keeps it waiting, and it may be tried again; commits of runs go on meanwhile."""
    opened = await open_store()
    await sql.execute("ALTER FUNCTION flowstone.submit SET lock_timeout = '100ms'")
    async with sql.transaction():
        await opened.store.submit(submission("order:1"), connection=sql)
        with pytest.raises(StoreUnavailable, match="another transaction holds") as caught:
            await opened.store.submit(submission("order:1"))
        assert caught.value.retryable
        assert "open transaction" in (caught.value.hint or "")
        assert (await (await opened.start()).finish()).accepted
    assert not (await opened.store.submit(submission("order:1"))).created


async def test_nothing_that_runs_is_joined_from_a_transaction(open_store: OpenStore, sql: asyncpg.Connection) -> None:
    """JOB-02, JOB-05: it does not see what the transaction writes, and its caller may cancel it meanwhile."""
    opened = await open_store()
    drive = await opened.start(request="same")
    async with sql.transaction():
        stored = await opened.store.submit(submission(request="same"), connection=sql)
        assert stored.created
        assert (await drive.finish()).accepted
    assert await claimed(opened) == [stored.run.id]


async def test_a_run_is_not_abandoned_that_is_just_being_joined(
    open_store: OpenStore, dsn: str, sql: asyncpg.Connection
) -> None:
    """RUN-17: whoever joins it holds it, and its owner commits meanwhile; then it has been joined."""
    opened = await open_store()
    drive = await opened.start(request="same")
    other = await asyncpg.connect(dsn)
    async with other.transaction():
        await other.execute("SELECT FROM flowstone.run WHERE id = $1::text::uuid FOR KEY SHARE", drive.id)
        abandoning = asyncio.create_task(opened.store.cancel(drive.id, (), (), unless_joined=True))
        await blocked(sql)
        assert (await drive.advance("asset.started")).accepted
        await other.execute("INSERT INTO flowstone.run_key VALUES ('sales', 'joined', $1::text::uuid, 's')", drive.id)
    left = await asyncio.wait_for(abandoning, 30)
    assert left is not None
    assert left.state == "running"
    await other.close()


async def test_a_failed_transaction_is_the_caller_s(open_store: OpenStore, sql: asyncpg.Connection) -> None:
    """What the driver says of his transaction comes as an error of the library, and changes nothing."""
    opened = await open_store()
    with pytest.raises(asyncpg.PostgresError):
        async with sql.transaction():
            with pytest.raises(asyncpg.PostgresError):
                await sql.execute("SELECT 1/0")
            with pytest.raises(StoreUnavailable):
                await opened.store.submit(submission(), connection=sql)
            await sql.execute("SELECT 1")
    assert await claimed(opened) == []


async def test_a_transaction_that_cannot_go_on_is_told(open_store: OpenStore, sql: asyncpg.Connection) -> None:
    """It is not the store that is unavailable: the caller reads what to do with his own connection."""
    opened = await open_store()

    async def refused() -> StoreUnavailable:
        with pytest.raises(StoreUnavailable, match="conn= cannot be used") as caught:
            await opened.store.submit(submission("order:1"), connection=sql)
        return caught.value

    for isolation in ("repeatable_read", "serializable"):
        with pytest.raises(asyncpg.PostgresError):
            async with sql.transaction(isolation=isolation):
                await sql.execute("SELECT count(*) FROM flowstone.run")
                await opened.store.submit(submission("order:1"))
                with pytest.raises(StoreUnavailable, match="conn= cannot be used") as caught:
                    await opened.store.submit(submission("order:1"), connection=sql)
                assert "repeat it as a whole" in (caught.value.hint or "")
                assert isinstance(caught.value.__cause__, asyncpg.SerializationError)
                assert "Roll it back" in ((await refused()).hint or "")
                await sql.execute("SELECT 1")
        await sql.execute("TRUNCATE flowstone.run, flowstone.run_key CASCADE")
    async with sql.transaction(readonly=True):
        assert "may write" in ((await refused()).hint or "")
    await sql.close()
    assert "open connection" in ((await refused()).hint or "")


async def test_a_database_without_our_tables_is_told(open_store: OpenStore, server: Any) -> None:
    """The connection leads to another database than the store's."""
    opened = await open_store()
    other = await asyncpg.connect(server.address.dsn("postgres"))
    with pytest.raises(ConfigError, match="flowstone"):
        await opened.store.submit(submission(), connection=other)
    await other.close()


async def test_a_submission_is_one_statement(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """JOB-01: whatever its key and whatever it could join; a claim of ten is one, too."""
    opened = await open_store()
    sent: list[str] = []
    connections = opened.store._connections
    fetch = type(connections).fetch_text

    async def count(self: Any, text: str, *arguments: object) -> Any:
        sent.append(text)
        return await fetch(self, text, *arguments)

    monkeypatch.setattr(type(connections), "fetch_text", count)
    for no in range(10):
        await opened.store.submit(submission(f"order:{no}", f"subject {no}", request=f"request {no}"))
    assert sent.count(QUERIES["submit"]) == 10
    assert len([text for text in sent if "notify" not in text]) == 10
    assert len(await claimed(opened)) == 10
