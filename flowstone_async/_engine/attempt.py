"""One attempt of one asset: load inputs, enter resources, call the body, store the value. Ends in one outcome."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from contextlib import AbstractContextManager, aclosing
from typing import Any, Protocol, assert_never

from flowstone_async._engine.arguments import Values, prepare
from flowstone_async._engine.catalog import Runnable
from flowstone_async._engine.deadline import Deadline
from flowstone_async._engine.outcome import Computed, Failing, Interrupted, Outcome
from flowstone_async._engine.request import Request
from flowstone_async._engine.services import Services
from flowstone_async.definition.context import Call
from flowstone_async.definition.kind import ConstantKind, PlainKind, StreamKind
from flowstone_async.errors import ExecutionError, FlowstoneError, StorageError, TimedOut
from flowstone_async.io.base import IOManager, Stored, ValueRef
from flowstone_async.planning.units import Unit
from flowstone_async.resources import ResourceScope
from flowstone_async.types import Input, Materialization, new_id

STORE_ATTEMPTS = 3
_logger = logging.getLogger("flowstone")


class Running(Values, Protocol):
    """What an attempt needs of the run it belongs to."""

    id: str
    request: Request
    services: Services
    resources: ResourceScope
    interrupted: bool
    cache_keys: dict[int, str]

    def interruptible(self, index: int) -> AbstractContextManager[None]:
        """Mark the current task as running user code, so that stopping the run cancels it."""
        ...

    def manager(self, runnable: Runnable) -> IOManager:
        """Return the I/O manager that holds an asset's values in this run."""
        ...


