"""Gates that bodies return: the body is over, and nothing of it is held until its gate ends (SIG-03 to SIG-05).

    body ── returns a gate ──> on record ──> its resources close ──> the gate is opened ──> nothing is left in memory
    the gate ends ──> the asset is called again: the record says that the body is not; on_signal or on_timeout is

What is on record, with the steps of the body: `returned` (which gate, and what the body had consumed and noted), then
one `rearmed` for each time that `on_timeout` has opened the gate again, with the new deadline, written before it takes
effect. The gate's own outcome is what the handlers are called for, as often as they are tried.
"""

from __future__ import annotations

import asyncio
import json
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
from flowstone_async.config import seconds
from flowstone_async.definition.binding import ParamFieldBinding, ParamsBinding
from flowstone_async.definition.context import Call
from flowstone_async.definition.graph import BoundGate, BoundHandler
from flowstone_async.errors import ConfigError, PayloadInvalid, StoreUnavailable, TimedOut
from flowstone_async.planning.units import Unit
from flowstone_async.resources import ResourceScope
from flowstone_async.signals import Rearm, SignalGate, bound_of
from flowstone_async.store.gates import Gate, StoredGate
from flowstone_async.types import AssetKey, Input

R = TypeVar("R")
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)
_PATH = "returned"


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
    def durable(self) -> DurableBody:
        """What the present call has on record."""
        ...

    async def within(self, use: Callable[[Call, ResourceScope], Awaitable[R]], part: str = "") -> R:
        """Make a call, of the body or of a handler; once it is over, end what it has left going, and its resources."""
        ...

    async def body(self, call: Call, scope: ResourceScope) -> tuple[Any, Prepared]:
        """Call the body; return what it returns, and what it was given."""
        ...

    async def handled(self, handler: BoundHandler, payload: tuple[Any, ...], call: Call, scope: ResourceScope) -> Any:
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


class Kept(NamedTuple):
    """What is on record of a body that has returned a gate.

    Attributes:
        inputs: What it had consumed.
        notes: What it had noted of the value.
    """

    gate: Gate
    inputs: tuple[Input, ...]
    notes: Mapping[str, object]


class GatedBody(Generic[V]):
    """One attempt at an asset, or at an item, whose body may return a gate.

    Args:
        attempt: Which one.
        gate: Which gate, and its handlers.
    """

    def __init__(self, attempt: Attempted[V], gate: BoundGate) -> None:
        self._attempt, self._gate = attempt, gate
        self._unit, self._services = attempt.unit, attempt.services
        self._rearms: list[datetime] = []
        self._durable: DurableBody | None = None

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
        try:
            return await self._ended(kept)
        except StoreUnavailable as error:
            self.durable.facts.away(error)
            raise

    # -- the body -----------------------------------------------------------------------------------------------

    async def _body(self, call: Call, scope: ResourceScope) -> V | Kept:
        """Call the body, unless it has returned a gate before."""
        attempt = self._attempt
        durable = self._durable = attempt.durable
        await durable.load()
        known = [each.value or b"" for each in durable.script.at(_PATH)]
        if known:
            self._rearms = [datetime.fromisoformat(each.decode()) for each in known[1:]]
            kept = _read(known[0], durable)
            call.notes.update(kept.notes)
            return kept
        value, prepared = await attempt.body(call, scope)
        inputs = (*prepared.inputs, *self._params(prepared.inputs))
        if not isinstance(value, SignalGate):
            return await attempt.stored(_no_rearm(value, "the body"), inputs)
        kept = Kept(self._record_of(cast("SignalGate[Any]", value)), attempt.consumed(inputs), attempt.noted())
        await durable.keep(durable.make_record(_place(0, "gate"), Called((_PATH, "", "")), _written(kept)))
        return kept

    def _record_of(self, gate: SignalGate[Any]) -> Gate:
        if gate.model != self._gate.model:
            raise ConfigError(
                f"the body returned a gate for {gate.model!r}, and says signal={self._gate.model!r}",
                asset=self._unit.node.name,
                hint="Return a gate for what signal= says.",
            )
        bound, durable = bound_of(gate), self.durable
        if bound is None:
            bound = BodyGate(durable, Place(f"{_PATH}/{gate.name}#0", _PATH, 0), signal_wait(gate))
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
            for each in self._gate.bindings
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
        while (outcome := stored.outcome) is not None:
            match outcome.how:
                case "signalled":
                    payload = outcome.payload or b""
                    try:
                        value = self._services.payloads.decode(
                            self._gate.model, payload, home_of(self._unit.node.definition)
                        )
                    except PayloadInvalid:  # it came before the gate, when nobody could check it
                        await waits.refuse(gate.id, payload)
                        stored = await self._look(gate, stored)
                        continue
                    return await self._signalled(kept, value)
                case "expired":
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
        stored = (await self._services.store.gates.read([gate.id])).get(gate.id)
        if stored is None or (stored.outcome is not None and stored.outcome == before.outcome):
            raise lost(self.durable.facts, gate.key)
        return stored

    async def _signalled(self, kept: Kept, payload: Any) -> V:
        handler = self._gate.on_signal
        value = payload if handler is None else await self._handled(kept, handler, "on_signal", payload)
        return await self._attempt.stored(_no_rearm(value, "on_signal"), kept.inputs)

    async def _expired(self, kept: Kept, stored: StoredGate) -> V | None:
        """Ask what is to be done, or do what was said before; None once the gate is open again."""
        gate, waits = kept.gate, self.durable.facts.waits
        if self._rearms and stored.due != self._rearms[-1]:  # somebody died before it was open again
            await waits.rearm(gate.id, self._rearms[-1])
            return None
        handler, number = self._gate.on_timeout, len(self._rearms)
        if handler is None:
            self._time_out(gate)
        value = await self._handled(kept, handler, f"on_timeout#{number}")
        if not isinstance(value, Rearm):
            return await self._attempt.stored(value, kept.inputs)
        if number >= self._gate.max_rearms:
            self._time_out(gate)
        durable, store = self.durable, self._services.store
        due = store.now() + timedelta(seconds=seconds(value.timeout))
        record = durable.make_record(_place(number + 1, "rearm"), Called(("rearmed", "", "")), due.isoformat().encode())
        await durable.keep(record)
        self._rearms.append(due)
        await waits.rearm(gate.id, due)
        return None

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

    async def _handled(self, kept: Kept, handler: BoundHandler, part: str, *payload: Any) -> Any:
        """Call a handler, on a call and with resources of its own."""

        async def use(call: Call, scope: ResourceScope) -> Any:
            call.notes.update(kept.notes)
            await self._attempt.durable.load()
            value = await self._attempt.handled(handler, payload, call, scope)
            if isinstance(value, SignalGate):
                raise ConfigError(
                    f"{handler.part} returned a gate, which only the body may",
                    asset=self._unit.node.name,
                    hint="Wait for it there: await ctx.signal(...).",
                )
            return value

        return await self._attempt.within(use, part)


