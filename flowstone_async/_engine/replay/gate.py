"""One durable wait of a body: a signal, or time. Its outcome is put on record before the body goes on."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from typing_extensions import override

from flowstone_async._engine import tokens
from flowstone_async._engine.gates.addresses import url_of
from flowstone_async._engine.gates.type_names import home_of
from flowstone_async._engine.replay.facts import BodyFacts
from flowstone_async._engine.replay.scope import Place
from flowstone_async._engine.replay.script import Called, Script
from flowstone_async._engine.services import Services
from flowstone_async._engine.waits.body_waits import BodyWaits
from flowstone_async._engine.waits.wait_journal import WaitJournal
from flowstone_async.errors import (
    FlowstoneError,
    LeaseLost,
    PayloadInvalid,
    StoreUnavailable,
    TimedOut,
)
from flowstone_async.failures import describe, rebuild
from flowstone_async.signals import Bound, SignalGate
from flowstone_async.store.gates import Gate, GateKind, Outcome, StoredGate
from flowstone_async.store.steps import StepRecord

_FURTHEST = datetime.max.replace(tzinfo=UTC)


class Host(Protocol):
    """The body that waits.

    Attributes:
        key: Of the item that it is called for; None if for none.
    """

    services: Services
    facts: BodyFacts
    key: object

    @property
    def waits(self) -> BodyWaits:
        """What it waits for."""
        ...

    @property
    def id(self) -> str:
        """What its records lie under."""
        ...

    @property
    def script(self) -> Script:
        """What is on record of it."""
        ...

    @property
    def secret(self) -> bytes:
        """What tokens of its gates are made with: the same whenever the body is called in this run."""
        ...

    def seal(self) -> bytes:
        """Return `secret`, for a token that is given away: it is on record which one that was."""
        ...

    @property
    def journal(self) -> WaitJournal:
        """What takes what it tells."""
        ...

    async def check(self) -> None:
        """Do nothing more if the body is being evicted."""
        ...

    def count(self, place: Place) -> None:
        """Count one more durable call."""
        ...

    def make_record(self, place: Place, called: Called, value: bytes | None) -> StepRecord:
        """Return the record of a result, which is seen now."""
        ...

    async def keep(self, record: StepRecord) -> None:
        """Put it on record."""
        ...

    async def write(self) -> None:
        """Put on record what is not yet."""
        ...

    async def pass_mismatch(self) -> None:
        """Ask nobody any more how to go on: the code fits again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait(ABC):
    """What is waited for.

    Attributes:
        name: For people.
        due: When it ends by itself, or how long after it was recorded; None never.
        chosen: The token that the other side chose.
    """

    kind: GateKind
    name: str
    due: datetime | timedelta | None = None
    chosen: str | None = None

    @abstractmethod
    def called(self) -> Called:
        """Return what is on record of it."""

    @abstractmethod
    def facts(self, host: Host) -> str:
        """Return what is stored of it."""

    @abstractmethod
    def value(self, host: Host, data: bytes) -> Any:
        """Return what the body gets, from what is on record.

        Raises:
            FlowstoneError: It cannot be read.
        """

    @abstractmethod
    def taken(self, outcome: Outcome) -> bytes | FlowstoneError:
        """Return what goes on record once it has ended."""


