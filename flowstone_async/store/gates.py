"""The store's port for gates: durable waits, what ended each, and runs that are suspended until one of theirs ends.

docs/adr/0010-waiting.md says what decides and why. The obligations of `protocol.py` hold here too. A gate has at most
one outcome: signals, its deadline and the end of its run race for it, and whoever comes second changes nothing.
Deadlines are on the store's clock. Payloads and facts are the engine's; the store compares payloads and reads nothing
of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol, TypeAlias

from flowstone_async.errors import TokenInUse
from flowstone_async.types import AssetKey

GateKind: TypeAlias = Literal["signal", "approval", "sleep", "mismatch", "worker"]
GateState: TypeAlias = Literal["open", "signalled", "expired", "cancelled"]
DeliveryState: TypeAlias = Literal["accepted", "duplicate", "already", "expired", "closed", "early", "unknown"]
Suspension: TypeAlias = Literal["suspended", "woken", "lost"]

GATE_KINDS: tuple[GateKind, ...] = ("signal", "approval", "sleep", "mismatch", "worker")


class Gate(NamedTuple):
    """One durable wait.

    Attributes:
        id: A UUID that the engine derives, known before anything is recorded.
        run_id: The run that waits.
        body: Which call of an asset, or of an item.
        key: Which of the durable calls in it.
        asset: What waits.
        name: For people.
        due: When it expires, or how long after it is recorded; None never. As it is read back: when.
        token: Hash of a token that the other side chose, 32 bytes; at most one open gate has it.
        facts: What else the engine knows of it, as JSON.
    """

    id: str
    run_id: str
    body: str
    key: str
    kind: GateKind
    asset: AssetKey
    name: str
    due: datetime | timedelta | None = None
    token: bytes | None = None
    facts: str = "{}"


class Outcome(NamedTuple):
    """What ended a gate.

    Attributes:
        how: `cancelled` if its run ended before it did, or gave it up.
        payload: Of the signal.
        signal_id: What the sender called it, if anything.
    """

    gate: str
    how: Literal["signalled", "expired", "cancelled"]
    at: datetime
    payload: bytes | None = None
    signal_id: str | None = None


class StoredGate(NamedTuple):
    """A gate as it is stored.

    Attributes:
        gate: With the deadline that stands.
        opened_at: When it was recorded.
        outcome: What has ended it, on record; a deadline that has passed may not be, as a signal may have come before.
        state: For people: `expired` also if nothing but its deadline has passed, `cancelled` if only its run has ended.
        due: As `gate.due`.
    """

    gate: Gate
    opened_at: datetime
    outcome: Outcome | None
    state: GateState
    due: datetime | None


class Signal(NamedTuple):
    """Something that is delivered to a gate.

    Attributes:
        payload: What; equal payloads are the same signal.
        gate: For which gate; or
        token: for whichever holds this one, as `Gate.token`.
        signal_id: What the sender calls it: signals with the same are the same.
        facts: Who sent it and how, as JSON, for the record.
        keep: Seconds for which it is kept if there is no such gate yet; None: it is not.
    """

    payload: bytes
    gate: str | None = None
    token: bytes | None = None
    signal_id: str | None = None
    facts: str = "{}"
    keep: float | None = None


class Delivered(NamedTuple):
    """What became of a signal.

    Attributes:
        state: `accepted`: it is the outcome. `duplicate`: it was before. `already`: another one is. `expired`,
            `closed`: so is the gate. `early`: it will be the outcome once there is such a gate. `unknown`: there
            is none.
        gate: Which gate that is, if there is one.
        outcome: What stands; of an early signal that another one precedes, that one.
    """

    state: DeliveryState
    gate: str | None = None
    outcome: Outcome | None = None


class Delivery(NamedTuple):
    """A delivery on record.

    Attributes:
        gate: For which gate, if that is known.
        token: Or for which token.
        state: What became of it: as `Delivered.state`, or what the engine says of one that it refused.
        facts: Who sent it and how, as JSON.
        payload: Of one that is not on record elsewhere.
        at: When; None for now.
    """

    state: str
    gate: str | None = None
    token: bytes | None = None
    signal_id: str | None = None
    facts: str = "{}"
    payload: bytes | None = None
    at: datetime | None = None


class RunWakes(NamedTuple):
    """How often a run was woken.

    Attributes:
        number: Of all its gates together.
        until: When the first deadline of a run that is suspended passes; None if nobody knows, or it is not.
        paused: Seconds for which it was suspended, but for the present time.
        quiet: Under which fence it was suspended last; None if it never was. Who takes it next has the fence behind
            that one, and finds that nothing of it was going on but waiting.
    """

    number: int
    until: datetime | None = None
    paused: float = 0.0
    quiet: int | None = None


class Gates(Protocol):
    """Where gates live.

    A wake is a transaction of its own, after the outcome. Whoever dies in between leaves an outcome that `sweep` finds,
    and so does a transaction of a caller's that commits later.
    """

    async def open(self, run_id: str, fence: int, gates: Sequence[Gate]) -> Mapping[str, StoredGate] | None:
        """Record gates of a run that is owned under `fence`, all or none; those that are recorded stay as they are.

        Signals that came before are delivered. Repeated, it changes nothing.

        Returns:
            The gates as they are, by id; None if the run is not owned so any more.

        Raises:
            TokenInUse: Another open gate has a token of theirs.
        """
        ...

    async def read(self, gates: Collection[str]) -> Mapping[str, StoredGate]:
        """Return those of some gates that are recorded, by id."""
        ...

    async def holder(self, token: bytes) -> StoredGate | None:
        """Return the gate that has a token (`Gate.token`), or had it last, if that is on record."""
        ...

    async def outcomes(self, gates: Collection[str]) -> Mapping[str, Outcome]:
        """Return what has ended some gates, by id, of those that have ended; it costs little for many that have not."""
        ...

    async def of_run(self, run_id: str) -> tuple[StoredGate, ...]:
        """Return the gates of a run, in the order in which they were recorded."""
        ...

    async def open_of_run(self, run_id: str, *, limit: int) -> tuple[StoredGate, ...]:
        """Return gates of a run that have no outcome, the nearest deadline first."""
        ...

    async def waiting_bodies(self, run_id: str, key: AssetKey) -> int:
        """Count the bodies of an asset, those of its items included, that have gates without outcome in a run."""
        ...

    async def open_kinds(self, run_id: str, *, aside: str) -> frozenset[GateKind]:
        """Return what kinds of gates of a run have no outcome; sleeps that are called `aside` do not count."""
        ...

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
        """Return open gates of runs that go on, the nearest deadline first and those without one last.

        Args:
            pipelines: Of these.
            kinds: Of these.
            asset: Only of this asset.
            key: Only of this key of it.
            limit: At most so many.
            after: Id of the last one of the previous page, open or not.
        """
        ...

    async def last_ended(self, key: AssetKey) -> StoredGate | None:
        """Return the newest gate of an asset that has ended, on record or by its deadline, and that is to go on now.

        Its run was suspended, and is for anybody to take, or was taken since. None without one.
        """
        ...

    async def deliver(self, signal: Signal, *, connection: object = None) -> Delivered:
        """Make a signal the outcome of its gate if it has none and its deadline has not passed, and wake its run.

        Every delivery is recorded with what became of it. A sleep takes no signal (`unknown`). Where a reply was lost
        it may have gone twice, and be a duplicate of itself: the record of deliveries tells, by `facts`.

        Args:
            signal: The signal.
            connection: A connection of the caller's, in whose transaction everything is done but the wake; only where
                the store is on that database. As long as that transaction is open, other signals for the gate wait for
                it for some seconds, and nothing else does.

        Raises:
            StoreUnavailable: Among others: another open transaction delivers to the same gate.
            ConfigError: `connection` is none that the store can use.
        """
        ...

    async def record_delivery(self, delivery: Delivery) -> None:
        """Record a delivery that never came to a gate: refused for its form or its token."""
        ...

    async def deliveries(self, gate: str, *, limit: int = 100) -> tuple[Delivery, ...]:
        """Return the deliveries to a gate and to its token, the newest first."""
        ...

    async def sweep(self, *, limit: int = 500) -> int:
        """Do what nobody else has done: expire gates whose deadline has passed, the oldest first, deliver signals that
        came before their gates, and wake runs for outcomes that nobody has woken them for.

        Any number of processes may do so at once, and share the work; it waits for nobody's transaction.

        Returns:
            How much there was to do. If it is `limit` or more, there may be more.
        """
        ...

    async def next_due(self) -> datetime | None:
        """Return the nearest deadline of an open gate, passed or not, or when one ended whose run was not woken yet."""
        ...

    async def rearm(self, run_id: str, fence: int, gate: str, due: datetime) -> bool:
        """Open a gate again that has expired, with its token and another deadline, for the run that is owned under
        `fence`. Tell whether it is open until then, also if this was done before.

        Raises:
            TokenInUse: Another open gate has its token by now.
        """
        ...

    async def refuse(self, run_id: str, fence: int, gate: str, payload: bytes) -> bool:
        """Open a gate again whose signal came first, so that nobody checked it, and does not fit: with its token and
        its deadline, for the run that is owned under `fence`. The signal is recorded as `invalid`.

        Args:
            run_id: The run.
            fence: Under which it is owned.
            gate: Which gate.
            payload: Of that signal; another one is not refused.

        Returns:
            Whether it has no outcome now, also if this was done before.

        Raises:
            TokenInUse: Another open gate has its token by now.
        """
        ...

    async def withdraw(self, run_id: str, fence: int, gates: Collection[str]) -> bool:
        """Cancel gates of a run that is owned under `fence`: nothing of it waits for them any more.

        What has ended stays as it is, and so does what another open transaction decides. Nobody is woken.

        Returns:
            False if the run is not owned so any more: nothing was done.
        """
        ...

    async def wakes(self, run_ids: Collection[str]) -> Mapping[str, RunWakes]:
        """Return how often runs were woken: of those that have not ended. To be asked before their gates are read."""
        ...

    async def suspended_run(self, pipeline: str, request: str) -> str | None:
        """Return the oldest run for a request (`RunRecord.request`) that was suspended and has not ended."""
        ...

    async def suspend(self, run_id: str, fence: int, wakes: int) -> Suspension:
        """Let go of a run until one of its gates ends, with its claims, unless it was woken meanwhile.

        From then on it is `waiting`, nobody owns it, and its fence has moved; woken, it is `running` and anybody takes
        it (`Store.take_orphans`). Only for runs that others may continue.

        Args:
            run_id: Which run.
            fence: Under which it is owned.
            wakes: How often it was woken before its gates were last read.

        Returns:
            `woken`: it was; read its gates again. `lost`: it is not owned so any more. A repetition after a lost reply
            says `suspended`, or `lost` if the run has gone on since.
        """
        ...


def token_in_use(gate: str) -> TokenInUse:
    """Another open gate has the token that a gate was given."""
    return TokenInUse(
        "the token that was chosen for the gate is held by another one that is open",
        details={"gate": gate},
        hint="Choose one that is unique for what is waited for, such as the id of the other side's job.",
    )