async def prepared_for(handler: BoundHandler, values: Values, unit: Unit, call: Call, scope: ResourceScope) -> Prepared:
    """Return what a handler takes, beside what is given to it by place: as the body got it."""
    edge_of = {id(edge.binding): edge for edge in unit.inputs}
    edges = [edge_of[id(own)]._replace(binding=each) for each, own in handler.edges]
    return await prepare(values, unit, handler.bindings, edges, call, scope)


def _no_rearm(value: Any, part: str) -> Any:
    if isinstance(value, Rearm):
        raise ConfigError(f"{part} returned {value!r}", hint="Only on_timeout opens a gate again.")
    return value


def _place(number: int, name: str) -> Place:
    return Place(f"{_PATH}/{name}#{number}", _PATH, number)


def _written(kept: Kept) -> bytes:
    gate, due = kept.gate, kept.gate.due
    facts = {
        "gate": gate.id,
        "key": gate.key,
        "name": gate.name,
        "seconds": due.total_seconds() if isinstance(due, timedelta) else None,
        "token": None if gate.token is None else gate.token.hex(),
        "facts": gate.facts,
        "inputs": kept.inputs,
        "notes": kept.notes,
    }
    return json.dumps(facts).encode()


def _read(written: bytes, durable: DurableBody) -> Kept:
    facts = json.loads(written)
    gate = Gate(
        id=facts["gate"],
        run_id=durable.facts.run_id,
        body=durable.id,
        key=facts["key"],
        kind="signal",
        asset=durable.facts.key,
        name=facts["name"],
        due=None if facts["seconds"] is None else timedelta(seconds=facts["seconds"]),
        token=None if facts["token"] is None else bytes.fromhex(facts["token"]),
        facts=facts["facts"],
    )
    inputs = (
        Input(kind, name, fingerprint, None if key is None else AssetKey(*key), materialization)
        for kind, name, fingerprint, key, materialization in facts["inputs"]
    )
    return Kept(gate, tuple(inputs), facts["notes"])


def unasked(asset: str) -> ConfigError:
    """Return the error for a body that returned a gate and does not say so."""
    return ConfigError(
        f"the body of asset {asset!r} returned a gate, which cannot be its value",
        asset=asset,
        hint="Say @pipe.asset(signal=YourModel) and annotate it `T | SignalGate[YourModel]`, or await the gate.",
    )
