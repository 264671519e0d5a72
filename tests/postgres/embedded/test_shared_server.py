"""The server that other tests share: templates, clones, and who removes it."""

from pathlib import Path

import asyncpg
import pytest

from tests.support.postgres import TestServer


async def _prepare(connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE TABLE t AS SELECT 7 AS x")


async def _rows(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval("SELECT count(*) FROM t")
    finally:
        await connection.close()


async def test_clones_of_a_template_do_not_see_each_other(fresh: Path) -> None:
    with TestServer(folder=fresh) as server:
        await server.create_template("made", _prepare)
        first, second = await server.clone("made"), await server.clone("made")
        connection = await asyncpg.connect(first)
        await connection.execute("INSERT INTO t VALUES (8)")
        assert (await _rows(first), await _rows(second)) == (2, 1)
        await server.drop(first)
        assert connection.is_closed() or not await _answers(connection)
        connection.terminate()
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await _rows(first)
        await server.drop(first)
        assert await _rows(second) == 1
        with pytest.raises(AssertionError, match="is no clone"):
            await server.drop(server.address.dsn("postgres"))


async def _answers(connection: asyncpg.Connection) -> bool:
    try:
        await connection.fetchval("SELECT 1")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return False
    return True


async def test_a_template_is_prepared_once_per_session(fresh: Path) -> None:
    prepared: list[str] = []

    async def note(connection: asyncpg.Connection) -> None:
        prepared.append(await connection.fetchval("SELECT current_database()"))
        await _prepare(connection)

    # As two workers of one run, and another run.
    with (
        TestServer(folder=fresh, session="a") as one,
        TestServer(folder=fresh, session="a") as two,
        TestServer(folder=fresh, session="b") as other,
    ):
        for server in (one, two, other):
            await server.create_template("made", note)
            assert await _rows(await server.clone("made")) == 1
    assert len(prepared) == 2


async def test_a_template_that_fails_is_not_there_and_can_be_made_again(fresh: Path) -> None:
    async def fail(connection: asyncpg.Connection) -> None:
        await _prepare(connection)
        raise ZeroDivisionError

    with TestServer(folder=fresh) as server:
        with pytest.raises(ZeroDivisionError):
            await server.create_template("made", fail)
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await server.clone("made")
        await server.create_template("made", _prepare)
        assert await _rows(await server.clone("made")) == 1


def test_the_last_to_leave_removes_the_server(fresh: Path) -> None:
    first, second = TestServer(folder=fresh), TestServer(folder=fresh)
    assert first.start() == second.start()
    first.stop()
    first.stop()
    assert fresh.exists()
    second.stop()
    assert list(fresh.parent.iterdir()) == []
