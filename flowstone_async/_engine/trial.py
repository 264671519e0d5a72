"""Trying a pipeline in a test: its own store, its own clock, and a look at what happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar, get_args, overload

import anyio
from typing_extensions import Unpack, override

from flowstone_async._engine.given_values import accepted
from flowstone_async._engine.handle import RunHandle
from flowstone_async._engine.options import mapping
from flowstone_async._engine.report import RunReport
from flowstone_async._engine.request import Request
from flowstone_async._engine.results import report_of, values_of
from flowstone_async._engine.run import RunDriver
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target, find
from flowstone_async._engine.verbs import RunOptions, Verbs
from flowstone_async.clock import ManualClock, settle
from flowstone_async.config import word
from flowstone_async.definition.collection import Hook
from flowstone_async.definition.handle import AssetRef, OpenRef, PartitionedRef
from flowstone_async.errors import ConfigError
from flowstone_async.events import Event
from flowstone_async.store.records import RunState
from flowstone_async.types import AssetKey, Materialization, new_id

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
K = TypeVar("K")
E = TypeVar("E", bound=Event)
Given = Mapping[Any, object]
_STUCK_AFTER = 5.0
_POLL = 0.001


class Trial(Verbs):
    """A pipeline under test, in memory, on a clock that stands still until it is advanced.

    `async with pipe.test() as t`: the verbs of a pipeline, and `submit`, `until`, `advance`, `calls`, `events`.
    """

    def __init__(self, session: Session, clock: ManualClock, values: Given, params: object) -> None:
        self._opened, self._params = session, params
        self.clock = clock
        self._calls: dict[str, int] = {}
        self._events: list[Event] = []
        session.services.called = self._called
        session.hooks.append(Hook(Event, self._heard))
        self._values = self._checked(values)
        for catalog in session.catalogs.values() if params is not None else ():
            catalog.params.parse(params)  # refuses bad ones

    @override
    @asynccontextmanager
    async def _session(self) -> AsyncGenerator[Session]:
        yield self._opened

    # -- running ------------------------------------------------------------------------------------------------

    @overload
    async def run(
        self,
        target: PartitionedRef[T, K],
        /,
        *,
        partition: K,
        values: Given | None = None,
        **options: Unpack[RunOptions],
    ) -> T: ...
    @overload
    async def run(
        self,
        target: OpenRef[T],
        /,
        *,
        partition: object = None,
        values: Given | None = None,
        **options: Unpack[RunOptions],
    ) -> T: ...
    @overload
    async def run(
        self,
        target: AssetRef[T1],
        second: AssetRef[T2],
        /,
        *,
        partition: object = None,
        values: Given | None = None,
        **options: Unpack[RunOptions],
    ) -> tuple[T1, T2]: ...
    @overload
    async def run(
        self, target: str, /, *, partition: object = None, values: Given | None = None, **options: Unpack[RunOptions]
    ) -> Any: ...
    @overload
    async def run(
        self,
        target: Target,
        second: Target,
        /,
        *more: Target,
        partition: object = None,
        values: Given | None = None,
        **options: Unpack[RunOptions],
    ) -> tuple[Any, ...]: ...
    @override
    async def run(  # pyright: ignore[reportIncompatibleMethodOverride] - one more option
        self, *targets: Any, partition: Any = None, values: Given | None = None, **options: Unpack[RunOptions]
    ) -> Any:
        """Execute assets, whatever is stored, and return their values; time passes as retries need it.

        Args:
            targets: Handles or names.
            partition: The run's key.
            values: Values of dependencies for this call, by handle or name; they are stored nowhere.
            options: See `RunOptions`.

        Raises:
            ConfigError: A value does not fit, or is of an asset that none of the targets depends on.
        """
        found = await values_of(await self._complete(targets, partition, values, options))
        return found[0] if len(found) == 1 else found

    @override
    async def report(
        self, *targets: Target, partition: Any = None, values: Given | None = None, **options: Unpack[RunOptions]
    ) -> RunReport:
        """Execute assets and return what came of it; see `run`."""
        wanted = targets or tuple(
            f"{p}.{name}" for p, each in self._opened.catalogs.items() for name in each.graph.nodes
        )
        return await report_of(await self._complete(wanted, partition, values, options))

    async def _complete(
        self, targets: tuple[Target, ...], partition: object, values: Given | None, options: RunOptions
    ) -> RunDriver:
        given: RunOptions = {"force": True, "timeout": False, **options}
        request = self._request(targets, partition, values, given)
        flight = await self._opened.start(request)
        flight.detached = True
        driver = flight.driver
        if request.on_wait == "raise":
            driver.hurry()
        while not driver.done.is_set():
            await settle(5)
            if driver.only_waits and not driver.leaves and await self.clock.jump():
                continue
            with anyio.move_on_after(_POLL):
                await driver.done.wait()
        return driver

    def _request(
        self, targets: tuple[Target, ...], partition: object, values: Given | None, options: RunOptions
    ) -> Request:
        if self._params is not None and "params" not in options:
            options = {**options, "params": self._params}
        request = self._opened.request(targets, partition=partition, **options)
        given = self._checked(mapping(values, "values", by_name=False))
        self._check_used(request, given)
        return replace(request, given={**self._values, **given})

    @overload
    async def submit(
        self,
        target: PartitionedRef[T, K],
        /,
        *,
        partition: K,
        values: Given | None = None,
        **options: Unpack[RunOptions],
    ) -> RunHandle[T]: ...
    @overload
    async def submit(
        self,
        target: OpenRef[T],
        /,
        *,
        partition: object = None,
        values: Given | None = None,
        **options: Unpack[RunOptions],
    ) -> RunHandle[T]: ...
    @overload
    async def submit(
        self, target: str, /, *, partition: object = None, values: Given | None = None, **options: Unpack[RunOptions]
    ) -> RunHandle[Any]: ...
    @overload
    async def submit(
        self,
        target: Target,
        second: Target,
        /,
        *more: Target,
        partition: object = None,
        values: Given | None = None,
        **options: Unpack[RunOptions],
    ) -> RunHandle[tuple[Any, ...]]: ...
    async def submit(
        self, *targets: Any, partition: Any = None, values: Given | None = None, **options: Unpack[RunOptions]
    ) -> RunHandle[Any]:
        """Start a run and return its handle; go on with `until` and `advance`."""
        given: RunOptions = {"timeout": False, **options}
        flight = await self._opened.start(self._request(targets, partition, values, given))
        flight.detached = True
        await flight.driver.created.wait()
        return RunHandle(self._opened, flight.driver.record, flight.driver)

    async def until(self, run: RunHandle[Any], *, state: RunState = "succeeded") -> None:
        """Wait until a run is in a state, without letting time pass.

        Raises:
            AssertionError: It got into another final state, or does nothing any more; the message says where it stands.
            ConfigError: There is no such state, or `run` is no handle.
        """
        word(state, get_args(RunState), what="state")
        if not isinstance(run, RunHandle):
            raise ConfigError(f"until({run!r}) takes the handle of a run", hint="submit() returns one.")
        flight = self._opened.flights.get(run.id)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while (found := (await run.status()).state) != state:
            stuck = flight is not None and flight.driver.only_waits
            if found in ("succeeded", "failed", "cancelled") or stuck or loop.time() - begun > _STUCK_AFTER:
                raise AssertionError(f"run {run.id} is {found}, not {state}: {await self._standing(run)}")
            await settle(5)
            await asyncio.sleep(_POLL)

    async def _standing(self, run: RunHandle[Any]) -> str:
        whys = [str(await self.why(f"{run.ref.pipeline}.{name}")) for name in run.ref.targets]
        last = self._events[-1].type if self._events else "nothing"
        return f"{'; '.join(whys)} (last event: {last})"

    async def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0, milliseconds: float = 0
    ) -> None:
        """Let time pass; retries, TTLs and timeouts that fall due on the way happen in order.

        Raises:
            ConfigError: It is no span of time that lies ahead.
        """
        passed = _span(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
        await self.clock.advance(passed.total_seconds())

    # -- looking ------------------------------------------------------------------------------------------------

    def calls(self, asset: Target) -> int:
        """Return how often an asset's body was called."""
        return self._calls.get(find(self._opened.catalogs, asset)[1], 0)

    def events(self, kind: type[E]) -> list[E]:
        """Return the events of a type, and of types below it, in order.

        Raises:
            ConfigError: `kind` is no event type.
        """
        given: object = kind
        if not isinstance(given, type) or not issubclass(given, Event):
            raise ConfigError(f"events({kind!r}) takes an event type", hint="Such as AssetSucceeded.")
        return [event for event in self._events if isinstance(event, kind)]

    async def assert_stored(self, asset: Target, *, partition: object = None) -> None:
        """Fail unless a value is stored.

        Raises:
            AssertionError: None is.
        """
        if not await self.exists(asset, partition=partition):
            raise AssertionError(f"no value is stored: {await self.why(asset, partition=partition)}")

    async def assert_not_stored(self, asset: Target, *, partition: object = None) -> None:
        """Fail if a value is stored.

        Raises:
            AssertionError: One is.
        """
        if await self.exists(asset, partition=partition):
            raise AssertionError(f"a value is stored: {await self.why(asset, partition=partition)}")

    # -- given values -------------------------------------------------------------------------------------------

    def _checked(self, values: Given) -> dict[str, Materialization]:
        found: dict[str, Materialization] = {}
        for target, value in values.items():
            catalog, name = find(self._opened.catalogs, target)
            given, fingerprint = accepted(catalog.graph.nodes[name], value)
            found[name] = self._made_up(AssetKey(catalog.graph.pipeline, name), fingerprint, given)
        return found

    def _check_used(self, request: Request, given: Mapping[str, Materialization]) -> None:
        """Refuse values of a call that nothing in it would take."""
        nodes = self._opened.catalogs[request.pipeline].graph.nodes
        needed = set[str]()
        left = [above for target in request.targets for above in nodes[target].upstreams]
        while left:
            name = left.pop()
            if name not in needed:
                needed.add(name)
                left.extend(nodes[name].upstreams)
        for name in given:
            if name in needed:
                continue
            above = ", ".join(each for each in nodes if each in needed and each not in request.targets)
            wrong = f"{', '.join(map(repr, request.targets))} does not depend on {name!r}"
            if name in request.targets:
                wrong = f"{name!r} is what the call computes"
            raise ConfigError(
                f"values={{{name!r}: ...}}: {wrong}",
                asset=name,
                hint=f"It depends on: {above}." if above else "It depends on no asset.",
            )

    def _made_up(self, key: AssetKey, fingerprint: str | None, value: object) -> Materialization:
        made, now = new_id(), self.clock.now()
        self._opened.services.given[made] = value
        return Materialization(
            id=made,
            key=key,
            run_id="",
            fingerprint=fingerprint or made,
            version=None,
            code_hash="",
            inputs=(),
            manager="given",
            location="",
            size=0,
            checksum=None,
            started_at=now,
            committed_at=now,
            seconds=0.0,
            attempts=0,
            host="",
        )

    def _called(self, asset: str) -> None:
        self._calls[asset] = self._calls.get(asset, 0) + 1

    async def _heard(self, event: Event) -> None:
        self._events.append(event)


def _span(**given: float) -> timedelta:
    try:
        passed = timedelta(**given)
    except (TypeError, ValueError, OverflowError):
        passed = timedelta(-1)
    if passed < timedelta():
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items() if value != 0)
        raise ConfigError(f"advance({shown}): time only passes forwards", hint="Give numbers, such as hours=3.")
    return passed
