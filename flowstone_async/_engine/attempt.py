"""One attempt of one asset: load inputs, enter resources, call the body, store the value. Ends in one outcome."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, aclosing
from functools import partial
from typing import Any, Protocol, TypedDict, assert_never

import anyio

from flowstone_async._engine import managed
from flowstone_async._engine.ahead import Begun
from flowstone_async._engine.arguments import Values, prepare, prepare_edges
from flowstone_async._engine.catalog import Catalog, Runnable
from flowstone_async._engine.deadline import Deadline
from flowstone_async._engine.limiting import attempt_limits
from flowstone_async._engine.observing import ObservedValues, Observer
from flowstone_async._engine.outcome import Blocked, Computed, Failing, Interrupted, Outcome, Prepared
from flowstone_async._engine.pending import Pending
from flowstone_async._engine.replay.body import attempt_body
from flowstone_async._engine.request import Request
from flowstone_async._engine.scatter.beginning import Beginning
from flowstone_async._engine.scatter.errors import failing
from flowstone_async._engine.scatter.helping import Helping
from flowstone_async._engine.scatter.upstream_source import UpstreamEnded
from flowstone_async._engine.services import Services
from flowstone_async._engine.user_error import translated, wrapped
from flowstone_async.definition.context import Call
from flowstone_async.definition.kind import ConstantKind, PlainKind, StreamKind
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.errors import ExecutionError, FlowstoneError, StorageError, StoreUnavailable, TimedOut
from flowstone_async.failures import ENDINGS
from flowstone_async.io.base import IOManager, Stored, ValueRef
from flowstone_async.mapped import Fan
from flowstone_async.planning.units import Unit
from flowstone_async.redaction import Redactor
from flowstone_async.resources import ResourceScope
from flowstone_async.store.records import RunRecord
from flowstone_async.store.scatters import ScatterRecord
from flowstone_async.types import NOTHING, Input, Materialization, new_id

STORE_ATTEMPTS = 3
_logger = logging.getLogger("flowstone")


class _Facts(TypedDict):
    run_id: str
    attempt: int
    redactor: Redactor


class Running(Values, Protocol):
    """What an attempt needs of the run it belongs to."""

    id: str
    record: RunRecord
    request: Request
    services: Services
    resources: ResourceScope
    interrupted: bool
    bodies: dict[int, asyncio.Task[Any]]
    still: dict[int, Callable[[], bool]]
    cache_keys: dict[int, str]
    running: dict[int, tuple[int, float]]
    catalog: Catalog
    resumed: bool

    def lose(self) -> None:
        """The store refused something: somebody cancelled the run, or owns it now."""
        ...

    def enter(self, place: int) -> None:
        """Mark the current task as running user code, so that stopping the run cancels it."""
        ...

    def leave(self, place: int, error: BaseException | None) -> None:
        """Take the mark back; a cancellation that came from stopping the run is taken back too."""
        ...

    def scatter_begun(self, place: int, scatter: str) -> None:
        """Let units that follow a scatter begin, now that it is on record."""
        ...

    def followed(self, place: int) -> Begun | None:
        """Return the scatter that a unit follows, if that has begun and not ended."""
        ...

    def break_off(self, error: FlowstoneError) -> None:
        """Give the run up here because of an error that is no outcome of an asset."""
        ...

    def pausing(self) -> AbstractContextManager[None]:
        """Mark the current task as waiting for nothing but time."""
        ...

    def observe(self) -> Observer | None:
        """Return what tells hooks of one attempt; None if no hook listens."""
        ...

    def manager(self, runnable: Runnable) -> IOManager:
        """Return the I/O manager that holds an asset's values in this run."""
        ...

    async def discard(self, manager: IOManager, unit: Unit, made: Materialization) -> None:
        """Delete a value that was stored and will not be committed."""
        ...