class Attempt:
    """One call of one body."""

    def __init__(self, run: Running, unit: Unit, runnable: Runnable, number: int) -> None:
        self.run, self.unit, self.runnable, self.number = run, unit, runnable, number
        services = run.services
        self._services = services
        self.started_at = services.store.now()
        self._begun = services.clock.monotonic()
        self._call = Call(
            pipeline=unit.key.pipeline,
            asset=unit.node.name,
            partition=unit.partition,
            run_id=run.id,
            attempt=number,
            started_at=self.started_at,
            params=run.request.params,
        )
        self._id = new_id()

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return self._services.clock.monotonic() - self._begun

    async def make(self) -> Outcome:
        """Make the attempt. Only a cancellation of the whole engine travels as an exception."""
        limit, grace = self.runnable.timeout, self._services.settings.cancel_grace
        deadline = Deadline(self._services.clock, limit, grace)
        error: BaseException | None = None
        computed: Computed | None = None
        with deadline, self.run.interruptible(self.unit.place):
            try:
                computed = await self._compute()
            except (Exception, asyncio.CancelledError) as raised:
                error = raised
            finally:
                self._call.open = False
        if self.run.interrupted:
            return Interrupted(self.started_at, self.seconds)
        if deadline.expired:
            return self._failing(_timed_out(self.unit, limit))
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise error
            return self._failing(_wrapped(self, error, "the body raised CancelledError, although nobody cancelled it"))
        if error is not None:
            return self._failing(self._translated(error))
        assert computed is not None  # noqa: S101 - for the type checker: there is no error
        return computed

    async def _compute(self) -> Computed:
        scope = ResourceScope(
            scope="asset",
            spawner=self._services,
            outer=self.run.resources,
            replaced=self._services.resources.replaced,
            params=self._call.params,
            announce=self._services.resources.announce,
        )
        try:
            prepared = await prepare(self.run, self.unit, self.unit.node.bindings, self.unit.inputs, self._call, scope)
            if self._services.called is not None:
                self._services.called(self.unit.node.name)
            value = await self._services.executor.call(self.unit.node.definition, prepared.arguments)
            stored = await self._store(value)
        finally:
            if scope.opened():
                await scope.close()
        return self._computed(stored, self._inputs(prepared.inputs))

    async def _store(self, value: Any) -> Stored:
        manager = self.run.manager(self.runnable)
        ref = ValueRef(
            key=self.unit.key,
            partition=self.unit.partition,
            materialization=self._id,
            run_id=self.run.id,
            type=self.unit.node.value_type,
            stream=self.runnable.stream,
        )
        kind = self.unit.node.definition.kind
        match kind:
            case PlainKind() | ConstantKind():
                return await self._patiently(manager, ref, value)
            case StreamKind():
                async with aclosing(value) as items:
                    return await _stored(manager, ref, items)
            case _:
                assert_never(kind)

    async def _patiently(self, manager: IOManager, ref: ValueRef, value: Any) -> Stored:
        """Store, trying again what may pass (`STORE-11`)."""
        for attempt in range(1, STORE_ATTEMPTS):
            try:
                return await _stored(manager, ref, value)
            except StorageError as error:
                if not error.retryable:
                    raise
                await self._services.clock.sleep(0.1 * attempt)
        return await _stored(manager, ref, value)

    def _inputs(self, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
        keyed = self.run.cache_keys.get(self.unit.place)
        if keyed is not None:
            return (*(each for each in inputs if each.kind == "asset"), Input("key", "key", keyed))
        if self._call.params_read and not any(each.kind == "param" and each.name == "*" for each in inputs):
            return (*inputs, Input("param", "*", self.run.prints("*")))
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
                manager=self.run.manager(self.runnable).name,
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

    def _metadata(self) -> dict[str, object]:
        notes = self._call.notes
        if not notes:
            return {}
        try:
            return json.loads(json.dumps(self._services.redactor.value(notes)))
        except (TypeError, ValueError) as error:
            text = f"metadata of asset {self.unit.node.name!r} cannot be stored: {error}"
            if self._services.settings.strict_metadata:
                raise StorageError(text, asset=self.unit.node.name, hint="Note JSON-compatible values.") from error
            _logger.warning("%s; the value is kept", text)
            return {}

    # -- failing ------------------------------------------------------------------------------------------------

    def _translated(self, error: BaseException) -> FlowstoneError:
        if isinstance(error, FlowstoneError):
            error.asset = error.asset or self.unit.node.name
            error.partition = self.unit.partition if error.partition is None else error.partition
            error.run_id = error.run_id or self.run.id
            return error
        return _wrapped(self, error, str(error) or type(error).__name__)

    def _failing(self, error: FlowstoneError) -> Failing:
        policy = self.runnable.retry
        asked = error.__cause__ if isinstance(error, ExecutionError) and error.__cause__ is not None else error
        again = policy.again(asked, self.number)
        wait = policy.wait(self.number) if again else None
        return Failing(error=error, started_at=self.started_at, seconds=self.seconds, wait=wait)


async def _stored(manager: IOManager, ref: ValueRef, value: Any) -> Stored:
    try:
        return await manager.store(ref, value)
    except FlowstoneError:
        raise
    except OSError as error:
        raise StorageError(f"{manager.name} could not store {ref.key}: {error}", retryable=True) from error


def _wrapped(attempt: Attempt, cause: BaseException, text: str) -> ExecutionError:
    redactor = attempt._services.redactor
    trace = "".join(traceback.format_exception(cause))
    error = ExecutionError(
        redactor.text(f"asset {attempt.unit.node.name!r} failed: {type(cause).__name__}: {text}"),
        asset=attempt.unit.node.name,
        partition=attempt.unit.partition,
        run_id=attempt.run.id,
        details={"error_type": type(cause).__qualname__},
        attempt=attempt.number,
        traceback_text=redactor.text(trace),
    )
    error.__cause__ = cause
    return error


def _timed_out(unit: Unit, limit: float | None) -> TimedOut:
    return TimedOut(
        f"asset {unit.node.name!r} took longer than its timeout of {limit:g} s",
        asset=unit.node.name,
        partition=unit.partition,
        details={"timeout": limit},
        hint="Raise timeout= on the asset, or find out what it waits for.",
    )
