"""The waits of one run: gates opened together, bodies that are parked, bodies that were evicted.

    body ── await gate ──> open ──> parked ── the gate ends ──> back to a place, on record, on
                                      └── all of the body has waited for `park_after` ──> evicted: called again once
                                                                                          one of its gates has ended

Bodies of items that were evicted are not here: the store knows which are due, and their scatter, a `Host`, looks.

What has ended is not handed out while the run is being suspended: else a body might go on that is somebody else's then.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Collection
from datetime import datetime
from heapq import heappop, heappush
from itertools import count

import anyio
import anyio.lowlevel
from typing_extensions import override

from flowstone_async._engine.waits.alarms import waits_as
from flowstone_async._engine.waits.parked import Found, Host, Lodger, Parked, Waits
from flowstone_async._engine.waits.seats import Seats
from flowstone_async._engine.waits.waiter import Waiter
from flowstone_async.errors import FlowstoneError
from flowstone_async.store.gates import Gate, GateKind, Outcome, StoredGate


class RunWaits(Waits):
    """What a run waits for.

    Args:
        run: Which one.

    Attributes:
        lodgers: Bodies that have waits in memory.
        scatters: Those that may be quiet.
        hosts: Those with items that wait and are in nobody's memory.
        stirs: How often something of a scatter has gone on.
        held: Whether nothing is handed out.
        over: Whether durable calls do nothing any more.
    """

    def __init__(self, run: Waiter) -> None:
        self._run = run
        self.id = run.id
        self.lodgers: dict[Lodger, None] = {}
        self.scatters: dict[Host, None] = {}
        self.hosts: dict[Host, None] = {}
        self.stirs: int = 0
        self._patience: list[tuple[float, int, Lodger]] = []  # a heap, with what no longer counts
        self._number = count()
        self.held = self.over = False
        self._dormant: dict[str, tuple[GateKind, Callable[[], None]]] = {}
        self._dues: dict[str, datetime] = {}
        self._order: list[tuple[datetime, str]] = []
        self._parked: dict[str, Parked] = {}
        self._pending: list[tuple[Gate, asyncio.Future[StoredGate | None]]] = []
        self._opening = self._listening = False
        self._scope = anyio.CancelScope()

    # -- what the watch sees ------------------------------------------------------------------------------------

    @property
    def awaited(self) -> Collection[str]:
        """The gates whose end the run waits for."""
        return {**self._parked, **self._dormant}

    @property
    def due(self) -> datetime | None:
        """The nearest deadline of these."""
        while self._order and self._dues.get(self._order[0][1]) != self._order[0][0]:
            heappop(self._order)  # it does not count any more
        return self._order[0][0] if self._order else None

    @property
    def kinds(self) -> frozenset[GateKind]:
        """What kinds of gates bodies wait for."""
        kinds: set[GateKind] = {each.kind for each in self._parked.values()}
        kinds.update(kind for kind, _ in self._dormant.values())
        return frozenset(kinds).union(*(host.kinds for host in self.hosts))

    @property
    @override
    def any(self) -> bool:
        """Whether anything waits."""
        return bool(self._parked or self._dormant or self.hosts)

    @property
    def quiet(self) -> int:
        """How many scatters compute nothing until a gate ends."""
        return sum(host.quiet for host in self.scatters)

    @property
    def resting(self) -> int:
        """How many of them have nothing in memory either that waits."""
        return sum(host.resting_since is not None for host in self.scatters)

    def hand_out(self, found: Found) -> None:
        """Let bodies go on whose gates have ended."""
        if self.held:
            return
        ended = [each for each in self.awaited if each in found]
        if ended:
            self._run.go_on()
        for gate in ended:
            parked = self._parked.get(gate)
            if parked is not None and not parked.future.done():
                self._dues.pop(gate, None)
                parked.future.set_result(found[gate])
            dormant = self._dormant.get(gate)
            if dormant is not None:
                dormant[1]()
        for host in self.scatters if self.hosts else ():
            host.look()
        self._leave_if_idle()

    def reconsider(self) -> None:
        """Look again which bodies do nothing but wait."""
        for lodger in list(self.lodgers):
            if lodger.since is None:
                self._rests(lodger)
        self._run.consider()

    def _rests(self, lodger: Lodger) -> bool:
        """Look whether all of a body waits."""
        since = lodger.since
        if not lodger.rest():
            return False
        if since is None and lodger.patience is not None and lodger.since is not None:
            heappush(self._patience, (lodger.since + lodger.patience, next(self._number), lodger))
        return True

    # -- what bodies do -----------------------------------------------------------------------------------------

    @override
    async def open(self, gate: Gate) -> StoredGate | None:
        group = self._run.group
        if group is None:
            return None
        opened = asyncio.get_running_loop().create_future()
        self._pending.append((gate, opened))
        if not self._opening:
            self._opening = True
            group.start_soon(self._open, name=f"run {self.id} gates")
        return await opened

    async def _open(self) -> None:
        """Record what bodies have asked for meanwhile, as long as there is any."""
        run = self._run
        try:
            await anyio.lowlevel.checkpoint()
            while self._pending:
                asked, self._pending = self._pending, []
                try:
                    gates = run.services.store.gates
                    found = await gates.open(run.id, run.record.fence, [gate for gate, _ in asked])
                except FlowstoneError as error:
                    await self._one_by_one(asked, error)
                    continue
                except BaseException:
                    for _, opened in asked:
                        opened.cancel()
                    raise
                for gate, opened in asked:
                    _resolve(opened, None if found is None else found.get(gate.id))
        finally:
            self._opening = False
            for _, opened in self._pending:
                opened.cancel()

    async def _one_by_one(
        self, asked: list[tuple[Gate, asyncio.Future[StoredGate | None]]], error: FlowstoneError
    ) -> None:
        """One of them is refused, and has kept the others out."""
        for gate, opened in asked:
            if len(asked) > 1 and not opened.done():
                try:
                    found = await self._run.services.store.gates.open(self.id, self._run.record.fence, [gate])
                    _resolve(opened, None if found is None else found.get(gate.id))
                except FlowstoneError as own:
                    _fail(opened, own)
            else:
                _fail(opened, error)

    @override
    async def rearm(self, gate: str, due: datetime) -> bool:
        return await self._run.services.store.gates.rearm(self.id, self._run.record.fence, gate, due)

    @override
    async def refuse(self, gate: str, payload: bytes) -> bool:
        return await self._run.services.store.gates.refuse(self.id, self._run.record.fence, gate, payload)

    @override
    async def withdraw(self, gates: Collection[str]) -> bool:
        return await self._run.services.store.gates.withdraw(self.id, self._run.record.fence, gates)

    @override
    async def park(self, stored: StoredGate, lodger: Lodger) -> Outcome:
        gate, loop = stored.gate, asyncio.get_running_loop()
        timed = anyio.current_effective_deadline() != float("inf")
        parked = Parked(gate.id, waits_as(gate), stored.due, loop.create_future(), timed)
        self._parked[gate.id] = lodger.parked[gate.id] = parked
        self._is_due(gate.id, stored.due)
        self.lodgers[lodger] = None
        services = self._run.services
        services.watch.add(self)
        services.watch.crowd(parked, lambda: self._evict(lodger))
        self._listen()
        loop.call_soon(self._settle_down, lodger)
        try:
            outcome = await parked.future
        finally:
            services.watch.parked.pop(parked, None)
            lodger.parked.pop(gate.id, None)
            if self._parked.get(gate.id) is parked:
                del self._parked[gate.id]
                if gate.id not in self._dormant:
                    self._dues.pop(gate.id, None)
            if not lodger.parked:
                self.lodgers.pop(lodger, None)
                self._leave_if_idle()
        return outcome

    def _settle_down(self, lodger: Lodger) -> None:
        if lodger in self.lodgers and self._rests(lodger):
            self._run.consider()

    # -- eviction -----------------------------------------------------------------------------------------------

    def sleep(self, waits: Collection[Parked], again: Callable[[], None]) -> None:
        """Have a body called again that was evicted, once one of its gates has ended."""

        def once() -> None:
            if all(self._dormant.pop(each.id, None) is not None for each in waits):
                for each in waits:
                    self._dues.pop(each.id, None)
                again()

        for each in waits:
            self._dormant[each.id] = each.kind, once
            self._is_due(each.id, each.due)
        if waits:
            self._run.services.watch.add(self)
            self._listen()

    def _is_due(self, gate: str, due: datetime | None) -> None:
        if due is not None:
            self._dues[gate] = due
            heappush(self._order, (due, gate))

    @property
    def dormant(self) -> bool:
        """Whether bodies were evicted that will be called again."""
        return bool(self._dormant)

    def _evict(self, lodger: Lodger) -> None:
        if lodger in self.lodgers and not self.held and self._rests(lodger):
            lodger.evict()

    def evict_apart_from(self, seats: Seats) -> None:
        """Evict bodies that do nothing but wait, but for those that have their places here: those of items."""
        for lodger in list(self.lodgers):
            if lodger.seats is not seats and lodger.rest():
                lodger.evict()

    def evict_due(self, now: float, *, apart: bool) -> float | None:
        """Evict bodies that have waited for long enough.

        Args:
            now: The time.
            apart: Whether the run goes on without them; else nothing is evicted.

        Returns:
            Seconds until the next one has; without `apart` until all have, 0 at least. None if that will never be.
        """
        if not apart:
            left = [_left(each.since, each.patience, now) for each in self.lodgers]
            left += [_left(each.resting_since, each.patience, now) for each in self.scatters]
            return None if None in left else max([0.0, *(each or 0.0 for each in left)])
        while self._patience:
            until, _, lodger = self._patience[0]
            counts = lodger in self.lodgers and _left(lodger.since, lodger.patience, until) == 0
            if counts and until > now:
                return until - now
            heappop(self._patience)
            if counts and lodger.rest():
                lodger.evict()
        return None

    @override
    def join(self, host: Host) -> None:
        self.scatters[host] = None

    @override
    def host(self, host: Host) -> None:
        self.scatters[host] = self.hosts[host] = None
        self._run.services.watch.add(self)
        self._listen()

    @override
    def leave(self, host: Host) -> None:
        self.scatters.pop(host, None)
        if self.hosts.pop(host, self) is None:
            self._leave_if_idle()

    @override
    def rested(self) -> None:
        for host in self.scatters:
            host.check()
        self._run.consider()

    @override
    def goes_on(self) -> None:
        self.stirs += 1
        self._run.go_on()

    # -- life ---------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        group = self._run.group
        if not self._listening and group is not None:
            self._listening = True
            group.start_soon(self._hear, name=f"run {self.id} waits")

    async def _hear(self) -> None:
        """Pass hints on while anything waits."""
        services = self._run.services
        try:
            while self.any:
                with anyio.CancelScope() as self._scope:
                    await services.store.changed(f"run:{self.id}", within=services.settings.poll * 10)
                    services.watch.hint(self)
        finally:
            self._listening = False

    def _leave_if_idle(self) -> None:
        if not self.any:
            self._run.services.watch.remove(self)
            self._scope.cancel()

    def drop(self) -> None:
        """Evict all bodies that do nothing but wait, and forget those that were: the run is left to somebody else."""
        for lodger in list(self.lodgers):
            if lodger.rest():
                lodger.evict()
        self._dormant.clear()
        self._leave_if_idle()

    def leave_evicted(self) -> None:
        """Call no body again that was evicted: the run ends here, or is somebody else's."""
        self._dormant.clear()
        self._leave_if_idle()

    def forget(self) -> None:
        """Wait for nothing any more."""
        self._dormant.clear()
        self._parked.clear()
        self.scatters.clear()
        self.hosts.clear()
        self._leave_if_idle()

    def close(self) -> None:
        """Wait for nothing any more, and let go of the run."""
        self.forget()
        self._run = weakref.proxy(self._run)


def _left(since: float | None, patience: float | None, now: float) -> float | None:
    """Return how long it may stay in memory yet; None for ever, or as long as it does anything but wait."""
    return None if patience is None or since is None else since + patience - now


def _resolve(opened: asyncio.Future[StoredGate | None], found: StoredGate | None) -> None:
    if not opened.done():
        opened.set_result(found)


def _fail(opened: asyncio.Future[StoredGate | None], error: FlowstoneError) -> None:
    if not opened.done():
        opened.set_exception(error)
