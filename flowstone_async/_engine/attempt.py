"""One attempt of one asset: load inputs, enter resources, call the body, store the value. Ends in one outcome."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypedDict, TypeVar, assert_never

import anyio

from flowstone_async._engine import managed, stopped
from flowstone_async._engine.arguments import Values, prepare, prepare_edges
from flowstone_async._engine.catalog import Runnable
from flowstone_async._engine.deadline import Deadline
from flowstone_async._engine.limiting import attempt_limits
from flowstone_async._engine.notes import encodable
from flowstone_async._engine.observing import ObservedValues
from flowstone_async._engine.outcome import Blocked, Computed, Evicted, Failing, Interrupted, Outcome, Prepared
from flowstone_async._engine.pending import Pending
from flowstone_async._engine.replay.body import DurableBody, attempt_body
from flowstone_async._engine.replay.cuts import Seen
from flowstone_async._engine.replay.mismatched import ask
from flowstone_async._engine.running import Running
from flowstone_async._engine.scatter.beginning import Beginning
from flowstone_async._engine.scatter.errors import failing
from flowstone_async._engine.scatter.helping import Helping
from flowstone_async._engine.scatter.upstream_source import UpstreamEnded
from flowstone_async._engine.user_error import translated, wrapped
from flowstone_async._engine.waits.parked import Parked
from flowstone_async._engine.waits.returned import Ended, GatedBody, prepared_for
from flowstone_async._engine.waits.unasked import refuse_unasked
from flowstone_async.definition.context import Call
from flowstone_async.definition.kind import ConstantKind, PlainKind, StreamKind
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.errors import (
    ExecutionError,
    FlowstoneError,
    LeaseLost,
    ReplayMismatch,
    StorageError,
    StoreUnavailable,
)
from flowstone_async.failures import ENDINGS
from flowstone_async.io.base import IOManager, Stored, ValueRef
from flowstone_async.mapped.fan import Fan
from flowstone_async.planning.units import Unit
from flowstone_async.redaction import Redactor
from flowstone_async.resources import ResourceScope
from flowstone_async.store.scatters import ScatterRecord
from flowstone_async.types import NOTHING, Input, Materialization, new_id

STORE_ATTEMPTS = 3
R = TypeVar("R")
_logger = logging.getLogger("flowstone")


class _Facts(TypedDict):
    run_id: str
    attempt: int
    redactor: Redactor


class Attempt:
    """One call of one body."""

    __slots__ = (
        *("_begun", "_call", "_deadline", "_durable", "_id", "asleep", "final", "services", "values"),
        *("manager", "number", "observer", "run", "runnable", "started_at", "unit"),
    )

    def __init__(self, run: Running, unit: Unit, runnable: Runnable, number: int) -> None:
        self.run, self.unit, self.runnable, self.number = run, unit, runnable, number
        services = self.services = run.services
        self.manager = run.manager(runnable)
        self.started_at = services.store.now()
        self._begun = services.clock.monotonic()
        self._id = new_id()
        self._call: Call | None = None
        self._durable: DurableBody | None = None
        self._deadline: Deadline | None = None
        self.asleep: tuple[Parked, ...] | None = None
        self.final = False
        observer = self.observer = run.observe()
        self.values: Values = run if observer is None else ObservedValues(run, observer, services.given)

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return self.services.clock.monotonic() - self._begun

    async def make(self) -> Outcome:
        """Make the attempt. Only a cancellation of the whole engine travels as an exception."""
        limit, services = self.runnable.timeout, self.services
        deadline = None if limit is None else Deadline(services.clock, limit, services.settings.cancel_grace)
        self._deadline = deadline
        run, place = self.run, self.unit.place
        error: BaseException | None = None
        computed: Computed | None = None
        pending = Pending()
        run.enter(place)
        run.running[place] = self.number, self._begun
        try:
            if deadline is None:
                computed = await self._compute()
            else:
                with deadline:
                    computed = await self._compute()
        except ENDINGS:
            raise
        except BaseException as raised:  # user code may raise anything
            error = raised
        finally:
            run.leave(place, error)
        expired = deadline is not None and deadline.expired
        waits = self.asleep or (None if self._durable is None else self._durable.evicted)
        mismatch = None if self._durable is None else self._durable.mismatch
        error = None if run.interrupted or waits is not None else error  # its traceback holds what was evicted
        if computed is not None and (run.interrupted or expired or waits is not None or mismatch is not None):
            with anyio.CancelScope(shield=True):
                await run.discard(self.manager, self.unit, computed.materialization)
        if run.interrupted:
            return Interrupted(self.started_at, self.seconds)
        if mismatch is not None and waits is None:
            return await self._asked(*mismatch)
        await self._note_fit(ended=waits is None)
        if waits is not None:
            return Evicted(waits)
        if isinstance(error, UpstreamEnded):
            return Blocked()
        if pending.left():
            await pending.absorb(error)
        if expired:
            return self._failing(stopped.asset_timed_out(self.unit, limit))
        return computed if computed is not None else self._failed(error)

    async def _note_fit(self, *, ended: bool) -> None:
        """Ask nobody any more how to go on where the code fits again what it did not fit before."""
        if self._durable is not None and self._durable.has_passed(ended=ended):
            with suppress(FlowstoneError):  # whoever goes on finds the same
                await self._durable.pass_mismatch()

    async def _asked(self, seen: Seen, mismatch: ReplayMismatch) -> Outcome:
        """Wait for somebody to say how a body goes on that does not fit its record, or do what was said."""
        error = self._told(mismatch, f"asset {self.unit.node.name!r}")
        try:
            # Of a run that only this process drives the code is what it was: the body does not do the same each time.
            waits = await ask(self.durable, seen, error) if self.run.record.continuable else None
        except (StoreUnavailable, LeaseLost):  # the run was told
            return Interrupted(self.started_at, self.seconds)
        if waits is not None:
            return Evicted(waits)
        self.final = True
        return self._failing(error)

    def _failed(self, error: BaseException | None) -> Failing:
        if isinstance(error, asyncio.CancelledError):
            return self._failing(self._wrapped(error, "the body raised CancelledError, although nobody cancelled it"))
        assert error is not None  # noqa: S101 - for the type checker: without a value there is an error
        return self._failing(self._told(error, f"asset {self.unit.node.name!r}"))

    async def _compute(self) -> Computed | None:
        node = self.unit.node
        if not self.runnable.elaborate:
            prepared = await prepare_edges(self.values, self.unit)
            return await self.stored(await self._called(prepared), prepared.inputs)
        if node.gate is not None and node.scatter is None:
            return await GatedBody(self, node.gate).compute()
        return await self.within(self._plain if node.scatter is None else self._scattered)

    async def within(self, use: Callable[[Call, ResourceScope], Awaitable[R]], part: str = "") -> R:
        """Make a call, of the body or of a handler; once it is over, end what it has left going, and its resources."""
        scope = self.run.resources.inner("asset", self.observer)
        call: Call | None = None
        try:
            call = self._call = self._make_call(part)
            return await use(call, scope)
        finally:
            try:
                await self._end_calls()
            finally:
                if call is not None:
                    call.open = False
                await scope.close()

    @property
    def durable(self) -> DurableBody:
        """What the present call has on record."""
        assert self._durable is not None  # noqa: S101 - of a call
        return self._durable

    async def _plain(self, call: Call, scope: ResourceScope) -> Computed:
        await self.durable.load()
        value, prepared = await self.body(call, scope)
        return await self.stored(value, prepared.inputs)

    async def handled(self, ended: Ended, call: Call, scope: ResourceScope) -> Any:
        """Call a handler of its gate with what it takes."""
        prepared = await prepared_for(ended.handler, self.values, self.unit, call, scope)
        return await ended.handler.function(*ended.payload, **prepared.arguments, **ended.named)

    async def body(self, call: Call, scope: ResourceScope) -> tuple[Any, Prepared]:
        """Call the body; return what it returns, and what it was given."""
        unit = self.unit
        prepared = await prepare(self.values, unit, unit.node.bindings, unit.inputs, call, scope)
        return await self._called(prepared), prepared

    async def _end_calls(self) -> None:
        """End what the body left going with `ctx.map`, before its resources close."""
        call = self._call
        if call is not None and call.durable is not None:
            call.durable.close()
        if call is not None and call.fan is not None:
            await call.fan.close()

    async def _called(self, prepared: Prepared) -> Any:
        services, node = self.services, self.unit.node
        if services.called is not None:
            services.called(node.name)
        value = await services.executor.call(node.definition, prepared.arguments)
        refuse_unasked(node.name, node.gate, value)
        return value

    async def stored(self, value: Any, inputs: tuple[Input, ...]) -> Computed:
        """Store the value of the asset."""
        return self._computed(await self._store(value), self.consumed(inputs))

    async def _scattered(self, call: Call, scope: ResourceScope) -> Computed:
        try:
            made = await self._beginning(call, scope).run()
        except StoreUnavailable as error:
            # No outcome of the asset: whoever has the store again goes on with it.
            self.run.break_off(error)
            await asyncio.sleep(0)
            raise
        finally:
            self.run.still.pop(self.unit.place, None)
        self._id = made.id
        computed = self._computed(Stored(location=made.id, size=made.size), self.consumed(made.inputs))
        of = computed.materialization._replace(version=made.version, code_hash=made.code_hash)
        return computed._replace(materialization=of)

    async def help(self, record: ScatterRecord, scope: ResourceScope) -> Helping:
        """Return who runs items of the asset's scatter, which the run's owner has begun. Raises as `Beginning.help`."""
        return await self._beginning(self._make_call(), scope).help(record)

    def _beginning(self, call: Call, scope: ResourceScope) -> Beginning:
        run, unit, services = self.run, self.unit, self.services
        kind, runnable = unit.node.definition.kind, self.runnable
        assert isinstance(kind, ScatterKind)  # noqa: S101 - for the type checker: what has a BoundScatter is one
        return Beginning(
            values=self.values,
            services=services,
            unit=unit,
            scope=scope,
            request=run.request,
            call=call,
            id=self._id,
            run_id=run.id,
            fence=run.record.fence,
            version=runnable.version,
            code_hash=runnable.code.hash,
            nodes=run.catalog.graph.nodes,
            begun=partial(run.scatter_begun, unit.place),
            follows=run.followed(unit.place),
            failing=failing(kind, unit, services, run.id),
            still=partial(run.still.__setitem__, unit.place),
        )

    def _make_call(self, part: str = "") -> Call:
        services, unit = self.services, self.unit
        fan = Fan(services.spawn, services.clock, services.settings.cancel_grace, f"body {unit.node.name}")
        durable = attempt_body(self.run, unit, self.number, self._told, self.runnable.park_after)
        if part:
            durable = durable.for_handler(part)
        durable.deadline, durable.beside, self._durable = self._deadline, fan.tasks, durable
        return Call(
            pipeline=self.unit.key.pipeline,
            asset=self.unit.node.name,
            partition=self.unit.partition,
            run_id=self.run.id,
            attempt=self.number,
            started_at=self.started_at,
            params=self.run.request.params,
            limits=attempt_limits(self.run, self.unit, self.observer),
            durable=durable,
            fan=fan,
        )

    async def _store(self, value: Any) -> Stored:
        ref = ValueRef(
            key=self.unit.key,
            partition=self.unit.partition,
            materialization=self._id,
            run_id=self.run.id,
            type=self.unit.node.value_type,
            stream=self.runnable.stream,
            names=self.unit.node.definition.scope.names,
        )
        work = self._write(ref, value)
        return await (work if self.observer is None else self.observer.storing(ref, self.manager.name, work))

    async def _write(self, ref: ValueRef, value: Any) -> Stored:
        manager = self.manager
        kind = self.unit.node.definition.kind
        match kind:
            case PlainKind() | ConstantKind():
                return await self._patiently(manager, ref, value)
            case ScatterKind():
                raise AssertionError("a scatter stores its results itself")
            case StreamKind():
                async with aclosing(value) as items:
                    return await managed.store(manager, ref, items, self._hide)
            case _:
                assert_never(kind)

    async def _patiently(self, manager: IOManager, ref: ValueRef, value: Any) -> Stored:
        """Store, trying again what may pass (`STORE-11`)."""
        for attempt in range(1, STORE_ATTEMPTS):
            try:
                return await managed.store(manager, ref, value, self._hide)
            except StorageError as error:
                if not error.retryable:
                    raise
                with self.run.pausing():
                    await self.services.clock.sleep(0.1 * attempt)
        return await managed.store(manager, ref, value, self._hide)

    def _hide(self, text: str) -> str:
        return self.services.redactor.text(text)

    def consumed(self, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
        """Return what counts as consumed."""
        keyed = self.run.cache_keys.get(self.unit.place)
        if keyed is not None:
            return (*(each for each in inputs if each.kind == "asset"), Input("key", "key", keyed))
        call = self._call
        if call is not None and call.params_read:
            everything = Input("param", "*", self.run.prints("*"))
            return inputs if everything in inputs else (*inputs, everything)
        return inputs

    def _computed(self, stored: Stored, inputs: tuple[Input, ...]) -> Computed:
        return Computed(
            materialization=Materialization(
                id=self._id,
                key=self.unit.key,
                run_id=self.run.id,
                fingerprint=stored.fingerprint or self._id,
                version=self.runnable.version,
                code_hash=self.runnable.code.hash,
                inputs=inputs,
                manager=self.manager.name,
                location=stored.location,
                size=stored.size,
                checksum=stored.checksum,
                started_at=self.started_at,
                committed_at=self.started_at,
                seconds=self.seconds,
                attempts=self.number,
                host=self.services.host,
                metadata=self.noted(),
            ),
            payload=stored.payload,
            table=stored.table,
        )

    def noted(self) -> Mapping[str, object]:
        """Return what was noted of the value."""
        notes = NOTHING if self._call is None else self._call.notes
        return encodable(notes, self.unit.node.name, self.services) if notes else NOTHING

    def _told(self, error: BaseException, what: str) -> FlowstoneError:
        return translated(error, what, self.unit, **self._facts())

    # -- failing ------------------------------------------------------------------------------------------------

    def _wrapped(self, cause: BaseException, text: str) -> ExecutionError:
        return wrapped(cause, text, f"asset {self.unit.node.name!r}", self.unit, **self._facts())

    def _facts(self) -> _Facts:
        return {"run_id": self.run.id, "attempt": self.number, "redactor": self.services.redactor}

    def _failing(self, error: FlowstoneError) -> Failing:
        policy = self.runnable.retry
        asked = error.__cause__ if isinstance(error, ExecutionError) and error.__cause__ is not None else error
        try:
            wait = policy.wait(self.number) if not self.final and policy.again(asked, self.number) else None
        except ENDINGS:
            raise
        except BaseException as raised:
            told = self._hide("".join(traceback.format_exception(raised)).rstrip())
            text = "retry: the predicate of asset %r failed; it is not tried again: %s"
            _logger.error(text, self.unit.node.name, told)  # noqa: TRY400 - redacted
            wait = None
        return Failing(error=error, started_at=self.started_at, seconds=self.seconds, wait=wait)
