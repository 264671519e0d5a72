"""One user, one server: what a folder is given, and what it keeps (CFG-04)."""

import os
import socket
import threading
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from flowstone_async.errors import ConfigError, StoreUnavailable
from flowstone_async.store.embedded import cluster
from flowstone_async.store.embedded.locks import is_held
from flowstone_async.store.embedded.server import EmbeddedServer
from tests.postgres.embedded.process import Process, postmaster_pid
from tests.support.postgres import FAST

ASK = "SELECT current_user || ' ' || current_database()"


async def test_a_started_server_answers_and_a_stopped_one_is_gone(fresh: Path) -> None:
    server = EmbeddedServer(fresh)
    address = await server.open()
    try:
        by_arguments = await asyncpg.connect(**address.arguments())
        by_url = await asyncpg.connect(address.dsn("postgres"))
        assert await by_arguments.fetchval(ASK) == "flowstone flowstone"
        assert await by_url.fetchval(ASK) == "flowstone postgres"
        settings = "SELECT name || '=' || setting FROM pg_settings WHERE name = ANY($1) ORDER BY name"
        names = ["TimeZone", "fsync", "jit", "listen_addresses", "max_connections", "synchronous_commit"]
        assert [row[0] for row in await by_url.fetch(settings, names)] == [
            "TimeZone=UTC",
            "fsync=on",
            "jit=off",
            "listen_addresses=",
            "max_connections=300",
            "synchronous_commit=on",
        ]
        locale = "SELECT datlocprovider::text || datlocale || pg_encoding_to_char(encoding) FROM pg_database"
        assert {row[0] for row in await by_url.fetch(locale)} == {"bC.UTF-8UTF8"}
        await by_arguments.close()
        await by_url.close()
    finally:
        await server.close()
    with pytest.raises(OSError, match="No such file"):
        await asyncpg.connect(**address.arguments())
    assert not is_held(fresh / "server.lock")
    assert not (fresh / "cluster/data/postmaster.pid").exists()


async def test_data_and_secret_survive_a_restart(fresh: Path) -> None:
    server = EmbeddedServer(fresh, settings=FAST)
    secrets: list[bytes] = []
    for statement in ("CREATE TABLE t AS SELECT 7 AS x", "INSERT INTO t VALUES (8)"):
        address = await server.open()
        try:
            connection = await asyncpg.connect(address.dsn())
            await connection.execute(statement)
            rows = await connection.fetch("SELECT x FROM t ORDER BY x")
            await connection.close()
            secrets.append(server.secret())
        finally:
            await server.close()
    assert [row[0] for row in rows] == [7, 8]
    assert secrets[0] == secrets[1] == (fresh / "secret").read_bytes()
    assert len(secrets[0]) == 32
    assert (fresh / "secret").stat().st_mode & 0o777 == 0o600


async def test_given_settings_win_over_the_defaults(home: Path) -> None:
    server = EmbeddedServer(home, settings={"max_connections": "20", "application_name": 'it\'s "quoted" $HOME'})
    address = await server.open()
    connection = await asyncpg.connect(**address.arguments())
    assert await connection.fetchval("SHOW max_connections") == "20"
    assert await connection.fetchval("SHOW application_name") == 'it\'s "quoted" $HOME'
    await connection.close()
    await server.close()


def test_a_long_log_is_put_aside_and_the_one_before_removed(server: EmbeddedServer, home: Path) -> None:
    (home / "cluster/log").write_bytes(b"x" * 2_000_000)
    (home / "cluster/log.old").write_text("before")
    server.start()
    assert (home / "cluster/log").stat().st_size < 10_000
    assert (home / "cluster/log.old").stat().st_size == 2_000_000


def test_only_the_first_use_of_a_folder_gives_notice(fresh: Path) -> None:
    notices: list[str] = []
    for _ in range(2):
        server = EmbeddedServer(fresh, settings=FAST, notice=notices.append)
        server.start()
        server.stop()
    assert len(notices) == 1
    assert str(fresh) in notices[0]
    assert f"rm -rf {fresh}" in notices[0]
    assert (
        "It stops when the last process that uses it leaves; if that one was killed, after the next use." in notices[0]
    )


def test_start_and_stop_may_be_repeated(server: EmbeddedServer, home: Path) -> None:
    server.stop()
    assert server.start() == server.start()
    pid = postmaster_pid(home)
    server.stop()
    server.stop()
    assert not is_held(home / "server.lock")
    server.start()
    assert postmaster_pid(home) != pid


def test_several_users_in_one_process_are_counted(home: Path) -> None:
    first, second = EmbeddedServer(home, settings=FAST), EmbeddedServer(home)
    assert first.start() == second.start()
    first.stop()
    assert is_held(home / "server.lock")
    second.stop()
    assert not is_held(home / "server.lock")


def test_stopping_after_the_server_died_is_clean(server: EmbeddedServer, home: Path) -> None:
    server.start()
    os.kill(postmaster_pid(home), 9)
    server.stop()
    assert not is_held(home / "server.lock")


async def test_a_server_that_died_is_started_again_by_the_next_user_and_serves_the_first(
    server: EmbeddedServer, home: Path
) -> None:
    address = await server.open()
    connection = await asyncpg.connect(**address.arguments())
    await connection.execute("CREATE TABLE t AS SELECT 7 AS x")
    os.kill(postmaster_pid(home), 9)
    connection.terminate()
    second = EmbeddedServer(home, settings=FAST)
    assert await second.open() == address
    await server.close()
    connection = await asyncpg.connect(**address.arguments())
    assert await connection.fetchval("SELECT x FROM t") == 7
    await connection.close()
    await second.close()
    assert not is_held(home / "server.lock")


