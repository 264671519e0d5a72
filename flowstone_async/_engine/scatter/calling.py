"""Calling the body of a scatter for one item, or for a batch."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, cast

from flowstone_async._engine.replay.body import DurableBody
from flowstone_async._engine.scatter.asleep import Evicted, Final
from flowstone_async._engine.scatter.batches import Batches
from flowstone_async._engine.scatter.chunks import LocalChunk, Todo
from flowstone_async._engine.scatter.item_attempt import Handling, ItemAttempt
from flowstone_async._engine.scatter.keys import Keys
from flowstone_async._engine.scatter.noting import Noting
from flowstone_async._engine.scatter.places import ItemPlaces
from flowstone_async._engine.services import Services
from flowstone_async._engine.waits.returned import GatedBody
from flowstone_async._engine.waits.unasked import refuse_unasked
from flowstone_async.definition.context import Call, Context, ItemFacts
from flowstone_async.failures import ENDINGS
from flowstone_async.planning.units import Unit

_FIRST_TAKEN = 2
"""Fence of a chunk that nobody had begun before whoever has it."""


class BodyCaller:
    """Calls the body of one scatter.

    Args:
        services: Of the engine.
        unit: The asset and partition.
        call: The facts of its attempt.
        arguments: What the body gets beside the item.
        keys: The keys of its items.
        batches: Makes of a batch what the body gets; None where it gets items.
        noting: Keeps what bodies note.
        contexts: The parameters that take the context.
        handling: What the handlers of its gate take; None if the body returns no gate.

    Attributes:
        begin: Begins the call for an item.
        places: Of the bodies.
    """

    def __init__(
        self,
        services: Services,
        unit: Unit,
        call: Call,
        arguments: Mapping[str, object],
        keys: Keys,
        batches: Batches | None,
        noting: Noting,
        contexts: Sequence[str],
        handling: Handling | None,
    ) -> None:
        assert unit.node.scatter is not None  # noqa: S101 - for the type checker
        self._services, self._call, self._arguments = services, call, arguments
        self._keys, self._noting, self._contexts = keys, noting, contexts
        self._body, self._parameter = unit.node.definition.body, unit.node.scatter.item.parameter
        self._asset, self._unit, self._handling = unit.node.name, unit, handling
        self.places = ItemPlaces()
        one = self._with_context if contexts or handling is not None else self._plainly
        self.begin: Callable[[LocalChunk, Todo], Coroutine[Any, Any, Any]] = (
            one if batches is None else lambda chunk, todo: one(chunk, batches.given(chunk, todo))
        )

    def _plainly(self, chunk: LocalChunk, todo: Todo) -> Coroutine[Any, Any, Any]:
        del chunk
        if self._services.called is not None:
            self._services.called(self._asset)
        return self._body(**self._arguments, **{self._parameter: todo.item})

    async def _with_context(self, chunk: LocalChunk, todo: Todo) -> Any:
        if self._services.called is not None:
            self._services.called(self._asset)
        key, identity = self._keys.of(chunk, todo)
        facts = ItemFacts(key=key, index=todo.number, attempt=chunk.chunk.attempts + 1, identity=identity)
        of = chunk.chunk
        # Somebody may have begun it before: whoever cut a chunk has it first, or gives it to the next one.
        known = of.alone or of.attempts > 0 or of.lost > 0 or of.fence > _FIRST_TAKEN
        call = self._call.for_item(facts, self._services.store.now(), known=known)
        durable = call.durable
        if not isinstance(durable, DurableBody):
            return await self._called_with(call, todo, None)
        if self._handling is not None:
            return await self._gated(call, durable, todo)
        durable.lodge(self.places.of)
        if call.fan is not None:
            durable.beside = call.fan.tasks
        try:
            value = await self._called_with(call, todo, durable if known else None)
        except ENDINGS:
            raise
        except BaseException as error:  # user code may raise anything
            if durable.evicted is not None:
                raise Evicted(durable.evicted) from error
            raise
        if durable.evicted is not None:
            raise Evicted(durable.evicted)
        return value

    async def _called_with(self, call: Call, todo: Todo, known: DurableBody | None) -> Any:
        try:
            if known is not None:
                await known.load()
            return await self._run(call, todo)
        finally:
            await self._end(call)

    async def _run(self, call: Call, todo: Todo) -> Any:
        """Call the body."""
        given = dict.fromkeys(self._contexts, Context(call))
        value: object = await self._body(**{**self._arguments, **given, self._parameter: todo.item})
        refuse_unasked(self._asset, self._unit.node.gate, value)
        return cast("Any", value)

    async def _end(self, call: Call) -> None:
        """End what a call has left going."""
        try:
            if call.fan is not None:
                await call.fan.close()
        finally:
            call.open = False
            if call.durable is not None:
                call.durable.close()
            self._noting.took(call)

    async def _gated(self, call: Call, durable: DurableBody, todo: Todo) -> Any:
        """Call the body, which may return a gate, or what handles the end of the gate that it has returned."""
        assert self._handling is not None  # noqa: S101 - whoever calls has asked
        assert self._unit.node.gate is not None  # noqa: S101 - likewise
        attempt = ItemAttempt(
            *(self._services, self._unit, self._handling, call, durable, todo.item),
            run=lambda call: self._run(call, todo),
            end=self._end,
            places=self.places,
        )
        try:
            found = await GatedBody(attempt, self._unit.node.gate).compute()
        except ENDINGS:
            raise
        except BaseException as error:  # user code may raise anything
            if attempt.waits is not None:
                raise Evicted(attempt.waits) from error
            if attempt.final:
                raise Final from error
            raise
        if attempt.waits is not None:
            raise Evicted(attempt.waits)
        return None if found is None else found.value
