"""A store that cannot be used ends a command with a clear error and its exit code, and nothing is lost."""

from __future__ import annotations

import asyncio
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typing_extensions import override

from tests.e2e.commands import Ended, run
from tests.e2e.database import connection
from tests.e2e.disks import as_root, fill, mounted, remount, stored, until_log_says
from tests.e2e.invariants import assert_whole, counts
from tests.e2e.programs.chain import BULK
from tests.e2e.servers import Server
from tests.postgres.wire import Proxy, Stream


def refused(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended
    for word in ("error: ", *words, "\n  "):
        assert word in ended.err, ended
    assert "Traceback" not in ended.err


@pytest.fixture
def server(folder: Path, made: Path) -> Iterator[Server]:
    """A server that asks for a password, with a value in it."""
    subprocess.run(["cp", "-a", made, folder / "server"], check=True)
    with Server(folder / "server", tcp=True) as server:
        assert run(folder, "first", server.dsn).end().code == 0
        yield server


async def assert_kept(folder: Path, dsn: str) -> None:
    """See that the value that was there before is used."""
    again = await asyncio.to_thread(run(folder, "second", dsn).end)
    assert again.code == 0, again
    assert counts(folder) == {"first": 1, "second": 1}
    async with connection(dsn) as connected:
        await assert_whole(connected)


async def test_a_server_that_cannot_be_used_is_told_with_the_way_out(folder: Path, server: Server) -> None:
    dsn, address = server.dsn, server.address
    assert address.password is not None
    tries = [
        (dsn.replace(address.password, "x" * 64), ("the password was not accepted", "127.0.0.1")),
        (dsn.replace(f"/{address.database}?", "/elsewhere?"), ("the database does not exist", "127.0.0.1")),
        (dsn.replace(str(address.port), "1"), ("nobody listens there", "127.0.0.1:1/")),
        (dsn.replace("127.0.0.1", "nowhere.invalid"), ("its host is unknown", "nowhere.invalid")),
    ]
    programs = [run(folder, "second", each) for each, _ in tries]
    for program, (_, words) in zip(programs, tries, strict=True):
        ended = program.end()
        refused(ended, 8, *words)
        assert address.password not in ended.err
        assert "xxxx" not in ended.err
    await assert_kept(folder, dsn)


class OldServer(Proxy):
    """A server that says it is Postgres 14."""

    @override
    async def serve(self, client: Stream, startup: bytes) -> None:
        server = await self.connect()
        await server.send(startup)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass(client, server))
            group.create_task(self._pass(server, client))

    async def _pass(self, source: Stream, target: Stream) -> None:
        try:
            while True:
                _, data = await source.message()
                await target.send(data.replace(struct.pack("!i", self.version), struct.pack("!i", 140012)))
        except (OSError, asyncio.IncompleteReadError):
            target.cut()

    version = 0


async def test_a_server_that_is_too_old_is_refused(folder: Path, made: Path) -> None:
    subprocess.run(["cp", "-a", made, folder / "server"], check=True)
    with Server(folder / "server") as server:
        async with OldServer(server.dsn) as old, connection(server.dsn) as connected:
            old.version = int(await connected.fetchval("SHOW server_version_num"))
            ended = await asyncio.to_thread(run(folder, "first", old.dsn).end)
            refused(ended, 2, "is version 14; 15 or newer is needed")
            assert not await connected.fetchval("SELECT to_regnamespace('flowstone') IS NOT NULL")


async def test_a_schema_that_is_not_this_librarys_is_refused_and_left_alone(folder: Path, server: Server) -> None:
    changes = {
        "INSERT INTO flowstone.migration (number, name, sha256) VALUES (9999, 'later', '')": "is newer than this library",
        "UPDATE flowstone.migration SET sha256 = ''": "was applied from another text",
    }
    async with connection(server.dsn) as sql:
        before = await sql.fetch("TABLE flowstone.migration")
        for change, words in changes.items():
            await sql.execute(change)
            changed = await sql.fetch("TABLE flowstone.migration")

            refused(run(folder, "second", server.dsn).end(), 2, words)

            assert await sql.fetch("TABLE flowstone.migration") == changed
            await sql.execute("TRUNCATE flowstone.migration")
            rows = [tuple(row.values()) for row in before]
            await sql.executemany("INSERT INTO flowstone.migration VALUES ($1, $2, $3, $4)", rows)
    await assert_kept(folder, server.dsn)


@as_root
async def test_a_read_only_folder_is_refused_and_keeps_what_it_has(folder: Path, made: Path) -> None:
    with stored(folder, made) as (disk, store):
        assert run(folder, "first", store).end().code == 0
        remount(disk, "ro")
        refused(run(folder, "second", store).end(), 2, str(disk / "store"), "Name another folder")
        refused(run(folder, "second", f"embedded:{disk / 'new'}").end(), 2, str(disk / "new"), "Name another folder")
        remount(disk, "rw")
        assert run(folder, "second", store).end().code == 0
        assert counts(folder) == {"first": 1, "second": 1}


@as_root
async def test_a_disk_without_room_for_a_database_is_told_and_the_next_command_finds_nothing_half_made(
    folder: Path,
) -> None:
    with mounted(folder / "disk", "20m") as disk:
        store = f"embedded:{disk / 'store'}"
        refused(run(folder, "first", store).end(), 8, "No space left on device")
        remount(disk, "size=200m")
        assert run(folder, "first", store).end().code == 0
        assert counts(folder) == {"first": 1}


@as_root
async def test_a_disk_that_fills_up_under_a_run_and_is_cleared_loses_nothing(folder: Path, made: Path) -> None:
    with stored(folder, made) as (disk, store):
        assert run(folder, "first", store).end().code == 0
        await fill(disk)
        with run(folder, "bulky", store) as running:
            until_log_says(disk / "store/cluster/log", "No space left on device")
            (disk / "ballast").unlink()
            ended = running.end()
        assert ended.code == 0, ended
        assert counts(folder) == {"first": 1, "bulky": 1}
        with Server(disk / "store") as server:
            async with connection(server.dsn) as sql:
                await assert_whole(sql)
                assert (
                    await sql.fetchval("SELECT length(payload) FROM flowstone.materialization WHERE asset = 'bulky'")
                    > BULK
                )
