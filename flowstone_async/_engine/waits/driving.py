"""When a run whose bodies only wait is let go of, and when a body of one that goes on.

A run is suspended once all that it does is wait at gates, and each of its bodies has waited for `park_after`; at once
where somebody awaits it who is to be told that it waits for a person or another system. The database is asked first: if
a gate has ended meanwhile it says so, and nothing was cancelled.
"""

from __future__ import annotations

import asyncio
from abc import ABC
from collections.abc import Mapping

from typing_extensions import override

from flowstone_async._engine import stopped
from flowstone_async._engine.board import Next
from flowstone_async._engine.telling import RunTelling
from flowstone_async._engine.waits.mismatches import mismatches
from flowstone_async._engine.waits.parked import Parked
from flowstone_async._engine.waits.run_limit import RunLimit
from flowstone_async._engine.waits.run_waits import RunWaits
from flowstone_async._engine.waits.seats import Seats
from flowstone_async.clock import Timer
from flowstone_async.errors import FlowstoneError, StoreUnavailable
from flowstone_async.store.gates import StoredGate, Suspension

_SHOWN = 100


class RunSuspending(RunTelling, ABC):
    """The waits of one run.

    Attributes:
        waits: Its gates.
        seats: The places of its bodies.
        hurried: Whether somebody awaits it who is to be told that it waits.
        changed: Mismatches that it was suspended with, by asset and encoded partition.
        helped: Whether it is another's, and only items of it run here.
    """

    waits: RunWaits
    seats: Seats
    hurried: bool
    changed: Mapping[tuple[str, str], FlowstoneError]
    helped: bool
    resumed: bool
    limit: RunLimit | None
    created: asyncio.Event
    _idle: int
    _parking: Timer | None
    _suspending: bool
    _asked: int | None

    @property
    def quiet(self) -> bool:
        """Whether it does nothing but wait at gates, as far as it computes."""
        return self._only(self.waits.quiet)

    @property
    def rests(self) -> bool:
        """Whether it does so, and no item of a scatter is in memory for it."""
        return self._only(self.waits.resting)

    def _only(self, scatters: int) -> bool:
        return (
            self.waits.any
            and not self.helped
            and not self._ready
            and not self._idle
            and not self.waiting
            and not self.seats.wanted
            and self.workers == self.seats.away + scatters
        )

    @property
    def leaves(self) -> bool:
        """Whether it is about to be suspended, since it waits for nothing but people and other systems."""
        return self.hurried and self.rests and self.record.continuable and "sleep" not in self.waits.kinds

    def hurry(self) -> None:
        """Suspend the run as soon as it waits for nothing but people and other systems."""
        self.hurried = True
        self.consider()

    @override
    def consider(self) -> None:
        """Look whether the run can be suspended, or a body be evicted."""
        if self._parking is not None:
            self._parking.cancel()
            self._parking = None
        if self.stopping == "shutdown":
            self.waits.drop()
            if self.waits.resting and self.workers == self.waits.resting and not self.interrupted:
                self.interrupt()  # what is left of it waits, and nobody has to
        if self.stopping is not None or self._suspending or self.group is None or not self.created.is_set():
            return
        if self._asked is not None:
            self._begin_suspending()
            return
        clock = self.services.clock
        quiet, rests, may_be_left = self.quiet, self.rests, self.record.continuable
        if quiet:
            self.services.slots.rest(self.id)
        if self.limit is not None:
            (self.limit.pause if quiet else self.limit.resume)()
        if self.leaves:
            self._begin_suspending()
            return
        if quiet and not rests and self.hurried and may_be_left and "sleep" not in self.waits.kinds:
            self.waits.evict_apart_from(self.seats)  # with its items in nobody's memory the run can be let go of
        nearest = self.waits.evict_due(clock.monotonic(), apart=not (rests and may_be_left))
        if rests and may_be_left and nearest is not None and nearest <= 0:
            self._begin_suspending()
        elif nearest is not None:
            self._parking = clock.call_later(max(0.0, nearest), self.consider)

    def go_on(self) -> None:
        """Something of the run does more than wait: it has a slot of the engine again, and its time passes."""
        self._count()
        if self.limit is not None:
            self.limit.resume()

    def _begin_suspending(self) -> None:
        if self.group is not None:
            self._suspending = self.waits.held = True
            self.group.start_soon(self._suspend, name=f"run {self.id} suspends")

    async def _suspend(self) -> None:
        answer: Suspension = "woken"
        try:
            answer = await self._let_go()
        except StoreUnavailable:
            pass  # nothing is lost: it is tried again with the next look
        except FlowstoneError as error:
            self.break_off(error)
        finally:
            self._suspending = False
            self.waits.held = self._asked is not None
            self.services.watch.hint(self.waits)
        if answer == "suspended":
            self._leave()
        elif answer == "lost":
            self.lose()

    def _leave(self) -> None:
        for lodger in self.waits.lodgers:
            lodger.abandon()
        self.waits.forget()
        if self.stopping != "cancelled":  # which came after it, and is told
            self.stop("suspended")

    @override
    def lose(self) -> None:
        if self._asked is None or self.stopping is not None:
            super().lose()
        else:
            self._leave()  # it is not ours since we asked to let go of it: whoever awaits it looks where it goes on

    async def _let_go(self) -> Suspension:
        """Suspend the run if nothing has come in that it has not seen."""
        gates = self.services.store.gates
        if self._asked is not None:
            return await self._ask_again(self._asked)
        wakes = (await gates.wakes([self.id])).get(self.id)
        if wakes is None:
            return "lost"
        stirs = self.waits.stirs
        if await gates.outcomes(self.waits.awaited) or not await self._scatters_rest():
            return "woken"
        if self.telling:  # nothing may be on its way once the run is not ours; it is looked at again then
            return "woken"
        if self.journal.pending:
            await self._step(Next([], [], []))
        shown = () if "sleep" in self.waits.kinds else await self._shown()
        if not self.rests or self.stopping is not None or self.waits.stirs != stirs:
            return "woken"
        self._asked = wakes.number
        answer = await gates.suspend(self.id, self.record.fence, wakes.number)
        self._asked = None
        if answer == "suspended" and shown:  # from here on the run is not ours: nothing more is asked of the store
            self.error, self.changed = stopped.waiting(self.id, shown), mismatches(shown)
        return answer

    async def _scatters_rest(self) -> bool:
        """Ask the store: first what is left of each, since from then on nothing comes for those that follow others."""
        scatters = list(self.waits.scatters)
        return all([await each.rests() for each in scatters]) and all([await each.caught_up() for each in scatters])

    async def _ask_again(self, wakes: int) -> Suspension:
        """Find out whether the run was suspended, as nobody answered: until that is known nothing goes on here."""
        answer = await self.services.store.gates.suspend(self.id, self.record.fence, wakes)
        self._asked = None
        return "suspended" if answer == "lost" else answer  # it has gone on since: whoever awaits it looks where

    async def _shown(self) -> tuple[StoredGate, ...]:
        """Return some of what the run waits for."""
        gates, asked = self.services.store.gates, list(self.waits.awaited)[:_SHOWN]
        if asked or not self.waits.hosts:
            return tuple((await gates.read(asked)).values()) if asked else ()
        return await gates.open_of_run(self.id, limit=_SHOWN)

    def evicted(self, index: int, waits: tuple[Parked, ...]) -> None:
        """A body was evicted: it is called again once one of its gates has ended; at once if it waits for none."""
        self.resumed = True  # whoever is called again may have something on record
        if self.stopping is None and not waits:
            self._again(index)
        elif self.stopping is None:
            self.waits.sleep(waits, lambda: self._again(index))
            self.consider()

    def _count(self) -> None:
        """Take a slot of the engine again: something of the run goes on."""
        self.services.slots.count(self.id)

    def _again(self, index: int) -> None:
        self._count()
        if self.stopping is None:
            self._push(index)
            self._staff()
