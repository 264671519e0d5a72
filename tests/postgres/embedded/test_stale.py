"""What a dead server left behind, and what lies about a living one."""

import os
import signal
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import asyncpg
import pytest

from flowstone_async.errors import StoreUnavailable
from flowstone_async.store.embedded import cluster
from flowstone_async.store.embedded.account import server_account
from flowstone_async.store.embedded.binaries import find_binaries
from flowstone_async.store.embedded.locks import FileLock, is_held
from flowstone_async.store.embedded.postmaster import Postmaster, read_postmaster
from flowstone_async.store.embedded.server import EmbeddedServer
from tests.postgres.embedded.process import postmaster_pid
from tests.support.postgres import FAST, short_folder


@pytest.fixture
def dead(home: Path) -> Path:
    """A folder whose server was killed, with the pid file that it left behind."""
    server = EmbeddedServer(home, settings=FAST)
    server.start()
    written = _pid_file(home).read_bytes()
    os.kill(postmaster_pid(home), signal.SIGKILL)
    server.stop()
    _pid_file(home).write_bytes(written)
    return home


def _pid_file(home: Path) -> Path:
    return home / "cluster/data/postmaster.pid"


def _says(pid: int) -> Callable[[bytes], bytes]:
    return lambda written: b"\n".join([str(pid).encode(), *written.split(b"\n")[1:]])


@pytest.fixture
def zombie() -> Generator[int]:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


async def _starts_and_stops(home: Path) -> None:
    server = EmbeddedServer(home, settings=FAST)
    address = await server.open()
    assert address.host == str(home / "cluster/data")
    await (await asyncpg.connect(**address.arguments())).close()
    await server.close()
    assert not is_held(home / "server.lock")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda written: written[:20], id="cut short"),
        pytest.param(lambda written: written.split(b"\n")[0][:-1], id="cut within the number"),
        pytest.param(lambda _: b"\xff\x00nonsense\n" * 8, id="nonsense"),
        pytest.param(lambda written: written, id="untouched"),
        pytest.param(_says(1), id="of init"),
        pytest.param(_says(os.getpid()), id="of this process"),
    ],
)
async def test_a_stale_pid_file_is_no_obstacle(dead: Path, change: Callable[[bytes], bytes]) -> None:
    _pid_file(dead).write_bytes(change(_pid_file(dead).read_bytes()))
    await _starts_and_stops(dead)


async def test_a_stale_pid_that_is_a_zombie_is_no_obstacle(dead: Path, zombie: int) -> None:
    _pid_file(dead).write_bytes(_says(zombie)(_pid_file(dead).read_bytes()))
    await _starts_and_stops(dead)


async def test_a_stale_pid_that_is_another_program_is_no_obstacle_and_that_lives_on(
    dead: Path, bystander: Callable[[], int]
) -> None:
    _pid_file(dead).write_bytes(_says(bystander())(_pid_file(dead).read_bytes()))
    await _starts_and_stops(dead)
    bystander()


async def test_a_stale_pid_that_is_another_server_is_no_obstacle_and_that_lives_on(dead: Path) -> None:
    with short_folder() as folder:
        other = EmbeddedServer(folder / "other", settings=FAST)
        address = await other.open()
        try:
            _pid_file(dead).write_bytes(_pid_file(folder / "other").read_bytes())
            # Even its socket answers: nobody may take it for ours.
            await _starts_and_stops(dead)
            await (await asyncpg.connect(**address.arguments())).close()
        finally:
            await other.close()


def test_stopping_signals_nobody_when_the_server_is_dead(
    server: EmbeddedServer, home: Path, bystander: Callable[[], int]
) -> None:
    server.start()
    written = _pid_file(home).read_bytes()
    os.kill(postmaster_pid(home), signal.SIGKILL)
    # Its children hold the lock until they have noticed.
    gone = FileLock(home / "server.lock")
    assert gone.wait(30)
    gone.release()
    _pid_file(home).write_bytes(_says(bystander())(written))
    server.stop()
    bystander()


def test_stopping_signals_nobody_else_when_the_pid_file_lies(
    server: EmbeddedServer, home: Path, bystander: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_UNSENT_SECONDS", 0)
    server.start()
    pid, written = postmaster_pid(home), _pid_file(home).read_bytes()
    _pid_file(home).write_bytes(_says(bystander())(written))
    server.stop()
    bystander()
    assert is_held(home / "server.lock")
    _pid_file(home).write_bytes(written)
    found = read_postmaster(home / "cluster/data")
    assert found is not None
    assert found.pid == pid
    server.start()


@pytest.mark.parametrize("data", ["/some/data", "/other/data"])
def test_only_a_process_that_runs_on_the_data_is_signalled(data: str) -> None:
    command = ["sh", "-c", "echo stands; read line", "sh", "-D", "/some/data"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # before, it may not show its arguments yet
        postmaster = Postmaster(data=Path(data), pid=process.pid, port=5432, socket="", host="", status="ready")
        sent = postmaster.signal(signal.SIGTERM)
        process.communicate()
    assert sent == (process.returncode == -signal.SIGTERM) == (data == "/some/data")


def test_a_server_that_was_started_by_hand_is_left_alone(home: Path) -> None:
    account = server_account()
    program = find_binaries(account, None).program("postgres")
    data = home / "cluster/data"
    arguments = ["-D", str(data), "-k", str(data), "-c", "listen_addresses=", "-c", "logging_collector=off"]
    with subprocess.Popen(
        [program, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        user=account.uid if account.borrowed else None,
        group=account.gid if account.borrowed else None,
        extra_groups=[] if account.borrowed else None,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "ready to accept connections" in line:
                break
        with pytest.raises(StoreUnavailable, match=f"process {process.pid} runs a server on .* by other means"):
            EmbeddedServer(home).start()
        assert postmaster_pid(home) == process.pid
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 0


def test_a_server_that_hangs_is_reported_and_not_doubled(home: Path) -> None:
    server, second = EmbeddedServer(home, settings=FAST), EmbeddedServer(home, settings=FAST, patience=0)
    server.start()
    pid = postmaster_pid(home)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match=f"process {pid}.* does not answer"):
            second.start()
    finally:
        os.kill(pid, signal.SIGCONT)
        server.stop()


def test_a_process_that_hangs_while_it_starts_the_server_is_reported(home: Path) -> None:
    hanging = FileLock(home / "start.lock")
    assert hanging.acquire()
    with pytest.raises(StoreUnavailable, match=r"another process has held .*start\.lock for 0 s"):
        EmbeddedServer(home, patience=0).start()
    hanging.release()
    assert not is_held(home / "users.lock")
