"""Several processes share one server; any of them may be killed, at any point."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from flowstone_async.errors import StoreUnavailable
from flowstone_async.store.embedded import cluster
from flowstone_async.store.embedded.locks import is_held
from flowstone_async.store.embedded.server import EmbeddedServer
from tests.postgres.embedded.process import Process, postmaster_pid


def test_processes_that_start_at_once_on_a_new_folder_share_one_server(fresh: Path, user: dict[str, Any]) -> None:
    processes = [Process(fresh, **user) for _ in range(4)]
    said = [process.first for process in processes]
    assert len({(facts["pid"], facts["system_identifier"]) for facts in said}) == 1
    assert [len(facts["notices"]) for facts in said].count(1) == 1
    assert [process.end() for process in processes[1:]] == [0, 0, 0]
    assert processes[0].tell("query")["system_identifier"] == said[0]["system_identifier"]
    assert processes[0].tell("stop") == {"stopped": True}
    assert not is_held(fresh / "server.lock")
    assert processes[0].end() == 0
    assert not list((fresh / "workers").iterdir())


def test_the_server_survives_a_killed_user_and_stops_with_the_last_one(home: Path) -> None:
    with Process(home) as killed, Process(home) as other:
        assert killed.first["pid"] == other.first["pid"]
        killed.kill()
        assert other.tell("query")["role"] == "flowstone"
        other.tell("stop")
        assert not is_held(home / "server.lock")


def test_a_server_whose_only_user_was_killed_is_found_and_stopped_by_the_next(
    fresh: Path, user: dict[str, Any]
) -> None:
    with Process(fresh, **user) as killed:
        pid = killed.first["pid"]
        killed.kill()
    with Process(fresh, **user) as following:
        assert following.first["pid"] == pid
    assert not is_held(fresh / "server.lock")


def test_a_server_and_its_only_user_that_were_killed_together_are_no_obstacle(
    fresh: Path, user: dict[str, Any]
) -> None:
    with Process(fresh, **user) as killed:
        killed.first  # noqa: B018 - waits until it has started
        killed.kill()
    os.kill(postmaster_pid(fresh), signal.SIGKILL)
    with Process(fresh, **user) as following:
        assert following.first["role"] == "flowstone"
    assert not is_held(fresh / "server.lock")


@pytest.mark.parametrize(
    "point",
    [
        "before the secret is written",
        "before initdb",
        "during initdb",
        "before the database is made",
        "during the making of the database",
        "before the data is renamed",
        "after the data was made",
        "before the server is run",
        "after the server was run",
        "before the server is told to stop",
        "after the server was told to stop",
    ],
)
def test_killed_at_any_point_the_same_command_works_again(fresh: Path, point: str) -> None:
    with Process(fresh, crash=point) as killed:
        if "stop" in point:
            assert killed.first["role"] == "flowstone"
        assert killed.end() == -signal.SIGKILL
    with Process(fresh) as again:
        assert again.first["role"] == "flowstone"
    assert not is_held(fresh / "server.lock")
    assert sorted(path.name for path in (fresh / "cluster").iterdir()) == [
        "data",
        "log",
        "pg_hba.conf",
        "pg_ident.conf",
    ]


def test_an_orphan_of_a_killed_start_is_waited_for(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_UNSENT_SECONDS", 0)
    with Process(fresh, crash="during a long initdb") as killed:
        orphan = killed.first["orphan"]
        assert killed.end() == -signal.SIGKILL
    try:
        assert is_held(fresh / "server.lock")
        with pytest.raises(StoreUnavailable, match="does not answer"):
            EmbeddedServer(fresh, patience=0).start()
    finally:
        os.kill(orphan, signal.SIGCONT)
    with Process(fresh) as again:
        assert again.first["role"] == "flowstone"


def test_ctrl_c_reaches_the_user_and_not_the_server(home: Path) -> None:
    with Process(home) as process:
        assert process.first["role"] == "flowstone"
        process.interrupt()
        interrupted = process.next()
        assert interrupted["interrupted"]
        assert interrupted["system_identifier"] == process.first["system_identifier"]
        assert process.next() == {"error": "KeyboardInterrupt"}
    assert not is_held(home / "server.lock")


@pytest.mark.parametrize("point", ["interrupt during initdb", "interrupt before it answers"])
def test_ctrl_c_during_the_start_leaves_no_lock_and_no_server(fresh: Path, point: str) -> None:
    with Process(fresh, crash=point) as process:
        assert process.first == {"error": "KeyboardInterrupt"}
        assert not is_held(fresh / "users.lock")
    with Process(fresh) as again:
        assert again.first["role"] == "flowstone"


def test_a_fork_of_a_user_does_not_stop_its_server(server: EmbeddedServer, home: Path) -> None:
    server.start()
    child = os.fork()
    if child == 0:
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)
    assert is_held(home / "server.lock")
    server.stop()
    assert not is_held(home / "server.lock")
