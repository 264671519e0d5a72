"""What each worker of a scatter does: takes chunks, calls the body for their items, and shares with the others.

    group
    ├── taker      what nobody has any more, and items whose time has come; who else is here, and what they get
    ├── bodies     see bodies.py
    └── flusher    one flush at a time with all that ended meanwhile

None of them raises: the first thing that goes wrong is noted and ends the others.

Alone, a worker owns all that is read, and asks nobody. Once each poll it attends: says that it is here, and hears who
else is. Whoever has permits and nothing to do is hungry; the others then give away half of what they have not begun.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import anyio
from typing_extensions import override

from flowstone_async._engine.scatter.bodies import Bodies
from flowstone_async._engine.scatter.chunks import LocalChunk, Todo, Withheld
from flowstone_async._engine.scatter.errors import died_on_trial, no_longer_ours, on_trial, thing, worker_lost
from flowstone_async._engine.scatter.flushing import Flushing, Task
from flowstone_async._engine.scatter.key_forms import PLAIN
from flowstone_async._engine.scatter.rating import Rating
from flowstone_async._engine.scatter.supply import AtHand, Supply
from flowstone_async._engine.services import Services
from flowstone_async.errors import FlowstoneError, StoreUnavailable
from flowstone_async.failures import ENDINGS, describe
from flowstone_async.store.crews import Attendance, Crews
from flowstone_async.store.scatters import Chunk, Page

_TAKEN_AT_ONCE, _SHARED_AT_ONCE = 100, 20
_PAGES_KEPT = 8
_SUSPECT = 2
# The first wait of who looks again and again, in seconds; and items to have at hand where no bound says how many.
_PACE, _AT_HAND = 0.01, 200
_logger = logging.getLogger("flowstone")


class Working(Flushing):
    """Runs items of one scatter in this process."""

    def __init__(self, services: Services, task: Task, name: str) -> None:
        super().__init__(services, task, name)
        self._crews = services.store.crews
        self._permits = task.kind.max_concurrent
        self._others: int = 0
        self._elsewhere: int = 0
        self._attended = self._blocked = self._draining = self._full = False
        self._supply = self._makes_supply()
        self._gifts: list[Withheld] = []
        self._pace = _PACE
        self._attend_at = services.clock.monotonic() + services.settings.poll
        if task.continued and self._crews is not None:
            # Others may have all permits: none of it runs before we know.
            self._permits = None if self._permits is None else 0
            self._attend_at = services.clock.monotonic()

    @abstractmethod
    def _parts(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Return what runs beside the bodies."""

    @abstractmethod
    async def _noticed(self, attendance: Attendance) -> None:
        """Hear how the scatter stands."""

    def _permitted(self, attendance: Attendance) -> int | None:
        """Return up to how many bodies may run here from now on; None for no bound."""
        return attendance.permits

    def _is_shared(self) -> bool:
        return self._others > 0

    @override
    def _flushed(self) -> None:
        if (self._is_shared() and self._is_hungry()) or (self._full and self._at_hand < self._ahead):
            self._look.set()

    @property
    def still(self) -> bool:
        """Whether it waits for nothing but time."""
        return self._resting.all and self._bodies is not None and self._bodies.still

    @property
    def _ahead(self) -> int:
        """The most items that are ahead of those that ended."""
        return self._task.ahead

    def _makes_supply(self) -> Supply:
        task, services = self._task, self._services
        if task.kind.rate is None:
            return AtHand()
        # Its id, so that whoever else runs it shares the rate.
        return Rating(
            services.limits,
            services.clock,
            f"scatter:{self._id}",
            task.kind.rate,
            key=task.rate_key,
            given=task.given,
            refuse=self.refused,
            poll=services.settings.poll,
        )

    async def _run(self) -> None:
        """Run until it is finished; raises what has gone wrong."""
        kind = self._task.kind
        try:
            async with anyio.create_task_group() as group:
                self._bodies = bodies = Bodies(
                    self._task.call,
                    self,
                    self._supply,
                    most=self._permits,
                    timeout=kind.timeout,
                    grace=self._services.settings.cancel_grace,
                    clock=self._services.clock,
                    group=group,
                    name=f"{self._name} body",
                    thing=thing(kind),
                )
                self._task.places.of = bodies
                if isinstance(self._supply, Rating):
                    permits = partial(self._supply.run, bodies, self._resting)
                    group.start_soon(self._guarded, permits, name=f"{self._name} rate")
                for name, part in self._parts().items():
                    group.start_soon(self._guarded, part, name=f"{self._name} {name}")
                try:
                    await self._finished.wait()
                finally:
                    await self._end(bodies)
                    group.cancel_scope.cancel()
        finally:
            self._asleep.end()
            if self._timer is not None:
                self._timer.cancel()
        if self._error is not None:
            raise self._error

    async def _end(self, bodies: Bodies) -> None:
        """End the bodies in good order, keep what ended, and let go of the rest."""
        bodies.cancel()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(self._services.settings.cancel_grace):
                await bodies.idle()
            try:
                if not self._closed:
                    async with self._flushing:
                        while self._changed:
                            changed, self._changed = self._changed, []
                            flushes = self._flushes(changed)
                            await self._task.noted()
                            await self._store.flush(flushes, self._task.worker)
                    if isinstance(self._error, SystemExit):
                        return  # what it had counts as lost with this worker
                    await self._store.release(self._id, self._task.worker)
                if self._attended and self._crews is not None:
                    await self._crews.leave(self._id, self._task.worker)
            except FlowstoneError as error:
                self._services.unleft.add(self._id)
                _logger.info("%s: what it had is free as soon as the store answers: %s", self._name, error.message)

    async def _guarded(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._resting.part(part)
        except (*ENDINGS, Exception) as error:
            self._fail(error)

    def _hold(self, chunk: LocalChunk, *, suspect: bool = False) -> None:
        """Run what is left of a chunk."""
        self._asleep.computes()
        assert self._bodies is not None  # noqa: S101 - made before anything is read
        self._held[chunk.chunk.first, chunk.chunk.alone] = chunk
        self._outstanding += chunk.left
        chunk.plain = self._task.intake.keys is PLAIN
        if not chunk.left:
            self._changes(chunk)
        elif suspect:
            self._bodies.add_suspect(chunk)
        else:
            self._bodies.add(chunk)

    # -- what nobody has ------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        """Take what is free whenever something may be: at the beginning, at a due time, and once each poll."""
        if not self._task.continued:
            self._look_again()
            await self._resting.on(self._look)
        while True:
            self._look.clear()
            try:
                await self._attend_in_time()
                await self._learn_dues()
                again = await self._take_some()
            except StoreUnavailable as error:
                _logger.info("%s: what is free is looked for again: %s", self._name, error.message)
                self._unsure, again = True, False
            if not again:
                await self._check()
                self._look_again()
                await self._resting.on(self._look)

    async def _take_some(self) -> bool:
        """Take what is free; after a call that nobody has answered also what is ours without our knowing.

        Returns:
            Whether there may be more for us.
        """
        shared = self._is_shared()
        if shared and not self._is_hungry():
            return False
        limit = min(_SHARED_AT_ONCE if shared else _TAKEN_AT_ONCE, self._ahead - self._at_hand)
        self._full = limit <= 0
        if self._full:
            return False
        async with self._claiming:
            known = frozenset(self._held) if self._unsure else None
            fresh = 1 if shared and known is None else None  # what is ours may be behind what is free
            chunks = await self._store.take(self._id, self._task.worker, limit=limit, fresh=fresh, known=known)
            self._unsure = known is not None and len(chunks) == limit
            for chunk in chunks:
                await self._taken(chunk)
        if chunks:
            self._pace = _PACE
        return len(chunks) == limit or (shared and bool(chunks) and self._is_hungry())

    def _look_again(self) -> None:
        """Look when it is time to attend; if others may change what we wait for, soon, then less and less often."""
        if self._crews is None:
            return
        clock, poll = self._services.clock, self._services.settings.poll
        shared = self._is_shared() and (self._is_hungry() or self._is_above_its_permits())
        # Where it is blocked by what others had, who are gone, it may have taken that itself.
        if shared or (self._blocked and self._elsewhere):
            self._attend_at = min(self._attend_at, clock.monotonic() + self._pace)
            self._pace = min(2 * self._pace, poll)
        if self._attend_at < self._due.first:
            self._look_by(self._attend_at)

    async def _taken(self, chunk: Chunk) -> None:
        page, items = await self._page(chunk.page)
        local = LocalChunk(chunk, page, items)
        if not chunk.alone:  # counted when we last attended, or given away since
            self._elsewhere = max(0, self._elsewhere - local.left)
        if not chunk.lost:
            self._hold(local)
        elif not chunk.alone:
            self._dissolve(local)
        elif died_on_trial(chunk) and chunk.lost >= self._services.settings.max_lost:
            self._hold_lost(local)
        else:
            self._hold(local, suspect=chunk.lost >= min(_SUSPECT, self._services.settings.max_lost))

    def _dissolve(self, chunk: LocalChunk) -> None:
        """Let every item of a chunk whose worker died go on by itself: so it is found out which one killed it."""
        self._held[chunk.chunk.first, False] = chunk
        self._outstanding += chunk.left
        while chunk.todo:
            chunk.postpone(chunk.todo.pop().position, 0, None, None, lost=chunk.chunk.lost)
        self._changes(chunk)

    async def begins(self, chunk: LocalChunk, todo: Todo, *, alone: bool) -> bool:
        """Put on record that an item runs now, perhaps alone, after all that ended before; return whether it may."""
        if alone:
            chunk.trial = on_trial(self._task.kind, self._name, todo.number, chunk.chunk)
        self._changes(chunk)
        try:
            while chunk.changed:
                await self._flush_once()
        except (*ENDINGS, Exception) as error:
            self._fail(error)
            return False
        return self._error is None

    def _hold_lost(self, chunk: LocalChunk) -> None:
        """Let an item fail under which too many workers died."""
        self._held[chunk.chunk.first, True] = chunk
        self._outstanding += chunk.left
        todo = chunk.todo.pop()
        error = describe(worker_lost(self._task.kind, self._name, todo.number, chunk.chunk.lost))
        chunk.fail(todo.position, chunk.chunk.attempts, error)
        self._changes(chunk)

    async def _page(self, number: int) -> tuple[Page, Mapping[int, Any]]:
        found = self._pages.get(number)
        if found is None:
            [page] = await self._store.pages(self._id, [number])
            items = self._task.intake.items.unpack(page.items)
            found = self._keep_page(page._replace(items=b""), items)
        return found

    def _keep_page(self, page: Page, items: Mapping[int, Any]) -> tuple[Page, Mapping[int, Any]]:
        """Have a page at hand for a while."""
        found = self._pages[page.no] = page, items
        while len(self._pages) > _PAGES_KEPT:
            self._pages.popitem(last=False)
        return found

    # -- the others -----------------------------------------------------------------------------------------------

    def _is_hungry(self) -> bool:
        """Whether there is room for more than is at hand."""
        bodies = self._bodies
        if bodies is None or bodies.stopping or self._draining or self._permits == 0:
            return False
        return bodies.waiting < (_AT_HAND if self._permits is None else self._permits)

    def _is_above_its_permits(self) -> bool:
        bodies = self._bodies
        return bodies is not None and self._permits is not None and bodies.workers > self._permits

    async def _attend_in_time(self) -> None:
        if self._crews is not None and not self._draining and self._services.clock.monotonic() >= self._attend_at:
            await self._attend()

    async def _attend(self) -> None:
        """Say that we are here, hear who else is, and share with them."""
        crews, bodies, most = self._crews, self._bodies, self._task.kind.max_concurrent
        assert crews is not None  # noqa: S101 - whoever calls has asked
        self._attend_at = self._services.clock.monotonic() + self._services.settings.poll
        self._attended = True
        hungry = bodies is not None and not bodies.waiting and self._is_hungry()
        running = 0 if bodies is None or most is None else bodies.limit_to_running()
        found = await crews.attend(self._id, self._task.worker, most=most, running=running, hungry=hungry)
        if found is None:
            raise no_longer_ours(self._name)
        permits = self._permitted(found)
        if (permits, found.others, found.elsewhere) != (self._permits, self._others, self._elsewhere):
            self._pace = _PACE
        self._permits, self._others, self._elsewhere = permits, found.others, found.elsewhere
        self._room.set()
        if bodies is not None and not self._draining:
            bodies.limit(permits)
        await self._noticed(found)
        if bodies is not None and not self._draining and found.hungry and not bodies.stopping and not self._gifts:
            self._gifts = self._supply.withhold(-(-bodies.waiting * found.hungry // (found.hungry + 1)))
        if self._gifts:
            await self._give(crews, self._gifts)

    async def _give(self, crews: Crews, gifts: list[Withheld]) -> None:
        """Let those who have nothing to do take what was withheld; tried again the next time if nobody answers."""
        given = await crews.give(self._id, self._task.worker, [each.gift for each in gifts])
        if len(given) < len(gifts):
            raise await self._refused()
        self._gifts = []
        for chunk, gift, size in gifts:
            self._outstanding -= size
            self._elsewhere += size
            if not gift.keep:
                del self._held[gift.first, gift.alone]
            elif not chunk.cut(gift.keep, size):
                self._changes(chunk)