class BodyGate(Bound):
    """A wait with its place in a body.

    Args:
        host: The body.
        place: Where in it.
        wait: For what.
    """

    __slots__ = ("_awaited", "_host", "_place", "_wait")

    def __init__(self, host: Host, place: Place, wait: Wait) -> None:
        self._host, self._place, self._wait = host, place, wait
        self._awaited = asyncio.Lock()

    @property
    @override
    def id(self) -> str:
        return self._host.script.cuts.gate(self._host.id, self._place)

    @property
    @override
    def token(self) -> str:
        if self._wait.chosen is not None:
            return self._wait.chosen
        return tokens.token_of(self._host.seal(), self.id)

    @property
    @override
    def url(self) -> str:
        return url_of(self._host.services.settings.base_url, self.token)

    @override
    async def wait(self) -> Any:
        async with self._awaited:  # by several tasks of the body: one after the other
            return await self._waited()

    async def _waited(self) -> Any:
        host, place, wait = self._host, self._place, self._wait
        await host.check()
        called = wait.called()
        found = host.script.find(place, called)
        if found is not None:
            await host.script.turn(found)
            if found.error is not None:
                raise rebuild(found.error)
            return wait.value(host, found.value or b"")
        host.count(place)
        await host.write()  # the other side may depend on times that were told before it
        taken, value = await self._taken()
        await host.script.drained()  # what is new comes behind what was seen before
        if isinstance(taken, FlowstoneError):
            record = host.make_record(place, called, None)._replace(error=describe(taken))
            await host.keep(record)
            raise taken
        await host.keep(host.make_record(place, called, taken))
        return value

    async def _taken(self) -> tuple[bytes | FlowstoneError, Any]:
        """Wait for the end of the gate; return what goes on record, and what the body gets of it."""
        host, wait = self._host, self._wait
        while True:
            stored, outcome = await self._outcome()
            taken, value = wait.taken(outcome), None
            if isinstance(taken, bytes):
                try:
                    value = wait.value(host, taken)
                except PayloadInvalid:  # it came before the gate, when nobody could check it: the gate is open again
                    await host.waits.waits.refuse(self.id, taken)
                    continue
            else:
                taken.details["due"] = _text(stored.due)
            host.journal.ended(stored, outcome)
            return taken, value

    async def _outcome(self) -> tuple[StoredGate, Outcome]:
        """Open the gate unless it is, and wait for its end."""
        host = self._host
        try:
            stored = await self._opened()
            outcome = stored.outcome
            if outcome is not None and outcome.how == "expired" and self._is_of_another_attempt(stored):
                stored = await self._again(stored)
                outcome = stored.outcome
            if outcome is None:
                outcome = await host.waits.park(stored)
        except StoreUnavailable as error:
            host.facts.away(error)
            raise
        if outcome.how == "cancelled":
            raise self._lost()
        return stored, outcome

    def _is_of_another_attempt(self, stored: StoredGate) -> bool:
        """Tell whether a deadline passed in an earlier attempt: then the gate has its time once more, once."""
        failed = self._host.script.failed_before(self._place)
        return failed is not None and failed.details.get("due") in (None, _text(stored.due))

    def of(self, host: Host) -> bool:
        """Tell whether it is a gate of a body."""
        return self._host.id == host.id

    def record(self) -> Gate:
        """Return what is recorded of it."""
        host, wait = self._host, self._wait
        return Gate(
            id=self.id,
            run_id=host.facts.run_id,
            body=host.id,
            key=self._place.key,
            kind=wait.kind,
            asset=host.facts.key,
            name=wait.name,
            due=wait.due,
            token=None if wait.chosen is None else tokens.chosen(wait.chosen),
            facts=wait.facts(host),
        )

    async def _opened(self) -> StoredGate:
        host = self._host
        if host.script.passed:
            await host.pass_mismatch()
        waits, former = host.waits.waits, host.script.cuts.former(host.id, self._place)
        if former is not None:  # the other side may still know it: it is told that nobody waits for it
            await waits.withdraw([former])
            host.journal.withdrawn([former])
        stored = await waits.open(self.record())
        if stored is None:
            raise self._lost()
        host.journal.opened(stored)
        return stored

    async def _again(self, stored: StoredGate) -> StoredGate:
        host, due = self._host, self._wait.due
        if isinstance(due, timedelta):
            due = host.services.store.now() + due
        if due is None or not await host.waits.waits.rearm(self.id, due):
            return stored
        host.journal.rearmed(stored.gate, due)
        return (await host.services.store.gates.read([self.id])).get(self.id, stored)

    def _lost(self) -> LeaseLost:
        return lost(self._host.facts, self._place.key)


def _text(due: datetime | None) -> str | None:
    return None if due is None else due.isoformat()


def lost(facts: BodyFacts, key: str) -> LeaseLost:
    """Say that the run is not ours any more; return the error for who waits for a gate of it."""
    facts.lost()
    return LeaseLost(
        f"run {facts.run_id} is owned by another worker now, or was ended by one: nobody waits for gate {key!r} here",
        run_id=facts.run_id,
        hint="Look at the run: the other worker continues it.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalWait(Wait):
    """Waits for a payload."""

    model: Any

    @override
    def called(self) -> Called:
        return Called(("signal", self.name, ""))

    @override
    def facts(self, host: Host) -> str:
        home = home_of(host.facts.definition)
        return host.services.payloads.gate_facts(self.model, secret=host.secret, home=home)

    @override
    def value(self, host: Host, data: bytes) -> Any:
        return host.services.payloads.decode(self.model, data, home_of(host.facts.definition))

    @override
    def taken(self, outcome: Outcome) -> bytes | FlowstoneError:
        if outcome.how == "signalled":
            return outcome.payload or b""
        return TimedOut(
            f"nobody signalled gate {self.name!r} in time",
            details={"gate": outcome.gate},
            hint="Raise timeout=, catch TimedOut to go on without it, or find out why the other side is silent: "
            "engine.gates.deliveries tells what came.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepWait(Wait):
    """Waits for nothing but time."""

    @override
    def called(self) -> Called:
        return Called(("sleep", "", ""))

    @override
    def facts(self, host: Host) -> str:
        return "{}"

    @override
    def value(self, host: Host, data: bytes) -> Any:
        return None

    @override
    def taken(self, outcome: Outcome) -> bytes | FlowstoneError:
        return b""


def signal_wait(gate: SignalGate[Any]) -> SignalWait:
    """Return what a gate waits for."""
    due = None if gate.timeout is None else timedelta(seconds=gate.timeout)
    return SignalWait(kind="signal", name=gate.name, due=due, chosen=gate.chosen, model=gate.model)


def sleep_wait(length: float | None, until: datetime | None) -> SleepWait:
    """Return what waits for a time."""
    return SleepWait(kind="sleep", name="sleep", due=until if length is None else timedelta(seconds=length))