async def test_a_server_that_waits_for_its_clients_to_leave_does_not_keep_a_new_user_waiting(
    server: EmbeddedServer, home: Path
) -> None:
    address = await server.open()
    connection = await asyncpg.connect(**address.arguments())
    os.kill(postmaster_pid(home), 15)
    # The server writes "stopping" before it turns anybody away.
    while True:
        try:
            await (await asyncpg.connect(**address.arguments())).close()
        except (asyncpg.CannotConnectNowError, OSError):
            break
    second = EmbeddedServer(home, settings=FAST)
    await second.open()
    connection.terminate()
    again = await asyncpg.connect(**address.arguments())
    await again.close()
    await second.close()


def test_threads_that_come_and_go_always_find_a_server(home: Path) -> None:
    errors: list[BaseException] = []

    def come_and_go() -> None:
        for _ in range(8):
            server = EmbeddedServer(home, settings=FAST)
            try:
                address = server.start()
                assert (Path(address.host) / f".s.PGSQL.{address.port}").is_socket()
            except (AssertionError, ConfigError, StoreUnavailable) as error:
                errors.append(error)
            finally:
                server.stop()

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert not is_held(home / "server.lock")


@pytest.mark.parametrize("name", ["x" * 120, "a b,'$HOME\"é`;"])
async def test_a_path_that_no_socket_can_have_gets_a_short_private_one(fresh: Path, name: str) -> None:
    home = fresh / name
    servers = [EmbeddedServer(home, settings=FAST) for _ in range(2)]
    address = await servers[0].open()
    folder = Path(address.host)
    try:
        assert len(str(folder)) < 60
        _assert_private(folder, owner_of=home / "cluster/data")
        await (await asyncpg.connect(address.dsn())).close()
        os.kill(postmaster_pid(home), 9)
        again = await servers[1].open()
        _assert_gone(folder.parent)
        await (await asyncpg.connect(again.dsn())).close()
    finally:
        for server in servers:
            await server.close()
    _assert_gone(Path(again.host).parent)


def _assert_private(folder: Path, *, owner_of: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.owner() == owner_of.owner()


def _assert_gone(folder: Path) -> None:
    assert not folder.exists()


def test_a_removed_folder_is_made_anew_and_its_old_user_stops_nothing(fresh: Path) -> None:
    old, new = EmbeddedServer(fresh, settings=FAST), EmbeddedServer(fresh, settings=FAST)
    old.start()
    pid = postmaster_pid(fresh)
    removed = fresh.rename(fresh.with_name("removed"))
    new.start()
    try:
        old.stop()
        assert is_held(fresh / "server.lock")
    finally:
        new.stop()
    assert is_held(removed / "server.lock")
    os.kill(pid, 9)  # it would notice by itself, within a minute


async def test_variables_for_postgres_in_the_environment_do_not_count(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    address = await server.open()
    for connection in (await asyncpg.connect(**address.arguments()), await asyncpg.connect(address.dsn())):
        assert await connection.fetchval(ASK) == "flowstone flowstone"
        await connection.close()


def test_an_empty_environment_is_enough(fresh: Path) -> None:
    with Process(fresh, env={}) as process:
        assert process.first["role"] == "flowstone"


def test_a_strange_environment_is_no_obstacle(fresh: Path) -> None:
    strange = {**HOSTILE, "LC_ALL": "xx_XX.nonsense", "LANG": "de_DE", "TZ": "Mars/Olympus", "PATH": "/nonexistent"}
    with Process(fresh, env=strange) as process:
        assert process.first["role"] == "flowstone"


HOSTILE = {
    "PGDATA": "/nonexistent",
    "PGDATABASE": "nonsense",
    "PGHOST": "nowhere.invalid",
    "PGOPTIONS": "-c nonsense=1",
    "PGPASSFILE": "/nonexistent/file",
    "PGPORT": "1",
    "PGSERVICE": "nonsense",
    "PGSSLMODE": "verify-full",
    "PGTARGETSESSIONATTRS": "standby",
    "PGUSER": "nobody",
}


async def test_over_tcp_a_password_is_needed(fresh: Path) -> None:
    server = EmbeddedServer(fresh, settings=FAST, tcp=True)
    address = await server.open()
    try:
        assert address.host == "127.0.0.1"
        assert str(address.password) not in repr(address)
        for connection in (await asyncpg.connect(**address.arguments()), await asyncpg.connect(address.dsn())):
            assert await connection.fetchval(ASK) == "flowstone flowstone"
            await connection.close()
        for password in ("", "wrong"):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(**replace(address, password=password).arguments())
        second = EmbeddedServer(fresh, tcp=True)
        assert await second.open() == address
        await second.close()
    finally:
        await server.close()


async def test_tcp_cannot_be_had_from_a_server_without(server: EmbeddedServer, home: Path) -> None:
    await server.open()
    with pytest.raises(ConfigError, match="was started without TCP"):
        await EmbeddedServer(home, tcp=True).open()
    assert is_held(home / "server.lock"), "the refused user stopped the server of another one"


def test_a_taken_tcp_port_is_left_for_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedServer(home, settings=FAST, tcp=True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken, free = other.getsockname()[1], cluster._free_port()
        ports = iter([taken, taken, free])
        monkeypatch.setattr(cluster, "_free_port", lambda: next(ports))
        try:
            assert server.start().port == free
        finally:
            server.stop()
