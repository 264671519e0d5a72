"""The lock that proves a worker alive or dead."""

import threading
from pathlib import Path

import pytest

from flowstone_async.errors import ConfigError
from flowstone_async.store.embedded import workers
from flowstone_async.store.embedded.server import EmbeddedServer
from tests.postgres.embedded.process import Process


def test_a_killed_worker_is_dead_at_once_and_its_file_is_removed(server: EmbeddedServer, home: Path) -> None:
    server.start()
    with Process(home, worker="w1") as process:
        assert process.first["role"] == "flowstone"
        assert server.is_alive("w1")
        process.kill()
        assert not server.is_alive("w1")
    assert not list((home / "workers").iterdir())


def test_a_worker_that_leaves_is_dead(server: EmbeddedServer, home: Path) -> None:
    server.start()
    with server.process_lock("w1") as lock:
        assert server.is_alive("w1")
        assert not server.is_alive("w2")
    assert not server.is_alive("w1")
    lock.release()
    assert not list((home / "workers").iterdir())


def test_the_next_start_removes_the_files_of_the_dead(server: EmbeddedServer, home: Path) -> None:
    (home / "workers/w1").touch()
    (home / "workers/.left-behind").touch()
    with Process(home, worker="w2") as process:
        assert process.first["role"] == "flowstone"
        server.start()
        assert list((home / "workers").iterdir()) == [home / "workers/w2"]


def test_the_id_of_a_living_process_is_refused_and_that_of_a_dead_one_is_not(
    server: EmbeddedServer, home: Path
) -> None:
    server.start()
    (home / "workers/w1").touch()
    with server.process_lock("w1"):
        with pytest.raises(ConfigError, match="'w1' is in use by a living process"):
            server.process_lock("w1")
        assert server.is_alive("w1")
    assert not list((home / "workers").iterdir())


@pytest.mark.parametrize("worker_id", ["", "../secret", "a/b", ".hidden", "x" * 300, "a\n"])
def test_an_id_that_is_no_file_name_is_refused(server: EmbeddedServer, worker_id: str) -> None:
    server.start()
    with pytest.raises(ConfigError, match="is not a file name"):
        server.process_lock(worker_id)
    with pytest.raises(ConfigError, match="is not a file name"):
        server.is_alive(worker_id)


def test_before_the_start_there_is_nothing_to_ask(server: EmbeddedServer) -> None:
    for ask in (server.secret, lambda: server.folder, lambda: server.is_alive("w"), lambda: server.process_lock("w")):
        with pytest.raises(ConfigError, match="is not started"):
            ask()


def test_workers_that_come_while_others_look_are_never_taken_for_dead(tmp_path: Path) -> None:
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            workers.sweep(tmp_path)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    alive: list[bool] = []
    for number in range(200):
        with workers.hold(tmp_path, f"w{number}"):
            alive.append(workers.is_alive(tmp_path, f"w{number}"))
    done.set()
    for looker in lookers:
        looker.join()
    assert all(alive)
    assert not list(tmp_path.iterdir())
