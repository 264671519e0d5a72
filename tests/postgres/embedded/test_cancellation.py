"""A start that is broken off gives back all that it took."""

import asyncio
import threading
from pathlib import Path

import anyio
import pytest

from flowstone_async.store.embedded.locks import FileLock, is_held
from flowstone_async.store.embedded.server import EmbeddedServer
from tests.support.postgres import FAST


class Gate:
    """A notice that keeps the starting thread waiting, so that a test can act in between."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._opened = threading.Event()

    def __call__(self, _: str) -> None:
        self._loop.call_soon_threadsafe(self.reached.set)
        assert self._opened.wait(60)

    def open(self) -> None:
        self._opened.set()


def _is_free(home: Path) -> bool:
    locks = [FileLock(home / name) for name in ("users.lock", "server.lock", "start.lock")]
    free = all(lock.wait(30) for lock in locks)
    for lock in locks:
        lock.release()
    return free


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_cancelled_open_leaves_the_server_again(fresh: Path, times: int) -> None:
    gate = Gate()
    opening = asyncio.get_running_loop().create_task(EmbeddedServer(fresh, settings=FAST, notice=gate).open())
    await gate.reached.wait()
    for _ in range(times):
        opening.cancel()
        await asyncio.sleep(0)
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await opening
    # A second cancellation pierces even a shield; the thread goes on by itself then.
    assert await asyncio.to_thread(_is_free, fresh)


async def test_an_open_in_a_cancelled_scope_leaves_the_server_again(fresh: Path) -> None:
    gate = Gate()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(EmbeddedServer(fresh, settings=FAST, notice=gate).open)
            await gate.reached.wait()
            scope.cancel()
            gate.open()
    assert await asyncio.to_thread(_is_free, fresh)


async def test_a_cancelled_close_still_stops_the_server(server: EmbeddedServer, home: Path) -> None:
    await server.open()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await server.close()
    assert not is_held(home / "server.lock")


async def test_the_loop_runs_on_while_the_server_starts(fresh: Path) -> None:
    gate = Gate()
    server = EmbeddedServer(fresh, settings=FAST, notice=gate)
    async with anyio.create_task_group() as group:
        group.start_soon(server.open)
        await gate.reached.wait()
        gate.open()
    await server.close()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_an_exception_during_the_start_gives_everything_back(fresh: Path, error: type[BaseException]) -> None:
    def fail(_: str) -> None:
        raise error

    with pytest.raises(error):
        EmbeddedServer(fresh, settings=FAST, notice=fail).start()
    assert not is_held(fresh / "users.lock")
    assert not is_held(fresh / "start.lock")
    assert not is_held(fresh / "server.lock")


async def test_a_failed_open_can_be_tried_again(fresh: Path) -> None:
    failures = iter([True, False])

    def notice(_: str) -> None:
        if next(failures):
            raise ZeroDivisionError

    server = EmbeddedServer(fresh, settings=FAST, notice=notice)
    with pytest.raises(ZeroDivisionError):
        await server.open()
    await server.open()
    await server.close()
