"""The tasks that call the body of a scatter, item after item: elastic, and none for each item.

A worker takes item after item from the chunks at hand. A body that never waits costs no switch; once one waits and more
is at hand, another worker begins, up to `max_concurrent`.

An item that runs with nothing beside it comes to its turn although more is always at hand: nothing else begins until
what runs has ended. Before the next such item as many others may begin as may run at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from anyio.abc import TaskGroup
from typing_extensions import override

from flowstone_async._engine.deadlines import Deadlines
from flowstone_async._engine.pending import Pending
from flowstone_async._engine.scatter.asleep import Evicted
from flowstone_async._engine.scatter.chunks import LocalChunk, Todo
from flowstone_async._engine.scatter.supply import Supply
from flowstone_async._engine.scatter.suspended import Suspended
from flowstone_async._engine.waits.places import Pauses
from flowstone_async._engine.waits.seats import Seats
from flowstone_async.clock import Clock
from flowstone_async.errors import TimedOut
from flowstone_async.failures import ENDINGS

# Seconds for which bodies that never wait keep the loop, and how many of them are called between two looks at the time.
_SLICE, _CALLS = 0.005, 16
_PLENTY = 500


class Items(Protocol):
    """What bodies need of the scatter they belong to."""

    def succeeded(self, chunk: LocalChunk, todo: Todo, value: object) -> None:
        """Note what a body returned."""
        ...

    def raised(self, chunk: LocalChunk, todo: Todo, error: BaseException) -> None:
        """Note what a body raised."""
        ...

    def evicted(self, chunk: LocalChunk, todo: Todo, gates: Evicted) -> None:
        """Note that a body goes on once one of its gates has ended."""
        ...

    def left(self) -> None:
        """Hear that a body waits and has left its place."""
        ...

    def back(self) -> None:
        """Hear that one comes back, before it goes on."""
        ...

    def ended_program(self, ending: BaseException) -> None:
        """Hear that a body ends the program, or that something is wrong here."""
        ...

    async def begins(self, chunk: LocalChunk, todo: Todo, *, alone: bool) -> bool:
        """Hear that an item under which workers died is about to begin; return whether it may."""
        ...


class ItemDeadline(Pauses):
    """The time limit of one body among many."""

    def __init__(self, deadlines: Deadlines, task: asyncio.Task[Any]) -> None:
        self._deadlines, self._task = deadlines, task

    @override
    def pause(self) -> None:
        self._deadlines.pause(self._task)

    @override
    def resume(self) -> None:
        self._deadlines.resume(self._task)


class Bodies:
    """Calls the body for the items of chunks.

    Args:
        call: Begins one call: returns the coroutine for an item, in whose chunk so many attempts failed before.
        items: Hears of what came of it.
        supply: Gives what is called next.
        most: The most bodies at once; None for no bound.
        timeout: Seconds for each; None for no limit.
        grace: Seconds that a body has to end once it was cancelled.
        thing: What it is called with: an item, or a batch.

    Attributes:
        stopping: Whether no further item begins.
        seats: The places of bodies, which those that wait at gates leave.
    """

    def __init__(
        self,
        call: Callable[[LocalChunk, Todo], Coroutine[Any, Any, Any]],
        items: Items,
        supply: Supply,
        *,
        most: int | None,
        timeout: float | None,
        grace: float,
        clock: Clock,
        group: TaskGroup,
        name: str,
        thing: str,
    ) -> None:
        self._call, self._items, self._supply = call, items, supply
        self._most, self._timeout = most, timeout
        self._deadlines = Deadlines(clock, timeout, grace)
        self._group, self._name, self._thing = group, name, thing
        self._isolated = False
        self._suspects = self._others_first = self._begun = self._recording = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._workers = self._at_work = 0
        self.seats = Seats(self._has_room, self._left, items.back)
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopping = False

    @property
    def workers(self) -> int:
        """How many bodies run now, or are about to; those that wait at gates do not."""
        return self._workers - self.seats.away

    @property
    def running(self) -> int:
        """How many bodies run now, but for those that have never waited."""
        return len(self._tasks) - self.seats.away + self._recording

    @property
    def free(self) -> int:
        """How many more may begin now."""
        if self.stopping or self._isolated:
            return 0
        return max(0, (_PLENTY if self._most is None else self._most) - self.running)

    @property
    def still(self) -> bool:
        """Whether nothing runs, and nothing is about to."""
        return not self.workers

    @property
    def isolates(self) -> bool:
        """Whether an item that runs alone is to begin before any other."""
        return self._suspects > 0 and self._others_first <= 0

    @property
    def waiting(self) -> int:
        """How many items at hand have not begun, and could."""
        return self._supply.waiting

    def limit(self, most: int | None) -> None:
        """Run at most so many from now on; None for no bound. Those above it end in their own time."""
        self._most = most
        self._supply.look()
        self.staff()

    def limit_to_running(self) -> int:
        """Run no more than now until the next `limit`, nor more than allowed; return how many that is now."""
        self._most = self.workers if self._most is None else min(self._most, self.workers)
        return self.workers

    def add(self, chunk: LocalChunk) -> None:
        """Put the items of a chunk behind those at hand."""
        self._supply.add(chunk)
        self.staff()

    def add_suspect(self, chunk: LocalChunk) -> None:
        """Add an item that may end its process: nothing else runs beside it."""
        self._suspects += 1
        self._supply.add(chunk, alone=True)
        self.staff()

    async def idle(self) -> None:
        """Return once no body runs."""
        await self._idle.wait()

    def cancel(self) -> None:
        """Begin no further item, and cancel the bodies that run: once, so that they may end in good order."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()

    def staff(self) -> None:
        """Start one more worker if there is something for it."""
        self.seats.offer()
        if self._has_room() and self._has_work():
            self._workers += 1
            self._begun += 1
            self._group.start_soon(self._work, name=f"{self._name} {self._begun}")

    def _has_room(self) -> bool:
        return self._most is None or self.workers < self._most

    def _left(self) -> None:
        """A body waits at a gate; one that ran alone does so no more, or nothing else would run until that ends."""
        self._isolated = False
        self.staff()
        self._items.left()

    def deadline(self, task: asyncio.Task[Any]) -> Pauses:
        """Return the time limit of the body that a task runs."""
        return ItemDeadline(self._deadlines, task)

    def _has_work(self) -> bool:
        if self.stopping or self._isolated:
            return False
        ready = self._supply.ready()
        if not self._suspects or (ready and not (self.isolates and self._supply.alone_next)):
            return ready
        return not self.running and self._supply.ready(alone=True)

    def _next(self) -> tuple[LocalChunk, Todo] | None:
        if self.stopping or self._isolated or self.seats.wanted:
            return None
        if self._most is not None and self.workers > self._most:
            return None
        if self._suspects:
            alone = self._supply.alone_next
            if (alone and self.isolates) or not self._supply.ready():
                return self._next_alone()
            self._others_first -= alone
        return self._supply.take()

    def _next_alone(self) -> tuple[LocalChunk, Todo] | None:
        """Take an item that runs alone, unless anything runs: who ends last sees to it."""
        taken = None if self.running else self._supply.take(alone=True)
        if taken is not None:
            self._suspects -= 1
            self._isolated, self._others_first = True, self._most or _PLENTY
        return taken

    async def _work(self) -> None:
        # Not when it is made: a task that is cancelled before its first step never comes here, nor to the end.
        self._at_work += 1
        self._idle.clear()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - there is always one here
        calls, since, isolated = 0, time.monotonic(), False
        try:
            while (taken := self._next()) is not None:
                isolated = self._isolated
                if (isolated or taken[0].chunk.lost) and not await self._on_record(*taken, alone=isolated):
                    break
                rest = self._begin(task, *taken)
                if rest is not None:
                    await rest
                if isolated:
                    self._isolated = isolated = False
                calls += 1
                if rest is not None:
                    since = time.monotonic()
                elif not calls % _CALLS and time.monotonic() - since > _SLICE:
                    await asyncio.sleep(0)
                    since = time.monotonic()
        except asyncio.CancelledError:  # of the whole scatter
            self.stopping = True
            raise
        finally:
            self._workers -= 1
            self._at_work -= 1
            if isolated:
                self._isolated = False
            if not self._at_work:
                self._idle.set()
            self.staff()

    async def _on_record(self, chunk: LocalChunk, todo: Todo, *, alone: bool) -> bool:
        """Put on record that an item begins: only from then on the death of this process is put down to it."""
        self._recording += 1
        try:
            self.staff()  # what else begins now goes on record with it
            return await self._items.begins(chunk, todo, alone=alone) and not self.stopping
        finally:
            self._recording -= 1

    def _begin(self, task: asyncio.Task[Any], chunk: LocalChunk, todo: Todo) -> Awaitable[None] | None:
        """Call the body for one item; return what is to be awaited unless it has ended and that is noted."""
        before = task.cancelling()
        try:
            coroutine = self._call(chunk, todo)
            waiting = coroutine.send(None)
        except StopIteration as stop:
            if task.cancelling() > before:
                return self._after(task, before, chunk, todo, stop.value, None)
            if not self.stopping:
                self._items.succeeded(chunk, todo, stop.value)
        except ENDINGS as ending:
            self._items.ended_program(ending)
        except BaseException as error:  # user code may raise anything
            if task.cancelling() > before or isinstance(error, asyncio.CancelledError):
                return self._after(task, before, chunk, todo, None, error)
            if not self.stopping:
                self._note(chunk, todo, error)
        else:
            return self._rest(task, before, chunk, todo, Suspended(coroutine, waiting))
        return None

    async def _rest(
        self, task: asyncio.Task[Any], before: int, chunk: LocalChunk, todo: Todo, suspended: Suspended[Any]
    ) -> None:
        """See a body that waits to its end."""
        self._tasks.add(task)
        self._deadlines.begin(task)
        value, raised = None, None
        try:
            self.staff()
            value = await suspended
        except ENDINGS as ending:
            self._items.ended_program(ending)
            return
        except BaseException as error:  # user code may raise anything
            raised = error
        finally:
            self._tasks.discard(task)
            if self._deadlines.end(task) and not isinstance(raised, Evicted):
                raised = self._timed_out(raised)
        if raised is not None or task.cancelling() > before:
            await self._after(task, before, chunk, todo, value, raised)
        elif not self.stopping:
            self._items.succeeded(chunk, todo, value)

    def _timed_out(self, cause: BaseException | None) -> TimedOut:
        error = TimedOut(
            f"the {self._thing} took longer than its timeout of {self._timeout:g} s",
            details={"timeout": self._timeout},
            hint="Raise timeout= on the scatter, or find out what it waits for.",
        )
        error.__cause__ = cause
        return error

    async def _after(
        self,
        task: asyncio.Task[Any],
        before: int,
        chunk: LocalChunk,
        todo: Todo,
        value: object,
        error: BaseException | None,
    ) -> None:
        """Note what came of a body, once cancellations that are its own, or ours, are taken back.

        One from outside travels on.
        """
        if task.cancelling() > before or isinstance(error, asyncio.CancelledError):
            await Pending.since(task, before).absorb(error)
        if self.stopping:
            return
        if error is None:
            self._items.succeeded(chunk, todo, value)
        else:
            self._note(chunk, todo, error)

    def _note(self, chunk: LocalChunk, todo: Todo, error: BaseException) -> None:
        if isinstance(error, Evicted):
            self._items.evicted(chunk, todo, error)
        else:
            self._items.raised(chunk, todo, error)
