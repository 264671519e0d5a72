"""From an attempt at a scatter's asset to what is to be done: arguments, source, and how its body is called."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, assert_never

from flowstone_async._engine.ahead import Begun
from flowstone_async._engine.arguments import Values, prepare
from flowstone_async._engine.replay.body import DurableBody
from flowstone_async._engine.request import Request, digest
from flowstone_async._engine.scatter.batch_scattering import BatchScattering
from flowstone_async._engine.scatter.batches import (
    Batches,
    BatchFunctions,
    BatchKeys,
    recorded_shared,
    shared_on_record,
)
from flowstone_async._engine.scatter.batching import Batcher, BatchItems
from flowstone_async._engine.scatter.calling import BodyCaller
from flowstone_async._engine.scatter.errors import no_longer_ours, threshold
from flowstone_async._engine.scatter.facts import (
    ScatterFacts,
    Settled,
    calling,
    facts_of,
    form_of,
    refuse_otherwise_stored,
)
from flowstone_async._engine.scatter.flushing import Task
from flowstone_async._engine.scatter.helping import Helping
from flowstone_async._engine.scatter.intake import Intake
from flowstone_async._engine.scatter.item_attempt import Handling
from flowstone_async._engine.scatter.key_forms import PLAIN, KeyForm, followed, key_form
from flowstone_async._engine.scatter.keys import Keys
from flowstone_async._engine.scatter.made import Made, has_moved, made
from flowstone_async._engine.scatter.noting import Noting
from flowstone_async._engine.scatter.packing import Items
from flowstone_async._engine.scatter.results import Results
from flowstone_async._engine.scatter.scattering import Scattering
from flowstone_async._engine.scatter.upstream import UpstreamResults
from flowstone_async._engine.scatter.upstream_source import UpstreamEnded, ended, results_of, upstream_scatter
from flowstone_async._engine.services import Services
from flowstone_async._engine.user_error import redacted
from flowstone_async._engine.waits.returned import prepared_for
from flowstone_async.definition.binding import Binding, ContextBinding
from flowstone_async.definition.bound_scatter import BoundBatching, BoundScatter, ItemFunction
from flowstone_async.definition.context import Call
from flowstone_async.definition.graph import Node
from flowstone_async.definition.item_source import AssetSource, CustomSource, FixedSource, FunctionSource
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.errors import ConfigError, FlowstoneError, StorageError
from flowstone_async.failures import describe
from flowstone_async.planning.units import Unit
from flowstone_async.resources import ResourceScope
from flowstone_async.sources.iterated import Generated, iterated
from flowstone_async.sources.source import Source
from flowstone_async.store.scatters import ScatterRecord
from flowstone_async.types import Input


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """An attempt at a scatter's asset.

    Attributes:
        id: Of the materialization that it may become.
        fence: Of the run.
        call: Its facts; each item has a copy.
        version: Of the asset now.
        code_hash: Likewise.
        nodes: Those of its pipeline.
        begun: Hears of its id once it is on record.
        follows: The scatter that its items are results of, while that goes on.
        failing: What to tell of an error, and how long to wait before the next attempt: None if there is none.
        still: Is given what tells whether nothing but time brings it on.
    """

    values: Values
    services: Services
    unit: Unit
    scope: ResourceScope
    request: Request
    call: Call
    id: str
    run_id: str
    fence: int
    version: str | None
    code_hash: str
    nodes: Mapping[str, Node]
    begun: Callable[[str], None]
    follows: Begun | None
    failing: Callable[[BaseException, int], tuple[FlowstoneError, float | None]]
    still: Callable[[Callable[[], bool]], None]

    @property
    def _kind(self) -> ScatterKind:
        kind = self.unit.node.definition.kind
        assert isinstance(kind, ScatterKind)  # noqa: S101 - whoever calls has asked
        return kind

    @property
    def _bound(self) -> BoundScatter:
        bound = self.unit.node.scatter
        assert bound is not None  # noqa: S101 - whoever calls has asked
        return bound

    @property
    def _name(self) -> str:
        return f"scatter {self.unit.key}"

    async def run(self) -> Made:
        """Run the scatter, or go on with it.

        Raises:
            FlowstoneError: What the asset fails with.
            UpstreamEnded: The scatter that it follows has ended without a value.
        """
        bound, kind, store = self._bound, self._kind, self.services.store.scatters
        inputs, consumed, used = list[Input](), list[Input](), list[Input]()
        follows = self.follows
        source_arguments = {} if follows else await self._prepared(bound.source.bindings, consumed)
        select = await self._function(bound.select, inputs)
        key = False if kind.key is False else await self._function(bound.key, inputs)
        rate_key = await self._function(bound.rate_key, inputs)
        functions = None if bound.batch is None else await self._batch_functions(bound.batch, inputs)
        handling = await self._handling(inputs)
        # The body's at last: `ctx` tells of what was prepared last.
        arguments = await self._prepared(self.unit.node.bindings, used)
        worker, called = self.services.worker or "", self._called(used)
        settled = await self._settled(source_arguments)
        now = ScatterFacts(
            results=kind.results,
            version=(self.version,),
            code=self.code_hash,
            source=tuple(consumed),
            inputs=(*used, *inputs),
            called=called,
            options=settled.recorded,
            batched=bound.batch is not None,
        )
        asked = ScatterRecord(id=self.id, run_id=self.run_id, key=self.unit.key, facts=now.text())
        record = await store.begin(asked, self.fence, worker)
        if record is not None and record.id != self.id and has_moved(record, now, self._upstream):
            settled = await self._settled(source_arguments, anew=True)
            asked = asked._replace(facts=now._replace(options=settled.recorded).text())
            record = await store.begin(asked, self.fence, worker, instead_of=record.id)
        if record is None:
            raise no_longer_ours(self._name)
        refuse_otherwise_stored(record, self._name, batches=functions is not None)
        if record.state == "failed":
            raise await threshold(store, record.id, self._name, kind)
        self.begun(record.id)
        size = 0
        if record.state == "running":
            record, batches = await calling(called, store, record, self.fence, self._name), None
            if functions is not None:
                names = self.unit.node.definition.scope.names
                batches = self._batches(await recorded_shared(functions, store, record, self.fence, self._name, names))
            source = await self._source(source_arguments, settled, facts_of(record).options)
            intake = self._intake(self._items, select, key)
            task = self._task(record, arguments, source, intake, batches, rate_key, handling)
            scattering = self._scattering(task, functions, batches)
            self.still(lambda: scattering.still)
            try:
                async with source.lending():
                    await scattering.run()
            except UpstreamEnded:
                await store.end(record.id, self.fence, "cancelled")
                raise
            size = scattering.size
        if self._contexts or handling is not None:
            await self._noting(record).merge()
        if follows is not None:
            await ended(follows, self.values)
            await self._prepared(bound.source.bindings, consumed)
            now = now._replace(source=tuple(consumed))
        return made(record, size, now)

    async def help(self, record: ScatterRecord) -> Helping:
        """Return who runs items of a scatter for another worker, which has begun it.

        Raises:
            ConfigError: Its bodies would be called with something else here, or it is other code.
            FlowstoneError: Something that its bodies need cannot be had here.
        """
        inputs: list[Input] = []
        arguments = await self._prepared(self.unit.node.bindings, inputs)
        if ScatterFacts.read(record.facts).called != self._called(inputs):
            raise ConfigError(
                f"{self._name} was begun with other inputs, or by other code, than are here",
                hint="Its items stay with the workers that have the same; deploy the same code everywhere.",
            )
        call = dataclasses.replace(self.call)
        handling = await self._handling([])
        rate_key = await self._function(self._bound.rate_key, [])
        self.call.resources, self.call.dep_status = call.resources, call.dep_status
        batch, names = self._bound.batch, self.unit.node.definition.scope.names
        batches = None if batch is None else self._batches(shared_on_record(batch, record, self._name, names))
        task = self._task(record, arguments, None, self._intake(self._items, None, None), batches, rate_key, handling)
        helping = Helping(self.services, task, self._name)
        if batches is not None:
            batches.scattering = helping
        return helping

    @property
    def _upstream(self) -> str | None:
        """The scatter whose results are the items; None if they come from elsewhere."""
        if followed(self.unit.node, self.nodes) is None:
            return None
        return upstream_scatter(self.unit, self.follows, self.values, self.services)

    @property
    def _items(self) -> Items:
        items = Items if self._kind.batch is None else BatchItems
        return items(self._bound.item.wanted, self.unit.node.definition.scope.names)

    @property
    def _contexts(self) -> list[str]:
        """The parameters of the body that take the context."""
        return [each.parameter for each in self.unit.node.bindings if isinstance(each, ContextBinding)]

    def _noting(self, record: ScatterRecord) -> Noting:
        return Noting(self.services.store.scatters, record.id, self.call, self.services.redactor)

    @property
    def _form(self) -> KeyForm | None:
        return key_form(self.unit.node, self.nodes)

    def _batches(self, shared: object) -> Batches:
        return Batches(BatchKeys(self._items, self._kind.key, self._form), shared)

    def _called(self, inputs: Sequence[Input]) -> str:
        """Return a hash of what must be the same wherever bodies are called: their code, and what they are given."""
        return digest(self.version, self.code_hash, [[each.kind, each.name, each.fingerprint] for each in inputs])

    def _task(
        self,
        record: ScatterRecord,
        arguments: Mapping[str, object],
        source: Source[Any] | None,
        intake: Intake,
        batches: Batches | None,
        rate_key: Callable[[Any], Any] | None,
        handling: Handling | None,
    ) -> Task:
        kind, node, durable = self._kind, self.unit.node, self.call.durable
        waits = bool(self._contexts) or handling is not None
        keys = Keys(intake.items, kind.key, self._form) if batches is None else batches.keys
        noting = self._noting(record)
        given = self.unit, self.call, arguments, keys, batches, noting, self._contexts, handling
        caller = BodyCaller(self.services, *given)
        return Task(
            record=record,
            continued=record.id != self.id,
            fence=self.fence,
            worker=self.services.worker or "",
            kind=kind,
            source=source,
            by_position=kind.key is False or isinstance(self._bound.source.spec, FixedSource | AssetSource),
            intake=intake,
            results=Results(node.value_type, node.definition.scope.names, form_of(record) or kind.results),
            call=caller.begin,
            places=caller.places,
            durable=durable.facts if (waits or self.follows is not None) and isinstance(durable, DurableBody) else None,
            noted=noting.keep,
            rate_key=rate_key,
            given=None if batches is None else batches.given,
            failing=self.failing,
            upstream=None if self.follows is None else partial(ended, self.follows, self.values),
        )

    async def _prepared(self, bindings: tuple[Binding, ...], inputs: list[Input]) -> dict[str, object]:
        if not bindings:
            return {}
        prepared = await prepare(self.values, self.unit, bindings, self.unit.inputs, self.call, self.scope)
        inputs += prepared.inputs
        return prepared.arguments

    async def _handling(self, inputs: list[Input]) -> Handling | None:
        """Return what is called once a gate has ended that the body has returned; None if it returns none."""
        gate = self.unit.node.gate
        if gate is None:
            return None
        arguments: dict[str, dict[str, object]] = {}
        for handler in gate.handlers():
            prepared = await prepared_for(handler, self.values, self.unit, self.call, self.scope)
            arguments[handler.part] = prepared.arguments
            inputs += prepared.inputs
        return Handling(self.values, self.scope, arguments)

    async def _function(self, function: ItemFunction | None, inputs: list[Input]) -> Callable[[Any], Any] | None:
        if function is None:
            return None
        arguments = await self._prepared(function.bindings, inputs)
        return partial(function.function, **arguments) if arguments else function.function

    async def _settled(self, arguments: Mapping[str, Any], *, anew: bool = False) -> Settled:
        """Call the functions among the options of the source, unless what they returned is on record and holds."""
        spec = self._bound.source.spec
        if not isinstance(spec, CustomSource) or not isinstance(spec.source, Source) or not spec.source.functions():
            return Settled(None, None)
        known = await self.services.store.scatters.of_run(self.run_id)
        if not anew and any(scatter.key == self.unit.key for scatter in known):
            return Settled(None, None)
        source, recorded = await spec.source.resolved(arguments)
        return Settled(recorded, source)

    async def _source(self, arguments: Mapping[str, Any], settled: Settled, recorded: object) -> Source[Any]:
        upstream, scatter = followed(self.unit.node, self.nodes), self._upstream
        if upstream is not None and scatter is not None:
            return results_of(upstream, scatter, self.services)
        spec = self._bound.source.spec
        match spec:
            case FixedSource(items=items):
                return iterated(items, label=f"the source of {self._name}")
            case AssetSource():
                [value] = arguments.values()
                return iterated(value, label=f"the source of {self._name}")
            case FunctionSource(function=function):
                source, _ = await Generated(function).resolved(arguments)
                return source
            case CustomSource(source=source):
                if not isinstance(source, Source):
                    raise ConfigError(
                        f"source={source!r} of {self._name} is no Source", hint="Derive its class from sources.Source."
                    )
                read_from = settled.source
                if read_from is None or recorded != settled.recorded:  # it was begun before
                    read_from, _ = await source.resolved(arguments, recorded)
                return read_from.bound_to(self.services.database)
            case _:
                assert_never(spec)

    def _intake(
        self, items: Items, select: Callable[[Any], Any] | None, key: Callable[[Any], Any] | Literal[False] | None
    ) -> Intake:
        form = self._form or PLAIN
        hide = self.services.redactor.text
        return Intake(
            items=items, select=select, key=key, failure=self._refused, describe=self._described, hide=hide, keys=form
        )

    async def _batch_functions(self, bound: BoundBatching, inputs: list[Input]) -> BatchFunctions:
        return BatchFunctions(
            bound,
            size=await self._function(bound.size, inputs),
            group=await self._function(bound.group, inputs),
            shared=await self._function(bound.shared, inputs),
        )

    def _scattering(self, task: Task, functions: BatchFunctions | None, batches: Batches | None) -> Scattering:
        if functions is None or batches is None:
            return Scattering(self.services, task, self._name)
        store = self.services.store
        batcher = Batcher(
            functions.bound.batching,
            task.intake,
            size=functions.size,
            group=functions.group,
            store=store.scatters,
            scatter=task.record.id,
            carry=task.record.carry,
            now=store.now,
            keyed=isinstance(task.source, UpstreamResults),
        )
        batches.scattering = scattering = BatchScattering(self.services, task, self._name, batcher)
        return scattering

    def _refused(self, reason: BaseException | str) -> FlowstoneError:
        """Return the error of an item that cannot be run."""
        if isinstance(reason, BaseException):
            return self.failing(reason, 1)[0]
        return redacted(StorageError(reason, asset=self.unit.node.name), self.services.redactor)

    def _described(self, error: FlowstoneError) -> Any:
        return describe(error, partition=self.unit.key.partition)
