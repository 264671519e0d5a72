"""An attempt at an item of a scatter whose body may return a gate: its body, or a handler once the gate has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

from typing_extensions import override

from flowstone_async._engine.arguments import Values
from flowstone_async._engine.outcome import Prepared
from flowstone_async._engine.replay.body import DurableBody
from flowstone_async._engine.scatter.places import ItemPlaces
from flowstone_async._engine.services import Services
from flowstone_async._engine.waits.parked import Parked
from flowstone_async._engine.waits.returned import Attempted, Ended
from flowstone_async.definition.binding import ContextBinding
from flowstone_async.definition.context import Call, Context
from flowstone_async.io.base import IOManager
from flowstone_async.planning.units import Unit
from flowstone_async.resources import ResourceScope
from flowstone_async.types import NOTHING, Input

R = TypeVar("R")


class Handling(NamedTuple):
    """What the handlers of one scatter take, beside the item, the payload and the context.

    Attributes:
        arguments: By handler.
    """

    values: Values
    scope: ResourceScope
    arguments: Mapping[str, Mapping[str, object]]


class ItemResult(NamedTuple):
    """What came of an item."""

    value: Any


class ItemAttempt(Attempted[ItemResult]):
    """One attempt at one item.

    Args:
        services: Of the engine.
        unit: The scatter.
        handling: What its handlers take.
        call: Of the item.
        durable: Its durable calls.
        item: What the body receives.
        run: Calls the body.
        end: Ends what a call has left going.
        places: Where bodies have their places.
    """

    def __init__(
        self,
        services: Services,
        unit: Unit,
        handling: Handling,
        call: Call,
        durable: DurableBody,
        item: Any,
        *,
        run: Callable[[Call], Coroutine[Any, Any, Any]],
        end: Callable[[Call], Awaitable[None]],
        places: ItemPlaces,
    ) -> None:
        self._services, self.unit, self._handling, self._call = services, unit, handling, call
        self.values, self._body, self._durable, self._item = handling.values, durable, durable, item
        self._run, self._end, self._places = run, end, places
        self.asleep: tuple[Parked, ...] | None = None
        self.final = self._begun = False

    @property
    @override
    def services(self) -> Services:
        return self._services

    @property
    @override
    def manager(self) -> IOManager | None:
        return None  # results are the scatter's own

    @property
    @override
    def durable(self) -> DurableBody:
        return self._durable

    @property
    def waits(self) -> tuple[Parked, ...] | None:
        """What it waits for, where nothing of it goes on; None if it has ended."""
        return self.asleep or self._durable.evicted

    @override
    async def within(self, use: Callable[[Call, ResourceScope], Awaitable[R]], part: str = "") -> R:
        call, durable = self._call, self._body
        if part:
            durable = durable.for_handler(part)
            call = call.for_handler(durable)
        elif self._begun:
            durable = durable.again()
            call = call.for_handler(durable)
        self._begun = True
        self._durable = durable
        durable.lodge(self._places.of)
        if call.fan is not None:
            durable.beside = call.fan.tasks
        try:
            return await use(call, self._handling.scope)
        finally:
            await self._end(call)

    @override
    async def body(self, call: Call, scope: ResourceScope) -> tuple[Any, Prepared]:
        return await self._run(call), Prepared({}, ())

    @override
    async def handled(self, ended: Ended, call: Call, scope: ResourceScope) -> Any:
        handler, payload, named = ended
        given = {each.parameter: Context(call) for each in handler.bindings if isinstance(each, ContextBinding)}
        own = self._handling.arguments[handler.part]
        return await handler.function(self._item, *payload, **{**own, **given, **named})

    @override
    async def stored(self, value: Any, inputs: tuple[Input, ...]) -> ItemResult:
        return ItemResult(value)

    @override
    def consumed(self, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
        return ()

    @override
    def noted(self) -> Mapping[str, object]:
        return NOTHING
