"""The waits of one run: gates opened together, bodies that are parked, bodies that were evicted.

    body ── await gate ──> open ──> parked ── the gate ends ──> back to a place, on record, on
                                      └── all of the body has waited for `park_after` ──> evicted: called again once
                                                                                          one of its gates has ended

What has ended is not handed out while the run is being suspended: else a body might go on that is somebody else's then.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Collection
from datetime import datetime
from heapq import heappop, heappush
from typing import Protocol

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup
from typing_extensions import override

from flowstone_async._engine.services import Services
from flowstone_async._engine.waits.alarms import waits_as
from flowstone_async._engine.waits.parked import Found, Lodger, Parked, Waits
from flowstone_async.errors import FlowstoneError
from flowstone_async.store.gates import Gate, GateKind, Outcome, StoredGate
from flowstone_async.store.records import RunRecord


class Waiter(Protocol):
    """The run that waits."""

    id: str
    record: RunRecord
    services: Services
    group: TaskGroup | None

    def lose(self) -> None:
        """The store refused something: somebody cancelled the run, or owns it now."""
        ...

    def break_off(self, error: FlowstoneError) -> None:
        """Give the run up here because of an error that is no outcome of an asset."""
        ...

    def consider(self) -> None:
        """Look whether the run can be suspended, or a body be evicted."""
        ...

    def go_on(self) -> None:
        """Something of the run does more than wait."""
        ...


class RunWaits(Waits):
    """What a run waits for.

    Args:
        run: Which one.

    Attributes:
        lodgers: Bodies that have waits in memory.
        held: Whether nothing is handed out.
        over: Whether durable calls do nothing any more.
    """

    def __init__(self, run: Waiter) -> None:
        self._run = run
        self.id = run.id
        self.lodgers: dict[Lodger, None] = {}
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
        return frozenset(kinds)

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
        self._leave_if_idle()

    def reconsider(self) -> None:
        """Look again which bodies do nothing but wait."""
        for lodger in list(self.lodgers):
            if lodger.since is None:
                lodger.rest()
        self._run.consider()

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
        if lodger in self.lodgers and lodger.rest():
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
        if lodger in self.lodgers and not self.held and not lodger.stays and lodger.rest():
            lodger.evict()

    def evict_due(self, now: float, *, apart: bool) -> float | None:
        """Evict bodies that have waited for long enough.

        Args:
            now: The time.
            apart: Whether the run goes on without them; else nothing is evicted.

        Returns:
            Seconds until the next one has; without `apart` until all have, 0 at least. None if that will never be.
        """
        left = [_left(lodger, now) for lodger in self.lodgers]
        if not apart:
            return None if any(each is None for each in left) else max([0.0, *(each or 0.0 for each in left)])
        for lodger, each in zip(list(self.lodgers), left, strict=True):
            if each is not None and each <= 0 and lodger.rest():
                lodger.evict()
        return min((each for each in left if each is not None and each > 0), default=None)

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
            while self._parked or self._dormant:
                with anyio.CancelScope() as self._scope:
                    await services.store.changed(f"run:{self.id}", within=services.settings.poll * 10)
                    services.watch.hint(self)
        finally:
            self._listening = False

    def _leave_if_idle(self) -> None:
        if not self._parked and not self._dormant:
            self._run.services.watch.remove(self)
            self._scope.cancel()

    def drop(self) -> None:
        """Evict all bodies that do nothing but wait, and forget those that were: the run is left to somebody else."""
        for lodger in list(self.lodgers):
            if not lodger.stays and lodger.rest():
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
        self._leave_if_idle()

    def close(self) -> None:
        """Wait for nothing any more, and let go of the run."""
        self.forget()
        self._run = weakref.proxy(self._run)


def _left(lodger: Lodger, now: float) -> float | None:
    """Return how long a body may wait in memory yet; None for ever, or as long as it does anything else."""
    if lodger.stays or lodger.patience is None or lodger.since is None:
        return None
    return lodger.since + lodger.patience - now


def _resolve(opened: asyncio.Future[StoredGate | None], found: StoredGate | None) -> None:
    if not opened.done():
        opened.set_result(found)


def _fail(opened: asyncio.Future[StoredGate | None], error: FlowstoneError) -> None:
    if not opened.done():
        opened.set_exception(error)
