"""The durable calls of one body: each is called once, and from then on returns what is on record of it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import count
from random import Random
from typing import Any
from uuid import UUID, uuid5

from flowstone_async._engine.deadline import Deadline
from flowstone_async._engine.replay.facts import BodyFacts, Recorded, body_facts
from flowstone_async._engine.replay.grouping import StepGroup
from flowstone_async._engine.replay.prints import function_name, print_of
from flowstone_async._engine.replay.scope import ENTERED, Entered, Place, Scope
from flowstone_async._engine.replay.script import Called, Script
from flowstone_async._engine.services import Services
from flowstone_async.definition.annotations import resolve
from flowstone_async.definition.body import function_of, name_of
from flowstone_async.durable import Durable, StepOptions
from flowstone_async.errors import (
    ConfigError,
    FlowstoneError,
    LeaseLost,
    ReplayMismatch,
    StepLimit,
    StorageError,
    StoreUnavailable,
    TimedOut,
)
from flowstone_async.failures import ENDINGS, describe, rebuild
from flowstone_async.io.codec import Codec, codec_for
from flowstone_async.planning.units import Unit
from flowstone_async.store.steps import AlreadyRecorded, StepRecord

_MANY, _MOST = 2_000, 20_000
_logger = logging.getLogger("flowstone")


def attempt_body(
    run: Recorded, unit: Unit, attempt: int, failing: Callable[[BaseException, str], FlowstoneError]
) -> DurableBody:
    """Return the durable calls of an attempt at an asset."""
    facts = body_facts(run, unit, failing)
    return DurableBody(run.services, facts, attempt=attempt, known=run.resumed or attempt > 1)


class DurableBody(Durable):
    """The durable calls of one body.

    Args:
        services: Of the engine.
        facts: Of the body.
        attempt: Of the asset, or of the item.
        known: Whether it may have something on record.
        identity: Of the item; None for the body of an asset.
    """

    __slots__ = ("_attempt", "_facts", "_id", "_identity", "_known", "_root", "_script", "_services", "_unwritten")

    def __init__(
        self, services: Services, facts: BodyFacts, *, attempt: int, known: bool, identity: str | None = None
    ) -> None:
        # One for each item: whatever most of them have no use for is made when somebody asks.
        self._services, self._facts, self._attempt, self._known = services, facts, attempt, known
        self._identity, self._id = identity, facts.id if identity is None else None
        self._script: Script | None = None
        self._root: Scope | None = None
        self._unwritten: list[StepRecord] = []

    def for_item(self, identity: str, attempt: int, *, known: bool) -> DurableBody:
        """Return that of the body of an item."""
        return DurableBody(self._services, self._facts, attempt=attempt, known=known, identity=identity)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Stay at home: a body in another process has none."""
        return type(None), ()

    async def load(self) -> None:
        """Read what is on record."""
        if self._known:
            found = await self._services.store.steps.recorded(self._facts.run_id, self.id)
            self._script = Script(found, self._attempt, self._facts.asset)

    def close(self) -> None:
        """Let go of it: the body has ended."""
        if self._script is not None:
            self._script.close()

    @property
    def id(self) -> str:
        """What its records lie under: the same whenever the body is called in this run."""
        if self._id is None:
            self._id = str(uuid5(UUID(self._facts.id), self._identity or ""))
        return self._id

    @property
    def script(self) -> Script:
        """What is on record."""
        if self._script is None:
            self._script = Script(attempt=self._attempt, asset=self._facts.asset)
        return self._script

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
        _refuse(fn, thread=options.thread)
        return self._step(self._take(fn, options), fn, args, kwargs, options, connected=connected)

    def group(self) -> StepGroup:
        """Return a group of steps."""
        scope = Scope(self._scope().take("group").key)

        def started(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
            _refuse(fn, thread=False)
            options = StepOptions()
            return self._step(scope.take(name_of(fn)), fn, args, kwargs, options, connected=False)

        return StepGroup(started)

    def now(self) -> datetime:
        """Return the time of the first call; it is on record with the step that comes next."""
        place = self._scope().take("now")
        called = Called(("now", "", ""))
        found = self.script.find(place, called)
        if found is not None and found.value is not None:
            return datetime.fromisoformat(found.value.decode())
        now = self._services.store.now()
        self._unwritten.append(self._record(place, called, now.isoformat().encode()))
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
        codec = self._codec(fn)
        called = Called(("tx" if connected else "step", options.name or function_name(fn), print_of(fn, args, kwargs)))
        found = self.script.find(place, called)
        if found is not None:
            await self.script.turn(found)
            return _value(found, codec)
        self._count(place)
        try:
            if connected:
                return await self._connected(place, called, fn, args, kwargs, options, codec)
            value = await self._tried(place, fn, args, kwargs, options)
            encoded = _encoded(codec, value, place)
        except (*ENDINGS, asyncio.CancelledError):
            raise
        except BaseException as error:  # user code may raise anything
            if _ends_the_run(error):
                raise
            failed = self._facts.failing(error, f"step {place.key!r} of asset {self._facts.asset!r}")
            await self._keep(self._record(place, called, None)._replace(error=describe(failed)))
            raise failed from failed.__cause__
        await self._keep(self._record(place, called, encoded.data))
        return encoded.value

    async def _tried(
        self, place: Place, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: StepOptions
    ) -> Any:
        """Call a function as often as it may be tried."""
        clock = self._services.clock
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
        services = self._services
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
                return await self._services.executor.in_thread(fn, args, kwargs)
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
        facts, steps = self._facts, self._services.store.steps
        await self._write()  # the transaction may depend on times that were told before it
        try:
            async with steps.transaction(facts.run_id, facts.fence, self.id) as transaction:
                value = await self._bounded(place, fn, (transaction.connection, *args), kwargs, options)
                encoded = _encoded(codec, value, place)
                await transaction.record(self._record(place, called, encoded.data))
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
        returns = resolve(fn, self._facts.names).types.get("return")
        return codec_for(returns, names=self._facts.names.names)

    # -- records ------------------------------------------------------------------------------------------------

    def _count(self, place: Place) -> None:
        self.script.count += 1
        if self.script.count > _MOST:
            raise StepLimit(
                f"asset {self._facts.asset!r} makes more than {_MOST:,} durable calls in one body",
                asset=self._facts.asset,
                details={"key": place.key},
                hint="Make the items of a scatter of what it loops over: each has a body, and a record, of its own.",
            )
        if self.script.count == _MANY + 1:
            text = "asset %r makes more than %d durable calls in one body: a scatter would be faster to go on with"
            _logger.warning(text, self._facts.asset, _MANY)

    def _record(self, place: Place, called: Called, value: bytes | None) -> StepRecord:
        kind, function, arguments = called
        seen, self.script.seen = self.script.seen, self.script.seen + 1
        return StepRecord(place.key, place.path, place.number, seen, self._attempt, kind, function, arguments, value)

    async def _keep(self, record: StepRecord) -> None:
        """Put a result on record, and the times that were told before it."""
        self._unwritten.append(record)
        await self._write()

    async def _write(self) -> None:
        """Put on record what is not yet."""
        facts = self._facts
        records, self._unwritten = self._unwritten, []
        if not records:
            return
        try:
            kept = await self._services.store.steps.record(facts.run_id, facts.fence, self.id, records)
        except StoreUnavailable as error:
            facts.away(error)
            raise
        if not kept:
            facts.lost()
            raise LeaseLost(
                f"run {facts.run_id} is owned by another worker now, or was ended by one: nothing of step "
                f"{records[-1].key!r} is on record",
                run_id=facts.run_id,
                hint="Look at the run: the other worker continues it.",
            )


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


def _refuse(fn: Callable[..., Any], *, thread: bool) -> None:
    """Refuse what would hold the event loop, or would never be awaited.

    Raises:
        ConfigError: It is no function, or the wrong kind of one.
    """
    if not callable(fn):
        raise ConfigError(f"{fn!r} cannot be called as a step", hint="Give an async function and its arguments.")
    is_async = inspect.iscoroutinefunction(function_of(fn))
    if thread and is_async:
        raise ConfigError(f"{name_of(fn)!r} is async: it needs no thread", hint="Leave out run_in=.")
    if not thread and not is_async:
        raise ConfigError(
            f"{name_of(fn)!r} is a plain function, which would hold the event loop",
            hint="Make it `async def`, or let it run in a thread: `await ctx.step.using(run_in='thread')(fn, ...)`.",
        )
