"""Nobody else on the machine gets in, and root's folders stay as private as they were."""

import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from flowstone_async.store.embedded import binaries
from flowstone_async.store.embedded.account import server_account
from flowstone_async.store.embedded.locks import is_held
from flowstone_async.store.embedded.server import EmbeddedServer
from tests.postgres.embedded.conftest import as_root, plain_user
from tests.postgres.embedded.process import Process, postmaster_pid
from tests.support.postgres import FAST

NOBODY = pwd.getpwnam("nobody")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", [".flowstone", "long" * 30])
def test_nothing_is_open_to_the_world(fresh: Path, user: dict[str, Any], name: str) -> None:
    home = fresh.parent / name
    with Process(home, **user) as process:
        socket_folder = Path(process.first["host"])
        roots = {home, socket_folder.parent}
        opened = [path for root in roots for path in [root, *root.rglob("*")] if not path.is_symlink()]
        reachable = {home, home / "cluster", socket_folder.parent}
        for path in opened:
            assert not _mode(path) & 0o007 or path.parent in reachable, path
        assert _mode(socket_folder) == 0o700
        assert all(_mode(path) in (0o700, 0o710) for path in reachable)
        for name_ in ("secret", "password", "start.lock", "users.lock", "server.lock"):
            assert _mode(home / name_) == 0o600
    shutil.rmtree(home)


@as_root
@pytest.mark.parametrize("name", [".flowstone", "long" * 30])
def test_another_user_cannot_connect(fresh: Path, name: str) -> None:
    with Process(fresh.parent / name) as process:
        host = Path(process.first["host"])
        strangers: list[tuple[dict[str, Any], str]] = [
            ({"uid": 1, "gid": 1}, "PermissionError"),
            # Another program that runs as nobody, as some web servers do.
            ({"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid}, "PermissionError"),
            # Even with the server's own group, that is, past all the doors: the server looks at its peer.
            (
                {"uid": NOBODY.pw_uid, "gid": server_account().gid},
                "InvalidAuthorizationSpecificationError",
            ),
        ]
        for stranger, error in strangers:
            with Process(host, "connect", **stranger) as other:
                assert other.first["error"] == error
        with Process(host, "connect") as other:
            assert other.first["role"] == "flowstone"
    shutil.rmtree(fresh.parent / name)


@as_root
def test_a_plain_users_server_lets_in_that_user_only(fresh: Path) -> None:
    user = plain_user(fresh.parent)
    with Process(fresh, **user) as process:
        host = Path(process.first["host"])
        with Process(host, "connect", **user) as same:
            assert same.first["role"] == "flowstone"
        with Process(host, "connect", uid=NOBODY.pw_uid, gid=NOBODY.pw_gid) as other:
            assert other.first["error"] == "PermissionError"
        with Process(host, "connect") as root:
            assert root.first["error"] == "InvalidAuthorizationSpecificationError"


@as_root
def test_the_server_of_root_runs_as_another_user_without_roots_groups(home: Path) -> None:
    with Process(home, groups=[0, 4]) as process:
        status = Path(f"/proc/{process.first['pid']}/status").read_text()
    assert f"Uid:\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}" in status
    assert "Groups:\t \n" in status


@as_root
class TestPrivateHome:
    """The server's user cannot enter a folder that only root can."""

    @pytest.fixture
    def private(self, fresh: Path) -> Path:
        folder = fresh.parent / "private"
        folder.mkdir(mode=0o700)
        return folder

    @pytest.fixture
    def state(self, fresh: Path) -> Path:
        return fresh.parent / "var/lib/flowstone"

    def test_the_data_lives_under_the_systems_state_folder(self, private: Path, state: Path) -> None:
        home = private / "project/.flowstone"
        modes = [_mode(path) for path in private.parents]
        with Process(home, state=str(state)) as process:
            assert process.first["role"] == "flowstone"
            root = Path((home / "where").read_text().split("\n")[0])
            assert root.parent == state
            assert (root / "cluster/data/PG_VERSION").exists()
            assert not (home / "cluster").exists()
            assert f"rm -rf {home} {root}" in (home / "where").read_text()
            assert f"rm -rf {home} {root}" in process.first["notices"][0]
        assert not is_held(root / "server.lock")
        assert _mode(private) == 0o700
        assert [_mode(path) for path in private.parents] == modes
        with Process(home, state=str(state)) as process:
            assert process.first["notices"] == []
        shutil.rmtree(home)
        with Process(home, state=str(state)) as process:
            assert str(root) in process.first["notices"][0], "old data came back without a word"

    def test_a_folder_that_moved_still_knows_its_data(self, private: Path, state: Path) -> None:
        servers = [EmbeddedServer(private / name, settings=FAST, state=state) for name in ("a", "b")]
        servers[0].start()
        secret, folder = servers[0].secret(), servers[0].folder
        servers[0].stop()
        (private / "a").rename(private / "b")
        servers[1].start()
        assert (servers[1].secret(), servers[1].folder) == (secret, folder)
        servers[1].stop()

    def test_two_folders_have_two_servers(self, private: Path, state: Path) -> None:
        servers = [EmbeddedServer(private / name, settings=FAST, state=state) for name in ("a", "b")]
        assert len({server.start().host for server in servers}) == 2
        for server in servers:
            server.stop()

    def test_a_strict_umask_does_not_lock_the_server_out(self, private: Path, state: Path) -> None:
        old = os.umask(0o077)
        try:
            server = EmbeddedServer(private / "a", settings=FAST, state=state)
            server.start()
            server.stop()
        finally:
            os.umask(old)

    def test_programs_in_a_private_folder_are_copied_once(
        self, tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site = tmp_path / "site-packages"  # below pytest's own folder, which is private
        original = binaries.find_binaries(server_account(), None).folder.parent
        (site / binaries.PACKAGE).mkdir(parents=True)
        shutil.copytree(original, site / binaries.PACKAGE / original.name, symlinks=True)
        libraries = original.parents[1] / f"{binaries.PACKAGE}.libs"
        shutil.copytree(libraries, site / libraries.name)
        program = site / binaries.PACKAGE / original.name / "bin/postgres"
        monkeypatch.setattr(binaries, "_programs", lambda _: [program])
        assert not server_account().can_run(program)
        # Memory may be mounted without the right to run programs from it.
        home = Path(shutil.copytree(fresh.parent, Path("/tmp") / fresh.parent.name)) / ".flowstone"
        try:
            inodes: set[int] = set()
            for _ in range(2):
                server = EmbeddedServer(home, settings=FAST)
                server.start()
                running = Path(f"/proc/{postmaster_pid(home)}/cmdline").read_text().split("\0")[0]
                server.stop()
                assert running.startswith(f"{home}/cluster/binaries/")
                inodes.add(Path(running).stat().st_ino)
            assert len(inodes) == 1
        finally:
            shutil.rmtree(home.parent)
