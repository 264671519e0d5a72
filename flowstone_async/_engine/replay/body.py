"""The durable calls of one body: each is called once, and from then on returns what is on record of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import count
from random import Random
from typing import Any
from uuid import UUID, uuid5

from flowstone_async._engine.approving.asking import ask
from flowstone_async._engine.catalog import AS_THE_ENGINE
from flowstone_async._engine.deadline import Deadline
from flowstone_async._engine.replay.approval import approval_gate
from flowstone_async._engine.replay.choosing import first, patched, require_durable
from flowstone_async._engine.replay.facts import Recorded, body_facts
from flowstone_async._engine.replay.gate import BodyGate, signal_wait, sleep_wait
from flowstone_async._engine.replay.grouping import StepGroup
from flowstone_async._engine.replay.mapping import MappedCalls, returned
from flowstone_async._engine.replay.prints import function_name, print_of
from flowstone_async._engine.replay.recording import Recording
from flowstone_async._engine.replay.refused import refuse
from flowstone_async._engine.replay.scope import ENTERED, Entered, Place, Scope
from flowstone_async._engine.replay.script import Called
from flowstone_async.approvals import Asking, Decision
from flowstone_async.definition.annotations import resolve
from flowstone_async.definition.approval import ApprovalKind
from flowstone_async.definition.body import name_of
from flowstone_async.definition.context import Context
from flowstone_async.definition.durable_calls import DurableCalls
from flowstone_async.durable import Durable, StepOptions
from flowstone_async.errors import (
    FlowstoneError,
    LeaseLost,
    ReplayMismatch,
    StorageError,
    StoreUnavailable,
    TimedOut,
)
from flowstone_async.failures import ENDINGS, describe, rebuild
from flowstone_async.io.codec import Codec, codec_for
from flowstone_async.planning.units import Unit
from flowstone_async.signals import SignalGate
from flowstone_async.store.steps import AlreadyRecorded, StepRecord


def attempt_body(
    run: Recorded,
    unit: Unit,
    attempt: int,
    failing: Callable[[BaseException, str], FlowstoneError],
    park_after: float | None,
) -> DurableBody:
    """Return the durable calls of an attempt at an asset."""
    patience = run.services.settings.park_after if park_after == AS_THE_ENGINE else park_after
    facts = body_facts(run, unit, failing, patience)
    return DurableBody(run.services, facts, attempt=attempt, known=run.resumed or attempt > 1)


class DurableBody(Recording, Durable):
    """The durable calls of one body; see `Recording`."""

    __slots__ = ()

    def for_item(self, identity: str, key: object, attempt: int, *, known: bool) -> DurableBody:
        """Return that of the body of an item."""
        return DurableBody(self.services, self.facts, attempt=attempt, known=known, identity=identity, key=key)

    def again(self) -> DurableBody:
        """Return that of another call of the same body."""
        given = self._attempt, self._identity, self.key
        return DurableBody(self.services, self.facts, attempt=given[0], known=True, identity=given[1], key=given[2])

    def for_handler(self, part: str) -> DurableBody:
        """Return that of what is called once a gate has ended that the body returned: a body of its own."""
        facts = replace(self.facts, id=str(uuid5(UUID(self.id), part)), journal=self.journal)
        other = DurableBody(self.services, facts, attempt=self._attempt, known=True, key=self.key)
        other._root = Scope(part)  # what services are given as the key of a request is not that of the body
        return other

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Stay at home: a body in another process has none."""
        return type(None), ()

    # -- the calls ----------------------------------------------------------------------------------------------

    @property
    def replaying(self) -> bool:
        """Whether results on record are still to be handed out."""
        return self._script is not None and self._script.replaying

    @property
    def current(self) -> str | None:
        """Key of the step that the caller runs in."""
        return self._scope().path or None

    def step(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: StepOptions,
        *,
        connected: bool = False,
    ) -> Coroutine[Any, Any, Any]:
        """Take the place of a step, and return what calls it or waits for its turn."""
        refuse(fn, thread=options.thread)
        return self._step(self._take(fn, options), fn, args, kwargs, options, connected=connected)

    def group(self) -> StepGroup:
        """Return a group of steps."""
        scope = Scope(self._scope().take("group").key)

        def started(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
            refuse(fn, thread=False)
            options = StepOptions()
            return self._step(scope.take(name_of(fn)), fn, args, kwargs, options, connected=False)

        return StepGroup(started)

    def gate(self, gate: SignalGate[Any], key: str | int | None = None) -> None:
        """Take the place of a gate."""
        gate.bind(BodyGate(self, self._scope().take(gate.name, key), signal_wait(gate)))

    def sleep(self, length: float | None, until: datetime | None) -> Coroutine[Any, Any, None]:
        """Take the place of a sleep, and return what waits for its end."""
        return BodyGate(self, self._scope().take("sleep"), sleep_wait(length, until)).wait()

    def first(self, waits: Sequence[Awaitable[Any]]) -> Coroutine[Any, Any, tuple[int, Any]]:
        """Take the place of a race of waits, and return what awaits it."""
        require_durable(waits, _WAITS)
        return first(self, self._scope().take("first"), waits)

    def patched(self, name: str) -> bool:
        """Tell whether a body comes to a change of its code first; on record with the step that comes next."""
        answer, record = patched(self, self._scope(), name)
        if record is not None:
            self._unwritten.append(record)
        return answer

    def mapped(self, fn: Callable[[Any], Awaitable[Any]], key: Callable[[Any], object] | None) -> MappedCalls:
        """Return the calls of a `ctx.map`."""
        place, script = self._scope().take("map"), self.script
        script.find(place, Called(("map", function_name(fn), "")))
        codec = codec_for(returned(fn, self.facts.names), names=self.facts.names.names)

        async def make(place: Place, called: Called, call: Callable[[], Awaitable[Any]]) -> Any:
            return await self._make(place, called, call, (), {}, StepOptions(), codec, connected=False)

        return MappedCalls(self, place.key, script, fn=fn, key=key, make=make, recall=partial(self._recall, codec))

    def approval(self, asked: Asking, key: str | int | None) -> Coroutine[Any, Any, Decision[Any]]:
        """Take the place of a request, and return what waits for the decision."""
        return approval_gate(self, self._scope().take(asked.name, key), asked).wait()

    def ask(self, kind: ApprovalKind, context: Context, arguments: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        """Ask people what the asset asks, and return its value."""
        return ask(self, kind, context, arguments)

    def now(self) -> datetime:
        """Return the time of the first call; it is on record with the step that comes next."""
        place = self._scope().take("now")
        called = Called(("now", "", ""))
        found = self.script.find(place, called)
        if found is not None and found.value is not None:
            return datetime.fromisoformat(found.value.decode())
        now = self.services.store.now()
        self._unwritten.append(self.make_record(place, called, now.isoformat().encode()))
        return now

    def uuid(self) -> UUID:
        """Return a UUID that is made of the call's place."""
        return uuid5(UUID(self.id), self._scope().take("uuid").key)

    def random(self) -> float:
        """Return a number that is made of the call's place."""
        return Random(f"{self.id}\0{self._scope().take('random').key}").random()  # noqa: S311 - no secret

    # -- one step -----------------------------------------------------------------------------------------------

    def _scope(self) -> Scope:
        entered = ENTERED.get()
        if entered is not None and entered.body is self:
            return entered.scope
        if self._root is None:
            self._root = Scope()
        return self._root

    def _take(self, fn: Callable[..., Any], options: StepOptions) -> Place:
        return self._scope().take(options.name or name_of(fn), options.key)

    async def _step(
        self,
        place: Place,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: StepOptions,
        *,
        connected: bool,
    ) -> Any:
        await self.check()
        codec = self._codec(fn)
        called = Called(("tx" if connected else "step", options.name or function_name(fn), print_of(fn, args, kwargs)))
        found = self.script.find(place, called)
        if found is not None:
            return await self._recall(codec, found)
        return await self._make(place, called, fn, args, kwargs, options, codec, connected=connected)

    async def _recall(self, codec: Codec, found: StepRecord) -> Any:
        await self.script.turn(found)
        return _value(found, codec)

    async def _make(
        self,
        place: Place,
        called: Called,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: StepOptions,
        codec: Codec,
        *,
        connected: bool,
    ) -> Any:
        """Call a function, and put on record what came of it."""
        await self.check()
        self.count(place)
        begun = self.services.clock.monotonic()
        try:
            if connected:
                value = await self._connected(place, called, fn, args, kwargs, options, codec)
                self._tell(place, self.services.clock.monotonic() - begun)
                await self.script.drained()
                return value
            value = await self._tried(place, fn, args, kwargs, options)
            encoded = _encoded(codec, value, place)
        except (*ENDINGS, asyncio.CancelledError):
            raise
        except BaseException as error:  # user code may raise anything
            if _ends_the_run(error):
                raise
            failed = self.facts.failing(error, f"step {place.key!r} of asset {self.facts.asset!r}")
            seconds = self.services.clock.monotonic() - begun
            await self.keep(self.make_record(place, called, None)._replace(error=describe(failed)))
            self._tell(place, seconds, failed)
            raise failed from failed.__cause__
        seconds = self.services.clock.monotonic() - begun
        await self.keep(self.make_record(place, called, encoded.data))
        self._tell(place, seconds)
        return encoded.value

    def _tell(self, place: Place, seconds: float, error: FlowstoneError | None = None) -> None:
        """Tell what came of a step that is on record."""
        self.journal.step(self.facts.key, place.key, self._attempt, seconds, error)

    async def _tried(
        self, place: Place, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: StepOptions
    ) -> Any:
        """Call a function as often as it may be tried."""
        clock = self.services.clock
        for number in count(1):
            try:
                return await self._bounded(place, fn, args, kwargs, options)
            except (*ENDINGS, asyncio.CancelledError):
                raise
            except BaseException as error:  # user code may raise anything
                retry = options.retry
                if retry is None or _ends_the_run(error) or not retry.again(error, number):
                    raise
                await clock.sleep(retry.wait(number))
        raise AssertionError("it is tried until it ends")

    async def _bounded(
        self, place: Place, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: StepOptions
    ) -> Any:
        services = self.services
        deadline = Deadline(services.clock, options.timeout, services.settings.cancel_grace)
        value: Any = None
        with deadline:
            value = await self._called(place, fn, args, kwargs, options)
        if deadline.expired:
            raise _timed_out(place, options.timeout)
        return value

    async def _called(
        self, place: Place, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: StepOptions
    ) -> Any:
        token = ENTERED.set(Entered(self, Scope(place.key)))
        try:
            if options.thread:
                return await self.services.executor.in_thread(fn, args, kwargs)
            return await fn(*args, **kwargs)
        finally:
            # Where it is left in another context than it was entered in, nobody reads it any more.
            with suppress(ValueError):
                ENTERED.reset(token)

    async def _connected(
        self,
        place: Place,
        called: Called,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: StepOptions,
        codec: Codec,
    ) -> Any:
        """Call a function with a connection: what it writes and the record commit together."""
        facts, steps = self.facts, self.services.store.steps
        await self.write()  # the transaction may depend on times that were told before it
        try:
            async with steps.transaction(facts.run_id, facts.fence, self.id) as transaction:
                value = await self._bounded(place, fn, (transaction.connection, *args), kwargs, options)
                encoded = _encoded(codec, value, place)
                await transaction.record(self.make_record(place, called, encoded.data))
        except AlreadyRecorded:  # rolled back: what was written the first time is there
            found = {each.key: each for each in await steps.recorded(facts.run_id, self.id)}[place.key]
            return _value(found, codec)
        except StoreUnavailable as error:
            facts.away(error)
            raise
        except LeaseLost:
            facts.lost()
            raise
        return encoded.value

    def _codec(self, fn: Callable[..., Any]) -> Codec:
        returns = resolve(fn, self.facts.names).types.get("return")
        return codec_for(returns, names=self.facts.names.names)


_CALLS = (DurableBody._step, DurableCalls.tx, BodyGate.wait, first)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of this module
_WAITS = frozenset(each.__code__ for each in _CALLS)
"""Code of the coroutines that durable calls return."""


def _value(record: StepRecord, codec: Codec) -> Any:
    if record.error is not None:
        raise rebuild(record.error)
    assert record.value is not None  # noqa: S101 - a record has one of them
    return codec.decode(record.value)


def _encoded(codec: Codec, value: Any, place: Place) -> Any:
    try:
        return codec.prepare(value)
    except StorageError as error:
        raise StorageError(
            f"the result of step {place.key!r} cannot be stored: {error.message}", hint=error.hint
        ) from error


def _timed_out(place: Place, limit: float | None) -> FlowstoneError:
    return TimedOut(
        f"step {place.key!r} took longer than its timeout of {limit:g} s",
        details={"timeout": limit},
        hint="Raise timeout=, or let the step retry.",
    )


def _ends_the_run(error: BaseException) -> bool:
    """Tell whether it says nothing of the step: the store is away, the run is not ours, or the code is another."""
    return isinstance(error, StoreUnavailable | LeaseLost | ReplayMismatch)
