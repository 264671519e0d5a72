"""Gates that bodies return: the body is over, and nothing of it is held until its gate ends (SIG-03 to SIG-05,
APPR-16).

    body ── returns a gate ──> on record ──> its resources close ──> the gate is opened ──> nothing is left in memory
    the gate ends ──> the asset is called again: the record says that the body is not; one of the handlers is

What is on record, with the steps of the body: `returned` (which gate, and what the body had consumed and noted), then
one `rearmed` for each time that `on_timeout` has opened the gate again, with the new deadline, written before it takes
effect. The gate's own outcome is what the handlers are called for, as often as they are tried. `returned_approval.py`
has what becomes of requests for approval.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar, cast

from flowstone_async._engine.arguments import Values, prepare
from flowstone_async._engine.gates.type_names import home_of
from flowstone_async._engine.outcome import Prepared
from flowstone_async._engine.replay.body import DurableBody
from flowstone_async._engine.replay.gate import BodyGate, lost, signal_wait
from flowstone_async._engine.replay.scope import Place
from flowstone_async._engine.replay.script import Called
from flowstone_async._engine.services import Services
from flowstone_async._engine.waits.parked import Parked
from flowstone_async._engine.waits.returned_approval import ReturnedApproval, proposed
from flowstone_async._engine.waits.returned_record import PATH, Kept, place_of, read, written
from flowstone_async.approval_gate import ApprovalGate
from flowstone_async.approvals import ApprovalOptions, Decision
from flowstone_async.config import seconds
from flowstone_async.definition.binding import ParamFieldBinding, ParamsBinding
from flowstone_async.definition.context import Call
from flowstone_async.definition.graph import BoundGate, BoundHandler
from flowstone_async.errors import ConfigError, LeaseLost, PayloadInvalid, StoreUnavailable, TimedOut
from flowstone_async.io.base import IOManager
from flowstone_async.planning.units import Unit
from flowstone_async.resources import ResourceScope
from flowstone_async.signals import Rearm, SignalGate, bound_of
from flowstone_async.store.gates import Gate, StoredGate
from flowstone_async.types import Input

R = TypeVar("R")
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)
_NO_NAMES: Mapping[str, Any] = {}
_logger = logging.getLogger("flowstone")


class Ended(NamedTuple):
    """What a handler is called for.

    Attributes:
        payload: What is given to it by place.
        named: What is given to it by name, beside what it takes as the body does.
    """

    handler: BoundHandler
    payload: tuple[Any, ...]
    named: Mapping[str, Any]


class Attempted(Protocol[V_co]):
    """The attempt at the asset, or at an item of a scatter.

    Attributes:
        asleep: Set to the gate that it waits at, where nothing of it goes on.
        final: Set where another attempt would change nothing.
    """

    unit: Unit
    values: Values
    asleep: tuple[Parked, ...] | None
    final: bool

    @property
    def services(self) -> Services:
        """Those of the engine."""
        ...

    @property
    def manager(self) -> IOManager | None:
        """Of the asset's value; None for an item."""
        ...

    @property
    def durable(self) -> DurableBody:
        """What the present call has on record."""
        ...

    async def within(self, use: Callable[[Call, ResourceScope], Awaitable[R]], part: str = "") -> R:
        """Make a call, of the body or of a handler; once it is over, end what it has left going, and its resources."""
        ...

    async def body(self, call: Call, scope: ResourceScope) -> tuple[Any, Prepared]:
        """Call the body; return what it returns, and what it was given."""
        ...

    async def handled(self, ended: Ended, call: Call, scope: ResourceScope) -> Any:
        """Call a handler with what it takes."""
        ...

    async def stored(self, value: Any, inputs: tuple[Input, ...]) -> V_co:
        """Store the value of the asset."""
        ...

    def consumed(self, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
        """Return what counts as consumed."""
        ...

    def noted(self) -> Mapping[str, object]:
        """Return what was noted of the value."""
        ...


class GatedBody(Generic[V]):
    """One attempt at an asset, or at an item, whose body may return a gate.

    Args:
        attempt: Which one.
        gate: Which gate, and its handlers.
    """

    def __init__(self, attempt: Attempted[V], gate: BoundGate) -> None:
        self._attempt, self.gate = attempt, gate
        self._unit, self.services = attempt.unit, attempt.services
        self.node = attempt.unit.node
        self._rearms: list[datetime] = []
        self._durable: DurableBody | None = None
        self._kept: Kept | None = None
        self._notes: dict[str, object] = {}
        self._options: ApprovalOptions | None = None

    @property
    def manager(self) -> IOManager | None:
        """Of the asset's value; None for an item."""
        return self._attempt.manager

    @property
    def durable(self) -> DurableBody:
        """What the body has on record."""
        assert self._durable is not None  # noqa: S101 - set before anything else is done
        return self._durable

    async def compute(self) -> V | None:
        """Return the value, or None where it waits and nothing of it goes on."""
        kept = await self._attempt.within(self._body)
        if not isinstance(kept, Kept):
            return kept
        self._kept = kept
        try:
            if kept.proposal is not None:
                return await ReturnedApproval(self, kept.gate, kept.proposal, self._options).value()
            return await self._ended(kept)
        except StoreUnavailable as error:
            self.durable.facts.away(error)
            raise

    # -- the body -----------------------------------------------------------------------------------------------

    async def _body(self, call: Call, scope: ResourceScope) -> V | Kept:
        """Call the body, unless it has returned a gate before."""
        attempt = self._attempt
        durable = self._durable = attempt.durable
        self._notes = call.notes
        await durable.load()
        known = [each.value or b"" for each in durable.script.at(PATH)]
        if known:
            durable.script.forgo()
            self._rearms = [datetime.fromisoformat(each.decode()) for each in known[1:]]
            kept = read(known[0], durable)
            call.notes.update(kept.notes)
            return kept
        value, prepared = await attempt.body(call, scope)
        inputs = (*prepared.inputs, *self._params(prepared.inputs))
        proposal = None
        if isinstance(value, SignalGate):
            gate = self._record_of(cast("SignalGate[Any]", value))
        elif isinstance(value, ApprovalGate):
            gate, proposal = proposed(durable, self.manager, self.node, cast("ApprovalGate[Any]", value))
            self._options = value.asking.options
        else:
            return await attempt.stored(_no_rearm(value, "the body"), inputs)
        kept = Kept(gate, attempt.consumed(inputs), attempt.noted(), proposal)
        await durable.keep(durable.make_record(place_of(0, "gate"), Called((PATH, "", "")), written(kept)))
        return kept

    def _record_of(self, gate: SignalGate[Any]) -> Gate:
        if gate.model != self.gate.model:
            raise ConfigError(
                f"the body returned a gate for {gate.model!r}, and says signal={self.gate.model!r}",
                asset=self._unit.node.name,
                hint="Return a gate for what signal= says.",
            )
        bound, durable = bound_of(gate), self.durable
        if bound is None:
            bound = BodyGate(durable, Place(f"{PATH}/{gate.name}#0", PATH, 0), signal_wait(gate))
            gate.bind(bound)
        if not isinstance(bound, BodyGate) or not bound.of(durable):
            raise ConfigError(
                "the body returned a gate that another call has made",
                asset=self._unit.node.name,
                hint="Make a gate of its own in each call: ctx.signal(...), or SignalGate(...).",
            )
        return bound.record()

    def _params(self, known: tuple[Input, ...]) -> list[Input]:
        """Return the params that handlers take: the value depends on them, whichever is called."""
        names = [
            "*" if isinstance(each, ParamsBinding) else each.field
            for each in self.gate.bindings
            if isinstance(each, ParamsBinding | ParamFieldBinding)
        ]
        own = [Input("param", each, self._attempt.values.prints(each)) for each in dict.fromkeys(names)]
        return [each for each in own if each not in known]

    # -- the gate -----------------------------------------------------------------------------------------------

    async def _ended(self, kept: Kept) -> V | None:
        """Open the gate unless it is, and do what its end asks for."""
        gate, waits = kept.gate, self.durable.facts.waits
        stored = await waits.open(gate)
        if stored is None:
            raise lost(self.durable.facts, gate.key)
        self.durable.journal.opened(stored)
        while (outcome := stored.outcome) is not None:
            match outcome.how:
                case "signalled":
                    payload = outcome.payload or b""
                    try:
                        value = self.services.payloads.decode(
                            self.gate.model, payload, home_of(self._unit.node.definition)
                        )
                    except PayloadInvalid:  # it came before the gate, when nobody could check it
                        await waits.refuse(gate.id, payload)
                        stored = await self._look(gate, stored)
                        continue
                    self.durable.journal.ended(stored, outcome)
                    return await self._signalled(kept, value)
                case "expired":
                    self.durable.journal.ended(stored, outcome)
                    computed = await self._expired(kept, stored)
                    if computed is not None:
                        return computed
                    stored = await self._look(gate, stored)
                case "cancelled":
                    raise lost(self.durable.facts, gate.key)
        future = asyncio.get_running_loop().create_future()
        self._attempt.asleep = (Parked(gate.id, gate.kind, stored.due, future, timed=False),)
        return None

    async def _look(self, gate: Gate, before: StoredGate) -> StoredGate:
        """Return the gate as it is, which was open again or is not ours any more."""
        stored = (await self.services.store.gates.read([gate.id])).get(gate.id)
        if stored is None or (stored.outcome is not None and stored.outcome == before.outcome):
            raise lost(self.durable.facts, gate.key)
        return stored

    async def _signalled(self, kept: Kept, payload: Any) -> V:
        handler = self.gate.on_signal
        value = payload if handler is None else await self._handled(kept, handler, "on_signal", payload)
        return await self._attempt.stored(_no_rearm(value, "on_signal"), kept.inputs)

    async def _expired(self, kept: Kept, stored: StoredGate) -> V | None:
        """Ask what is to be done, or do what was said before; None once the gate is open again."""
        gate = kept.gate
        if self._rearms and stored.due != self._rearms[-1]:  # somebody died before it was open again
            return await self._rearm(gate, self._rearms[-1])
        handler, number = self.gate.on_timeout, len(self._rearms)
        if handler is None:
            self._time_out(gate)
        value = await self._handled(kept, handler, f"on_timeout#{number}")
        if not isinstance(value, Rearm):
            return await self._attempt.stored(value, kept.inputs)
        if number >= self.gate.max_rearms:
            self._time_out(gate)
        durable, store = self.durable, self.services.store
        due = store.now() + timedelta(seconds=seconds(value.timeout))
        record = durable.make_record(
            place_of(number + 1, "rearm"), Called(("rearmed", "", "")), due.isoformat().encode()
        )
        await durable.keep(record)
        self._rearms.append(due)
        return await self._rearm(gate, due)

    async def _rearm(self, gate: Gate, due: datetime) -> None:
        """Open the gate again."""
        if await self.durable.facts.waits.rearm(gate.id, due):
            self.durable.journal.rearmed(gate, due)

    def _time_out(self, gate: Gate) -> NoReturn:
        self._attempt.final = True
        often = len(self._rearms)
        again = "" if not often else " once more" if often == 1 else f" {often} times"
        raise TimedOut(
            f"nobody signalled gate {gate.name!r} in time" + (f", which was opened again{again}" if again else ""),
            details={"gate": gate.id, "rearms": often},
            hint="Raise timeout=, say what is to be done with @asset.on_timeout, or find out why the other side is "
            "silent: engine.gates.deliveries tells what came.",
        )

    # -- handlers -----------------------------------------------------------------------------------------------

    async def _handled(
        self, kept: Kept, handler: BoundHandler, part: str, *payload: Any, named: Mapping[str, Any] = _NO_NAMES
    ) -> Any:
        """Call a handler, on a call and with resources of its own."""

        async def use(call: Call, scope: ResourceScope) -> Any:
            call.notes.update(kept.notes)
            await self._attempt.durable.load()
            value = await self._attempt.handled(Ended(handler, payload, named), call, scope)
            if isinstance(value, SignalGate | ApprovalGate):
                raise ConfigError(
                    f"{handler.part} returned a gate, which only the body may",
                    asset=self._unit.node.name,
                    hint="Wait for it there: await ctx.signal(...), await ctx.approval(...).",
                )
            return value

        return await self._attempt.within(use, part)

    # -- what a request asks for --------------------------------------------------------------------------------

    async def handled(self, handler: BoundHandler, decision: Decision[Any]) -> Any:
        """Call a handler with a decision."""
        assert self._kept is not None  # noqa: S101 - a request was returned
        kept = self._kept._replace(notes={**self._kept.notes, **self._notes})
        named = _NO_NAMES if handler.decision is None else {handler.decision: decision}
        return _no_rearm(await self._handled(kept, handler, handler.part, named=named), handler.part)

    async def stored(self, value: Any) -> V:
        """Store the value of the asset."""
        assert self._kept is not None  # noqa: S101 - a request was returned
        return await self._attempt.stored(value, self._kept.inputs)

    def note(self, **notes: object) -> None:
        """Note something of the value; what a scatter notes is of all its items."""
        if self.node.scatter is None:
            self._notes.update(notes)

    def sleep(self, waits: tuple[Parked, ...]) -> None:
        """Let go of the asset until one of some gates has ended."""
        self._attempt.asleep = waits

    def give_up(self) -> None:
        """Make no more attempts."""
        self._attempt.final = True

    async def again(self) -> object:
        """Call the body again, and return what it returns; None if it fails: what it is called for is no outcome."""

        async def use(call: Call, scope: ResourceScope) -> object:
            await self._attempt.durable.load()
            value, _ = await self._attempt.body(call, scope)
            return value

        try:
            return await self._attempt.within(use)
        except (StoreUnavailable, LeaseLost):
            raise
        except Exception as error:
            shown = self.services.redactor.line(f"{type(error).__name__}: {error}")
            text = "asset %r: the body was called again for whom it wants to be told of its request, and failed: %s"
            _logger.warning(text, self.node.name, shown)
            return None


async def prepared_for(handler: BoundHandler, values: Values, unit: Unit, call: Call, scope: ResourceScope) -> Prepared:
    """Return what a handler takes, beside what is given to it by place: as the body got it."""
    edge_of = {id(edge.binding): edge for edge in unit.inputs}
    edges = [edge_of[id(own)]._replace(binding=each) for each, own in handler.edges]
    return await prepare(values, unit, handler.bindings, edges, call, scope)


def _no_rearm(value: Any, part: str) -> Any:
    if isinstance(value, Rearm):
        raise ConfigError(f"{part} returned {value!r}", hint="Only on_timeout opens a gate again.")
    return value
