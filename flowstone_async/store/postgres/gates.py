"""Gates on Postgres: one insert decides each, and what others decide is passed over. See docs/adr/0010-waiting.md."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from asyncpg import Record
from typing_extensions import override

from flowstone_async.store.gates import (
    GATE_KINDS,
    Delivered,
    Delivery,
    Gate,
    GateKind,
    Gates,
    Outcome,
    RunWakes,
    Signal,
    StoredGate,
    Suspension,
    token_in_use,
)
from flowstone_async.store.postgres.committer import Committer
from flowstone_async.store.postgres.connections import Connections, Session
from flowstone_async.store.postgres.hints import Hints
from flowstone_async.store.postgres.identifiers import ids, is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.lent import fetch_lent
from flowstone_async.store.postgres.repeating import Repeating
from flowstone_async.types import AssetKey

_MOST = 5_000
_NOWHERE = str(UUID(int=0))


class PostgresGates(Gates):
    """Keeps gates.

    Args:
        connections: To the server.
        instants: The store's clock.
        hints: Who waits for runs.
        committer: Of the steps of runs: what it knows of them.
        owns: Whether this process may still commit anything: False once its lease is lost.
        patience: Seconds for which what may be repeated is, while the server cannot be reached.
    """

    def __init__(
        self,
        connections: Connections,
        instants: Instants,
        hints: Hints,
        *,
        committer: Committer,
        owns: Callable[[], bool],
        patience: float,
    ) -> None:
        self._connections = connections
        self._instants = instants
        self._hints = hints
        self._owns = owns
        self._committer = committer
        self._patiently = Repeating(owns, patience)
        self._early = b""  # up to where signals that came early were looked at

    @override
    async def open(self, run_id: str, fence: int, gates: Sequence[Gate]) -> Mapping[str, StoredGate] | None:
        if not is_id(run_id) or not await self._patiently(partial(self._open, run_id, fence, gates)):
            return None
        await self._committer.gated(run_id)
        # Only now: a signal that has come since sees the gates, and one that came before is seen.
        tokens = [gate.token for gate in gates if gate.token is not None]
        await self._patiently(partial(self._settle, [_address(gate.id) for gate in gates] + tokens))
        return await self.read([gate.id for gate in gates])

    async def _open(self, run_id: str, fence: int, gates: Sequence[Gate]) -> bool:
        if not self._owns():
            return False
        async with self._connections.transaction() as session:
            if not await session.fetch("gate_run", run_id, fence):
                return False
            rows = await session.fetch("open_gates", run_id, *_columns(gates), self._instants.given())
            new = {str(row["id"]) for row in rows}
            tokens = [(gate.token, gate.id) for gate in gates if gate.token is not None and gate.id in new]
            if tokens:
                await _hold(session, tokens)
        return True

    async def _settle(self, addresses: Sequence[bytes]) -> int:
        """Deliver signals that came before their gates, and wake their runs; return how many there were."""
        known = [row[0] for row in await self._connections.fetch("early_gates", addresses)]
        if not known:
            return 0
        async with self._connections.transaction() as session:
            rows = await session.fetch("early_ones", known, self._instants.given())
            early = {row["address"]: row for row in rows}
            found = await session.fetch("addressed", list(early)) if early else []
            signals = [early[row["address"]] for row in found]
            columns = [[signal[name] for signal in signals] for name in ("address", "at", "signal_id", "payload")]
            settled = await session.fetch("settle_early", [row["id"] for row in found], *columns) if found else []
        if settled:
            await self._wake({row["run_id"] for row in settled}, free=True)
        return len(settled)

    @override
    async def read(self, gates: Collection[str]) -> Mapping[str, StoredGate]:
        known = ids(gates)
        found: dict[str, StoredGate] = {}
        for start in range(0, len(known), _MOST):
            part = known[start : start + _MOST]
            for row in await self._connections.fetch("gates", part, self._instants.given(), None):
                stored = _stored(row)
                found[stored.gate.id] = stored
        return found

    @override
    async def holder(self, token: bytes) -> StoredGate | None:
        rows = await self._connections.fetch("gates", [], self._instants.given(), token)
        return _stored(rows[0]) if rows else None

    @override
    async def outcomes(self, gates: Collection[str]) -> Mapping[str, Outcome]:
        known = ids(gates)
        found: dict[str, Outcome] = {}
        for start in range(0, len(known), _MOST):
            for row in await self._connections.fetch("gate_outcomes", known[start : start + _MOST]):
                gate = str(row["gate"])
                found[gate] = Outcome(gate, row["how"], row["at"], row["payload"], row["signal_id"])
        return found

    @override
    async def of_run(self, run_id: str) -> tuple[StoredGate, ...]:
        rows = await self._connections.fetch("gates_of_run", run_id) if is_id(run_id) else []
        return await self._in_order(rows)

    @override
    async def open_of_run(self, run_id: str, *, limit: int) -> tuple[StoredGate, ...]:
        return await self._in_order(await self._connections.fetch("open_gates_of_run", run_id, limit))

    @override
    async def waiting_bodies(self, run_id: str, key: AssetKey) -> int:
        rows = await self._connections.fetch("waiting_bodies", run_id, key.pipeline, key.asset, key.io, key.partition)
        return rows[0][0]

    @override
    async def open_kinds(self, run_id: str, *, aside: str) -> frozenset[GateKind]:
        rows = await self._connections.fetch("open_kinds", run_id, aside)
        return frozenset(row["kind"] for row in rows)

    async def _in_order(self, rows: Iterable[Record]) -> tuple[StoredGate, ...]:
        order = [str(row["id"]) for row in rows]
        found = await self.read(order)
        return tuple(found[gate] for gate in order if gate in found)

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
        due: datetime | None = None
        if after is not None:
            places = await self._connections.fetch("gate_place", after) if is_id(after) else []
            if not places:
                return ()
            due = places[0]["due"]
        behind = (due, _NOWHERE if after is None else after, self._instants.given(), after is None or due is not None)
        name, *of = (asset, None, None) if key is None else (key.asset, key.io, key.partition)
        rows = await self._connections.fetch("gates_waiting", list(kinds), list(pipelines), name, limit, *behind, *of)
        return await self._in_order(rows)

    @override
    async def last_ended(self, key: AssetKey) -> StoredGate | None:
        of = (key.pipeline, key.asset, key.io, key.partition, self._instants.given())
        return next(iter(await self._in_order(await self._connections.fetch("last_ended", *of))), None)

    @override
    async def deliver(self, signal: Signal, *, connection: object = None) -> Delivered:
        given = (
            signal.gate,
            signal.token,
            signal.payload,
            signal.signal_id,
            signal.facts,
            signal.keep,
            self._instants.given(),
        )
        if connection is not None:
            [row] = await fetch_lent(self._connections, connection, "signal", *given)
            return _delivered(row)
        [row] = await self._connections.fetch("signal", *given)
        if row["of_run"] is not None:
            self._hints.publish(f"run:{row['of_run']}")  # a body that waits here need not wait for the wake
            await self._wake([row["of_run"]])
        elif row["state"] == "early":
            # The gate may have been recorded meanwhile.
            address = signal.token if signal.gate is None else _address(signal.gate)
            await self._settle([] if address is None else [address])
        return _delivered(row)

    @override
    async def record_delivery(self, delivery: Delivery) -> None:
        at = delivery.at or self._instants.given()
        gate = delivery.gate if delivery.gate is not None and is_id(delivery.gate) else None
        given = (gate, delivery.state, delivery.signal_id, delivery.facts, delivery.token, delivery.payload, at)
        await self._connections.fetch("record_delivery", *given)

    @override
    async def deliveries(self, gate: str, *, limit: int = 100) -> tuple[Delivery, ...]:
        found = (await self.read([gate])).get(gate)
        token = None if found is None else found.gate.token
        rows = await self._connections.fetch("deliveries", gate, token, limit) if is_id(gate) else []
        return tuple(
            Delivery(
                *(row["state"], None if row["gate"] is None else str(row["gate"]), row["token"], row["signal_id"]),
                *(row["facts"], row["payload"], row["at"]),
            )
            for row in rows
        )

    @override
    async def sweep(self, *, limit: int = 500) -> int:
        page = [row[0] for row in await self._connections.fetch("early_page", self._early, limit)]
        early = await self._settle(page) if page else 0
        self._early = page[-1] if len(page) == limit else b""
        expired = len(await self._connections.fetch("expire_gates", limit, self._instants.given()))
        unwoken = [row["run_id"] for row in await self._connections.fetch("unwoken", limit)]
        if unwoken:
            await self._wake(unwoken, free=True)
        return max(early, expired, len(unwoken))

    async def _wake(self, runs: Collection[UUID], *, free: bool = False) -> None:
        """Wake runs, or with `free` those that nobody holds."""
        unowned = False
        for row in await self._connections.fetch("wake", list(runs), self._instants.given(), free):
            self._hints.ended(str(row["id"]), ())
            unowned = unowned or row["unowned"]
        if unowned:
            self._hints.woken()

    @override
    async def next_due(self) -> datetime | None:
        return (await self._connections.fetch("next_due"))[0][0]

    @override
    async def rearm(self, run_id: str, fence: int, gate: str, due: datetime) -> bool:
        return await self._reopened(run_id, fence, gate, due, "rearm_gate", due)

    @override
    async def refuse(self, run_id: str, fence: int, gate: str, payload: bytes) -> bool:
        return await self._reopened(run_id, fence, gate, None, "refuse_signal", payload, self._instants.given())

    async def _reopened(
        self, run_id: str, fence: int, gate: str, due: datetime | None, query: str, *given: object
    ) -> bool:
        """Open a gate again by a query and what that takes; tell whether it is open, until `due` if one is given."""
        known = is_id(run_id) and is_id(gate)
        return known and await self._patiently(partial(self._reopen, run_id, fence, gate, due, query, *given))

    async def _reopen(
        self, run_id: str, fence: int, gate: str, due: datetime | None, query: str, *given: object
    ) -> bool:
        if not self._owns():
            return False
        async with self._connections.transaction() as session:
            if not await session.fetch("gate_run", run_id, fence):
                return False
            [found] = await session.fetch("lock_gate", run_id, gate) or [None]
            if found is None or found["open"]:
                return found is not None and due in (None, found["due"])
            for row in (again := await session.fetch(query, run_id, gate, *given)):
                if row["token"] is not None:
                    await _hold(session, [(row["token"], gate)])
        return bool(again)

    @override
    async def withdraw(self, run_id: str, fence: int, gates: Collection[str]) -> bool:
        return is_id(run_id) and await self._patiently(partial(self._withdraw, run_id, fence, ids(gates)))

    async def _withdraw(self, run_id: str, fence: int, gates: Sequence[str]) -> bool:
        if not self._owns():
            return False
        async with self._connections.transaction() as session:
            owned = await session.fetch("gate_run", run_id, fence)
            if owned and gates:
                await session.fetch("withdraw_gates", run_id, gates, self._instants.given())
        return bool(owned)

    @override
    async def wakes(self, run_ids: Collection[str]) -> Mapping[str, RunWakes]:
        rows = await self._connections.fetch("wakes", ids(run_ids))
        return {str(row["id"]): RunWakes(row["wakes"], row["wake_at"], row["paused"], row["quiet"]) for row in rows}

    @override
    async def suspended_run(self, pipeline: str, request: str) -> str | None:
        rows = await self._connections.fetch("suspended_run", pipeline, request)
        return str(rows[0]["id"]) if rows else None

    @override
    async def suspend(self, run_id: str, fence: int, wakes: int) -> Suspension:
        if not is_id(run_id):
            return "lost"
        return await self._patiently(partial(self._suspend, run_id, fence, wakes))

    async def _suspend(self, run_id: str, fence: int, wakes: int) -> Suspension:
        if not self._owns():
            return "lost"
        freed: list[AssetKey] = []
        async with self._connections.transaction() as session:
            suspended = await session.fetch("suspend", run_id, fence, wakes, self._instants.given())
            if suspended:
                freed = [AssetKey(*row) for row in await session.fetch("free_claims", run_id)]
        if suspended:
            self._committer.ledger.pop(run_id, None)
            self._hints.ended(run_id, freed)
            return "suspended"
        for row in await self._connections.fetch("suspended", run_id, fence):
            if row["owned"]:
                return "woken"
            if row["suspended"]:
                return "suspended"
        return "lost"


async def _hold(session: Session, tokens: Sequence[tuple[bytes, str]]) -> None:
    """Give tokens to gates, in the transaction that opens them.

    Raises:
        TokenInUse: Another open gate has one.
    """
    first = dict(reversed(tokens))
    held = {str(row["gate"]) for row in await session.fetch("hold_tokens", list(first), list(first.values()))}
    for _, gate in tokens:
        if gate not in held:
            raise token_in_use(gate)


def _columns(gates: Sequence[Gate]) -> tuple[Sequence[object], ...]:
    rows = [
        (
            gate.id,
            gate.due if isinstance(gate.due, datetime) else None,
            gate.due.total_seconds() if isinstance(gate.due, timedelta) else None,
            gate.kind,
            *(gate.asset.pipeline, gate.asset.asset, gate.asset.io, gate.asset.partition),
            *(gate.name, gate.body, gate.key, gate.facts, gate.token),
        )
        for gate in gates
    ]
    return tuple(list(column) for column in zip(*rows, strict=True)) if rows else ((),) * 13


def _address(gate: str) -> bytes:
    return UUID(gate).bytes


def _stored(row: Record) -> StoredGate:
    gate = Gate(
        id=str(row["id"]),
        run_id=str(row["run_id"]),
        body=row["body"],
        key=row["key"],
        kind=row["kind"],
        asset=AssetKey(row["pipeline"], row["asset"], row["partition"], row["io"]),
        name=row["name"],
        due=row["due"],
        token=row["token"],
        facts=row["facts"],
    )
    outcome = None
    if row["how"] is not None:
        outcome = Outcome(gate.id, row["how"], row["at"], row["payload"], row["signal_id"])
    if outcome is not None:
        state = outcome.how
    else:
        state = "cancelled" if not row["goes_on"] else "expired" if row["over"] else "open"
    return StoredGate(gate, row["opened_at"], outcome, state, row["due"])


def _delivered(row: Record) -> Delivered:
    gate = None if row["of_gate"] is None else str(row["of_gate"])
    outcome = None
    if row["how"] is not None:
        outcome = Outcome(gate or "", row["how"], row["at"], row["payload"], row["signal_id"])
    return Delivered(row["state"], gate, outcome)
