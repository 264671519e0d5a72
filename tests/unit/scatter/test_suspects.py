"""Bodies of items that run with nothing beside them, while more is always at hand (SCAT-14)."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from flowstone_async._engine.scatter.bodies import Bodies
from flowstone_async._engine.scatter.chunks import LocalChunk, Todo
from flowstone_async._engine.scatter.supply import AtHand
from flowstone_async.clock import ManualClock
from flowstone_async.store.scatters import Chunk, Page

PAGE = Page(0, 0, 0, 1000, frozenset(), b"", None)


def _chunk(first: int, size: int, *, alone: bool = False, lost: int = 0) -> LocalChunk:
    chunk = Chunk("s", first, alone, 0, size, lost=lost)
    return LocalChunk(chunk, PAGE, {no: no for no in range(first, first + size)})


class _Running:
    """What runs, and has run; a body ends when the test lets it."""

    def __init__(self) -> None:
        self.now: dict[int, asyncio.Event] = {}
        self.begun: list[int] = []
        self.recording: list[int] = []
        self.recorded = asyncio.Event()
        self.recorded.set()

    async def __call__(self, no: int) -> int:
        self.begun.append(no)
        self.now[no] = event = asyncio.Event()
        await event.wait()
        del self.now[no]
        return no

    async def end(self, *numbers: int) -> None:
        for no in numbers:
            self.now[no].set()
        await self.settled()

    async def settled(self) -> None:
        for _ in range(200):
            await asyncio.sleep(0)

    # -- as `Items` ---------------------------------------------------------------------------------------------

    def succeeded(self, chunk: LocalChunk, todo: Todo, value: object) -> None:
        chunk.succeed(todo.position, value)

    def raised(self, chunk: LocalChunk, todo: Todo, error: BaseException) -> None:
        raise error

    def ended_program(self, ending: BaseException) -> None:
        raise ending

    def back(self) -> None:
        raise AssertionError("no body has waited")

    async def begins(self, chunk: LocalChunk, todo: Todo, *, alone: bool) -> bool:
        self.recording.append(todo.item)
        await self.recorded.wait()
        return True


@pytest.mark.parametrize("most", [3, None])
async def test_a_suspect_comes_to_its_turn(most: int | None) -> None:
    """Nothing begins until what runs has ended, however much is at hand; then it runs, and then the others again."""
    running = _Running()
    async with anyio.create_task_group() as group:
        bodies = Bodies(
            *(lambda _, todo: running(todo.item), running, AtHand()),
            most=most,
            timeout=None,
            grace=1,
            clock=ManualClock(),
            group=group,
            name="test",
            thing="item",
        )
        bodies.add(_chunk(0, 3))
        await running.settled()
        assert set(running.now) == {0, 1, 2}
        bodies.add_suspect(_chunk(900, 1, alone=True))
        bodies.add_suspect(_chunk(901, 1, alone=True))
        bodies.add(_chunk(10, 20))
        await running.end(0, 1)
        assert set(running.now) == {2}, "more began beside it, and so for ever"
        await running.end(2)
        assert set(running.now) == {900}
        bodies.add(_chunk(30, 20))
        await running.settled()
        assert set(running.now) == {900}
        await running.end(900)
        if most is None:
            assert set(running.now) == set(range(10, 50)), "as many as may run at once"
        else:
            assert set(running.now) == {10, 11, 12}, "as many as may run at once"
            await running.end(11)
            assert set(running.now) == {10, 12}
        await running.end(*running.now)
        assert set(running.now) == {901}
        await running.end(901)
        while running.now:
            await running.end(*running.now)
        assert sorted(running.begun) == [0, 1, 2, *range(10, 50), 900, 901]
        assert bodies.still


async def test_items_under_which_a_worker_died_go_on_record_together_and_a_suspect_waits_for_them() -> None:
    running = _Running()
    running.recorded.clear()
    async with anyio.create_task_group() as group:
        bodies = Bodies(
            *(lambda _, todo: running(todo.item), running, AtHand()),
            most=3,
            timeout=None,
            grace=1,
            clock=ManualClock(),
            group=group,
            name="test",
            thing="item",
        )
        for no in range(2):
            bodies.add(_chunk(no, 1, alone=True, lost=1))
        await running.settled()
        bodies.add_suspect(_chunk(900, 1, alone=True, lost=2))
        await running.settled()
        assert (running.recording, running.begun, bodies.running) == ([0, 1], [], 2)
        running.recorded.set()
        await running.settled()
        assert (running.recording, running.begun) == ([0, 1], [0, 1])
        await running.end(0, 1)
        assert (running.recording, running.begun) == ([0, 1, 900], [0, 1, 900])
        await running.end(900)
        assert bodies.still
