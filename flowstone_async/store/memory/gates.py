"""Gates in memory, and runs that are suspended: each method is one short piece of work under the lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from heapq import heappop, heappush
from itertools import islice

from typing_extensions import override

from flowstone_async.errors import ConfigError
from flowstone_async.store.gates import (
    GATE_KINDS,
    Delivered,
    Delivery,
    Gate,
    GateKind,
    Gates,
    GateState,
    Outcome,
    RunWakes,
    Signal,
    StoredGate,
    Suspension,
    token_in_use,
)
from flowstone_async.store.memory.early import EarlySignals
from flowstone_async.store.memory.gate import Entry, Runs, last_ended, repeated
from flowstone_async.types import AssetKey

_DELIVERIES = 10_000


class MemoryGates(Gates):
    """Keeps gates.

    Args:
        memory: Whose runs wait.
    """

    def __init__(self, memory: Runs) -> None:
        self._memory = memory
        self._lock = memory.lock
        self._gates: dict[str, Entry] = {}
        self._of_run: dict[str, list[Entry]] = {}
        self._open: dict[str, Entry] = {}
        self._dues: list[tuple[datetime, str]] = []  # a heap, with what no longer counts
        self._holders: dict[bytes, str] = {}
        self._early = EarlySignals()
        self._deliveries: deque[Delivery] = deque(maxlen=_DELIVERIES)

    @override
    async def open(self, run_id: str, fence: int, gates: Sequence[Gate]) -> Mapping[str, StoredGate] | None:
        with self._lock:
            if not self._memory.owns(run_id, fence):
                return None
            self._require_tokens([gate for gate in gates if gate.id not in self._gates])
            at = self._memory.clock.now()
            for gate in gates:
                if gate.id not in self._gates:
                    self._enter(Entry(gate, at))
            for gate in gates:
                self._settle_early(self._gates[gate.id])
            return self._shown(gate.id for gate in gates)

    def _require_tokens(self, gates: Sequence[Gate]) -> None:
        chosen: dict[bytes, str] = {}
        for gate in gates:
            if gate.token is None:
                continue
            holder = chosen.setdefault(gate.token, gate.id)
            if holder == gate.id:
                held = self._gates.get(self._holders.get(gate.token, ""))
                holder = gate.id if held is None or not self._is_open(held) else held.gate.id
            if holder != gate.id:
                raise token_in_use(gate.id)

    def _enter(self, entry: Entry) -> None:
        gate = entry.gate
        self._gates[gate.id] = entry
        self._of_run.setdefault(gate.run_id, []).append(entry)
        self._reopen(entry)

    def _reopen(self, entry: Entry) -> None:
        gate = entry.gate
        self._open[gate.id] = entry
        if entry.due is not None:
            heappush(self._dues, entry.place)
        if gate.token is not None:
            self._holders[gate.token] = gate.id

    def _next(self) -> Entry | None:
        """Return the open gate with the nearest deadline."""
        while self._dues:
            entry = self._open.get(self._dues[0][1])
            if entry is not None and entry.place == self._dues[0]:
                return entry
            heappop(self._dues)
        return None

    def _is_open(self, entry: Entry) -> bool:
        return entry.outcome is None and entry.gate.run_id in self._memory.active

    def _settle_early(self, entry: Entry) -> None:
        for outcome in self._early.take(entry.gate, self._memory.clock.now()):
            if entry.outcome is None:
                self._end(entry, outcome)

    def _end(self, entry: Entry, outcome: Outcome) -> Outcome:
        self._decide(entry, outcome)
        run = self._memory.active.get(entry.gate.run_id)
        if run is not None:
            if run.woken(self._memory.clock.now()):
                self._memory.waiters.wake("woken")
            self._memory.moved(run)
        return outcome

    def _decide(self, entry: Entry, outcome: Outcome) -> None:
        entry.outcome = outcome
        self._open.pop(entry.gate.id, None)
        self._memory.gate_ended(entry.gate.id)

    def has_ended(self, gate: str) -> bool:
        """Tell whether a gate has."""
        return (entry := self._gates.get(gate)) is not None and entry.outcome is not None

    def _shown(self, gates: Iterable[str]) -> dict[str, StoredGate]:
        now = self._memory.clock.now()
        return {gate: self._stored(entry, now) for gate in gates if (entry := self._gates.get(gate)) is not None}

    def _stored(self, entry: Entry, now: datetime) -> StoredGate:
        state: GateState
        if entry.outcome is not None:
            state = entry.outcome.how
        elif entry.gate.run_id not in self._memory.active:
            state = "cancelled"
        else:
            state = "expired" if entry.is_over(now) else "open"
        return StoredGate(entry.gate, entry.opened_at, entry.outcome, state, entry.due)

    @override
    async def read(self, gates: Collection[str]) -> Mapping[str, StoredGate]:
        with self._lock:
            return self._shown(gates)

    @override
    async def holder(self, token: bytes) -> StoredGate | None:
        with self._lock:
            gate = self._holders.get(token, "")
            return self._shown((gate,)).get(gate)

    @override
    async def outcomes(self, gates: Collection[str]) -> Mapping[str, Outcome]:
        with self._lock:
            known = (self._gates[gate] for gate in gates if gate in self._gates)
            return {each.gate.id: each.outcome for each in known if each.outcome is not None}

    @override
    async def of_run(self, run_id: str) -> tuple[StoredGate, ...]:
        with self._lock:
            now = self._memory.clock.now()
            return tuple(self._stored(entry, now) for entry in self._of_run.get(run_id, ()))

    @override
    async def open_of_run(self, run_id: str, *, limit: int) -> tuple[StoredGate, ...]:
        with self._lock:
            now = self._memory.clock.now()
            found = sorted(self._without_outcome(run_id), key=lambda entry: entry.place)
            return tuple(self._stored(entry, now) for entry in found[:limit])

    @override
    async def waiting_bodies(self, run_id: str, key: AssetKey) -> int:
        with self._lock:
            return len({each.gate.body for each in self._without_outcome(run_id) if each.gate.asset == key})

    @override
    async def open_kinds(self, run_id: str, *, aside: str) -> frozenset[GateKind]:
        with self._lock:
            found = (each.gate for each in self._without_outcome(run_id))
            return frozenset(gate.kind for gate in found if (gate.kind, gate.name) != ("sleep", aside))

    def _without_outcome(self, run_id: str) -> list[Entry]:
        return [each for each in self._of_run.get(run_id, ()) if each.outcome is None]

    @override
    async def waiting(
        self,
        pipelines: Sequence[str],
        kinds: Sequence[GateKind] = GATE_KINDS,
        *,
        asset: str | None = None,
        key: AssetKey | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> tuple[StoredGate, ...]:
        with self._lock:
            last = None if after is None else self._gates.get(after)
            if after is not None and last is None:
                return ()
            now = self._memory.clock.now()
            found = [
                entry
                for entry in self._open.values()
                if entry.gate.kind in kinds
                and entry.gate.asset.pipeline in pipelines
                and (asset is None or entry.gate.asset.asset == asset)
                and (key is None or entry.gate.asset == key)
                and (last is None or entry.place > last.place)
                and not entry.is_over(now)
                and self._is_open(entry)
            ]
            found.sort(key=lambda entry: entry.place)
            return tuple(self._stored(entry, now) for entry in found[:limit])

    @override
    async def last_ended(self, key: AssetKey) -> StoredGate | None:
        with self._lock:
            now = self._memory.clock.now()
            found = last_ended(self._memory.active.values(), self._of_run, key, now)
            return None if found is None else self._stored(found, now)

    @override
    async def deliver(self, signal: Signal, *, connection: object = None) -> Delivered:
        if connection is not None:
            raise ConfigError(
                "conn= needs a store on Postgres: a memory store takes part in no transaction",
                hint="Leave it out, or open the engine on the database of the connection.",
            )
        with self._lock:
            delivered = self._deliver(signal)
            kept = delivered.state not in {"accepted", "duplicate", "early"}
            gate, payload = delivered.gate or signal.gate, signal.payload if kept else None
            self._record(Delivery(delivered.state, gate, signal.token, signal.signal_id, signal.facts, payload))
            return delivered

    def _deliver(self, signal: Signal) -> Delivered:
        now = self._memory.clock.now()
        gate = signal.gate if signal.token is None else self._holders.get(signal.token)
        entry = None if gate is None else self._gates.get(gate)
        if entry is None:
            return self._keep(signal, now)
        if entry.gate.kind == "sleep":
            return Delivered("unknown")
        gate = entry.gate.id
        mine = entry.outcome is None
        outcome = entry.outcome
        if outcome is None:
            outcome = self._end(entry, self._judged(entry, now, signal))
        if outcome.how == "signalled":
            return Delivered("accepted" if mine else repeated(signal, outcome), gate, outcome)
        return Delivered("expired" if outcome.how == "expired" else "closed", gate, outcome)

    def _judged(self, entry: Entry, now: datetime, signal: Signal | None = None) -> Outcome:
        """Return what ends a gate now: without a signal, its deadline."""
        gate = entry.gate.id
        if entry.gate.run_id not in self._memory.active:
            return Outcome(gate, "cancelled", now)
        if signal is None or entry.is_over(now):
            return Outcome(gate, "expired", now)
        return Outcome(gate, "signalled", now, signal.payload, signal.signal_id)

    def _keep(self, signal: Signal, now: datetime) -> Delivered:
        address = signal.gate if signal.token is None else signal.token
        if signal.keep is None or address is None:
            return Delivered("unknown")
        first = self._early.keep(address, signal, signal.keep, now)
        return Delivered("early") if first is None else Delivered(repeated(signal, first), None, first)

    def _record(self, delivery: Delivery) -> None:
        self._deliveries.append(delivery._replace(at=delivery.at or self._memory.clock.now()))

    @override
    async def record_delivery(self, delivery: Delivery) -> None:
        with self._lock:
            self._record(delivery)

    @override
    async def deliveries(self, gate: str, *, limit: int = 100) -> tuple[Delivery, ...]:
        with self._lock:
            entry = self._gates.get(gate)
            token = None if entry is None else entry.gate.token
            found = (
                each
                for each in reversed(self._deliveries)
                if each.gate == gate or (each.gate is None and token is not None and each.token == token)
            )
            return tuple(islice(found, limit))

    @override
    async def sweep(self, *, limit: int = 500) -> int:
        with self._lock:
            now = self._memory.clock.now()
            count = 0
            while count < limit and (entry := self._next()) is not None and entry.is_over(now):
                self._end(entry, self._judged(entry, now))
                count += 1
            return count

    @override
    async def next_due(self) -> datetime | None:
        with self._lock:
            entry = self._next()
            return None if entry is None else entry.due

    def _owned(self, run_id: str, fence: int, gate: str) -> Entry | None:
        entry = self._gates.get(gate)
        return entry if entry and entry.gate.run_id == run_id and self._memory.owns(run_id, fence) else None

    @override
    async def rearm(self, run_id: str, fence: int, gate: str, due: datetime) -> bool:
        with self._lock:
            entry = self._owned(run_id, fence, gate)
            if entry is None or entry.outcome is None:
                return entry is not None and entry.due == due
            if entry.outcome.how != "expired":
                return False
            self._require_tokens((entry.gate,))
            entry.gate = entry.gate._replace(due=due)
            entry.outcome = None
            self._reopen(entry)
            return True

    @override
    async def refuse(self, run_id: str, fence: int, gate: str, payload: bytes) -> bool:
        with self._lock:
            entry = self._owned(run_id, fence, gate)
            if entry is None or (outcome := entry.outcome) is None:
                return entry is not None
            if outcome.how != "signalled" or outcome.payload != payload:
                return False
            self._require_tokens((entry.gate,))
            entry.outcome = None
            self._reopen(entry)
            self._record(Delivery("invalid", gate, None, outcome.signal_id, "{}", payload))
            return True

    @override
    async def withdraw(self, run_id: str, fence: int, gates: Collection[str]) -> bool:
        with self._lock:
            if not self._memory.owns(run_id, fence):
                return False
            known = (self._gates[gate] for gate in gates if gate in self._gates)
            self._cancel(entry for entry in known if entry.gate.run_id == run_id)
            return True

    @override
    async def wakes(self, run_ids: Collection[str]) -> Mapping[str, RunWakes]:
        with self._lock:
            runs = (self._memory.active[run_id] for run_id in run_ids if run_id in self._memory.active)
            return {run.id: RunWakes(run.wakes, run.wake_at, run.paused, run.quiet) for run in runs}

    @override
    async def suspended_run(self, pipeline: str, request: str) -> str | None:
        with self._lock:
            equal = self._memory.requests.get((pipeline, request), {}).values()
            return next((run.id for run in equal if run.quiet is not None), None)

    @override
    async def suspend(self, run_id: str, fence: int, wakes: int) -> Suspension:
        with self._lock:
            run = self._memory.active.get(run_id)
            if run is None or not self._memory.owns(run_id, fence):
                is_so = run is not None and run.state == "waiting" and run.fence == fence + 1
                return "suspended" if is_so else "lost"
            if run.wakes != wakes:
                return "woken"
            entries = self._of_run.get(run_id, ())
            wake_at = min((each.due for each in entries if each.outcome is None and each.due), default=None)
            run.suspend(self._memory.clock.now(), wake_at)
            for key in tuple(run.claims):
                run.free(key)
                self._memory.changed(key)
            self._memory.moved(run)
            return "suspended"

    def end_of_run(self, run_id: str) -> None:
        """Cancel the open gates of a run that ends."""
        self._cancel(self._of_run.get(run_id, ()))

    def _cancel(self, entries: Iterable[Entry]) -> None:
        now = self._memory.clock.now()
        for entry in entries:
            if entry.outcome is None:
                self._decide(entry, Outcome(entry.gate.id, "cancelled", now))

    def forget_run(self, run_id: str) -> None:
        """Forget the gates of a run."""
        for entry in self._of_run.pop(run_id, ()):
            gate = entry.gate
            del self._gates[gate.id]
            self._open.pop(gate.id, None)
            if gate.token is not None and self._holders.get(gate.token) == gate.id:
                del self._holders[gate.token]

    def prune(self, now: datetime) -> None:
        """Forget signals that came too early."""
        self._early.prune(now)