class Attempt:
    """One call of one body."""

    __slots__ = (
        *("_begun", "_call", "_id", "_services", "_values"),
        *("manager", "number", "observer", "run", "runnable", "started_at", "unit"),
    )

    def __init__(self, run: Running, unit: Unit, runnable: Runnable, number: int) -> None:
        self.run, self.unit, self.runnable, self.number = run, unit, runnable, number
        services = self._services = run.services
        self.manager = run.manager(runnable)
        self.started_at = services.store.now()
        self._begun = services.clock.monotonic()
        self._id = new_id()
        self._call: Call | None = None
        observer = self.observer = run.observe()
        self._values: Values = run if observer is None else ObservedValues(run, observer, services.given)

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return self._services.clock.monotonic() - self._begun

    async def make(self) -> Outcome:
        """Make the attempt. Only a cancellation of the whole engine travels as an exception."""
        limit, services = self.runnable.timeout, self._services
        deadline = None if limit is None else Deadline(services.clock, limit, services.settings.cancel_grace)
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
            if self._call is not None:
                self._call.open = False
        expired = deadline is not None and deadline.expired
        if computed is not None and (run.interrupted or expired):
            with anyio.CancelScope(shield=True):
                await run.discard(self.manager, self.unit, computed.materialization)
        if run.interrupted:
            return Interrupted(self.started_at, self.seconds)
        if isinstance(error, UpstreamEnded):
            return Blocked()
        if pending.left():
            await pending.absorb(error)
        if expired:
            return self._failing(_timed_out(self.unit, limit))
        return computed if computed is not None else self._failed(error)

    def _failed(self, error: BaseException | None) -> Failing:
        if isinstance(error, asyncio.CancelledError):
            return self._failing(self._wrapped(error, "the body raised CancelledError, although nobody cancelled it"))
        assert error is not None  # noqa: S101 - for the type checker: without a value there is an error
        return self._failing(self._translated(error))

    async def _compute(self) -> Computed:
        unit = self.unit
        if not self.runnable.elaborate:
            prepared = await prepare_edges(self._values, unit)
            return await self._called(prepared)
        scope = self.run.resources.inner("asset", self.observer)
        try:
            self._call = self._make_call()
            if unit.node.scatter is not None:
                return await self._scattered(self._call, scope)
            if self._call.durable is not None:
                await self._call.durable.load()
            prepared = await prepare(self._values, unit, unit.node.bindings, unit.inputs, self._call, scope)
            return await self._called(prepared)
        finally:
            try:
                await self._end_calls()
            finally:
                await scope.close()

    async def _end_calls(self) -> None:
        """End what the body left going with `ctx.map`, before its resources close."""
        call = self._call
        if call is not None and call.durable is not None:
            call.durable.close()
        if call is not None and call.fan is not None:
            await call.fan.close()

    async def _called(self, prepared: Prepared) -> Computed:
        services = self._services
        if services.called is not None:
            services.called(self.unit.node.name)
        value = await services.executor.call(self.unit.node.definition, prepared.arguments)
        return self._computed(await self._store(value), self._inputs(prepared.inputs))

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
        computed = self._computed(Stored(location=made.id, size=made.size), self._inputs(made.inputs))
        of = computed.materialization._replace(version=made.version, code_hash=made.code_hash)
        return computed._replace(materialization=of)

    async def help(self, record: ScatterRecord, scope: ResourceScope) -> Helping:
        """Return who runs items of the asset's scatter, which the run's owner has begun. Raises as `Beginning.help`."""
        return await self._beginning(self._make_call(), scope).help(record)

    def _beginning(self, call: Call, scope: ResourceScope) -> Beginning:
        run, unit, services = self.run, self.unit, self._services
        kind, runnable = unit.node.definition.kind, self.runnable
        assert isinstance(kind, ScatterKind)  # noqa: S101 - for the type checker: what has a BoundScatter is one
        return Beginning(
            values=self._values,
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

    def _make_call(self) -> Call:
        services = self._services
        return Call(
            pipeline=self.unit.key.pipeline,
            asset=self.unit.node.name,
            partition=self.unit.partition,
            run_id=self.run.id,
            attempt=self.number,
            started_at=self.started_at,
            params=self.run.request.params,
            limits=attempt_limits(self.run, self.unit, self.observer),
            durable=attempt_body(self.run, self.unit, self.number, self._told),
            fan=Fan(services.spawn, services.clock, services.settings.cancel_grace, f"body {self.unit.node.name}"),
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
                    await self._services.clock.sleep(0.1 * attempt)
        return await managed.store(manager, ref, value, self._hide)

    def _hide(self, text: str) -> str:
        return self._services.redactor.text(text)

    def _inputs(self, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
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
                host=self._services.host,
                metadata=self._metadata(),
            ),
            payload=stored.payload,
            table=stored.table,
        )

    def _metadata(self) -> Mapping[str, object]:
        if self._call is None or not self._call.notes:
            return NOTHING
        notes = self._call.notes
        try:
            return json.loads(json.dumps(self._services.redactor.value(notes)))
        except (TypeError, ValueError) as error:
            text = f"metadata of asset {self.unit.node.name!r} cannot be stored: {error}"
            if self._services.settings.strict_metadata:
                raise StorageError(text, asset=self.unit.node.name, hint="Note JSON-compatible values.") from error
            _logger.warning("%s; the value is kept", text)
            return {}

    def _told(self, error: BaseException, what: str) -> FlowstoneError:
        return translated(error, what, self.unit, **self._facts())

    # -- failing ------------------------------------------------------------------------------------------------

    def _translated(self, error: BaseException) -> FlowstoneError:
        return self._told(error, f"asset {self.unit.node.name!r}")

    def _wrapped(self, cause: BaseException, text: str) -> ExecutionError:
        return wrapped(cause, text, f"asset {self.unit.node.name!r}", self.unit, **self._facts())

    def _facts(self) -> _Facts:
        return {"run_id": self.run.id, "attempt": self.number, "redactor": self._services.redactor}

    def _failing(self, error: FlowstoneError) -> Failing:
        policy = self.runnable.retry
        asked = error.__cause__ if isinstance(error, ExecutionError) and error.__cause__ is not None else error
        try:
            wait = policy.wait(self.number) if policy.again(asked, self.number) else None
        except ENDINGS:
            raise
        except BaseException as raised:
            told = self._hide("".join(traceback.format_exception(raised)).rstrip())
            text = "retry: the predicate of asset %r failed; it is not tried again: %s"
            _logger.error(text, self.unit.node.name, told)  # noqa: TRY400 - redacted
            wait = None
        return Failing(error=error, started_at=self.started_at, seconds=self.seconds, wait=wait)


def _timed_out(unit: Unit, limit: float | None) -> TimedOut:
    return TimedOut(
        f"asset {unit.node.name!r} took longer than its timeout of {limit:g} s",
        asset=unit.node.name,
        partition=unit.partition,
        details={"timeout": limit},
        hint="Raise timeout= on the asset, or find out what it waits for.",
    )
