"""Filling the parameters of a body, a condition or a cache key from what a run has."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

from flowstone_async._engine.outcome import Prepared, Settled
from flowstone_async._engine.run_params import Prints, as_wanted
from flowstone_async.definition.binding import (
    Binding,
    ContextBinding,
    DependencyBinding,
    ParamFieldBinding,
    ParamsBinding,
    PartitionBinding,
    ResourceBinding,
)
from flowstone_async.definition.context import Call, Context, DepStatus
from flowstone_async.errors import FlowstoneError
from flowstone_async.failures import RecordedError
from flowstone_async.planning.units import Unit, UnitInput
from flowstone_async.redaction import Redactor
from flowstone_async.resources import ResourceScope
from flowstone_async.types import Failed, Input, Materialization, Skipped


class Values(Protocol):
    """What a run has for its bodies."""

    prints: Prints

    @property
    def redactor(self) -> Redactor:
        """What hides secrets in what bodies log."""
        ...

    def settled(self, index: int) -> tuple[Unit, Settled]:
        """Return how a unit ended."""
        ...

    def external(self, edge: UnitInput) -> Materialization | None:
        """Return another pipeline's current value."""
        ...

    async def load(self, unit: Unit, settled: Settled, wanted: object) -> Any:
        """Return a unit's value, as a copy of the caller's own."""
        ...

    async def load_external(self, edge: UnitInput, current: Materialization, wanted: object) -> Any:
        """Return another pipeline's current value, as a copy of the caller's own."""
        ...

    async def resource(self, name: str, scope: ResourceScope) -> Any:
        """Return an open resource."""
        ...


async def prepare(
    values: Values,
    unit: Unit,
    bindings: Sequence[Binding],
    edges: Sequence[UnitInput],
    call: Call,
    scope: ResourceScope,
) -> Prepared:
    """Return the arguments for `bindings`, and the inputs that were consumed for them.

    Raises:
        StorageError: An upstream's value cannot be read.
        ResourceUnavailable: A resource cannot be opened.
    """
    arguments: dict[str, object] = {}
    inputs: list[Input] = []
    edge_of = {id(edge.binding): edge for edge in edges}  # two conditions may call different things alike
    statuses: dict[str, DepStatus] = {}
    resources: dict[str, object] = {}
    for binding in bindings:
        name = binding.parameter
        match binding:
            case DependencyBinding():
                arguments[name], statuses[name] = await _edge(values, edge_of[id(binding)], inputs)
            case ContextBinding():
                call.params, call.redactor = as_wanted(call.params, None), values.redactor
                arguments[name] = Context(call)
            case PartitionBinding(marker=marker):
                partitions = unit.node.definition.partitions
                arguments[name] = call.partition if marker is None else marker.pick(partitions, call.partition)
            case ParamsBinding(wanted=wanted):
                arguments[name] = as_wanted(call.params, wanted)
                inputs.append(Input("param", "*", values.prints("*")))
            case ParamFieldBinding(field=field):
                arguments[name] = copy.deepcopy(getattr(call.params, field))
                inputs.append(Input("param", field, values.prints(field)))
            case ResourceBinding(resource=resource):
                known_as = resource.removeprefix(unit.node.definition.prefix)
                arguments[name] = resources[known_as] = await values.resource(resource, scope)
    call.dep_status, call.resources = _by_asset_too(statuses, unit, bindings), resources
    return Prepared(arguments, tuple(inputs))


def _by_asset_too(statuses: dict[str, DepStatus], unit: Unit, bindings: Sequence[Binding]) -> dict[str, DepStatus]:
    prefix = unit.node.definition.prefix
    edges = [each for each in bindings if isinstance(each, DependencyBinding)]
    by_asset: dict[str, DepStatus] = {each.upstream.removeprefix(prefix): statuses[each.parameter] for each in edges}
    return by_asset | statuses


async def prepare_edges(values: Values, unit: Unit) -> Prepared:
    """Do as `prepare` for a body that takes nothing but values of upstreams."""
    arguments: dict[str, object] = {}
    inputs: list[Input] = []
    for edge in unit.inputs:
        binding = edge.binding
        if edge.keys is None and edge.external is None:
            upstream, settled = values.settled(edge.units[0])
            made = settled.materialization
            if made is not None:
                inputs.append(Input("asset", binding.parameter, made.fingerprint, made.key, made.id))
                arguments[binding.parameter] = await values.load(upstream, settled, binding.wanted)
                continue
        arguments[binding.parameter], _ = await _edge(values, edge, inputs)
    return Prepared(arguments, tuple(inputs))


async def _edge(values: Values, edge: UnitInput, inputs: list[Input]) -> tuple[object, DepStatus]:
    if edge.external is not None:
        current = values.external(edge)
        if current is None:
            inputs.append(Input("asset", edge.binding.parameter, "absent:missing", edge.external))
            return None, "missing"
        inputs.append(Input("asset", edge.binding.parameter, current.fingerprint, edge.external, current.id))
        return await values.load_external(edge, current, edge.binding.wanted), "ok"
    if edge.keys is None:
        return await _one(values, edge, edge.units[0], inputs)
    mapped: dict[object, object] = {}
    status: DepStatus = "ok"
    for key, index in zip(edge.keys, edge.units, strict=True):
        value, found = await _one(values, edge, index, inputs)
        mapped[key] = value
        status = found if found != "ok" else status
    return mapped, status


async def _one(values: Values, edge: UnitInput, index: int, inputs: list[Input]) -> tuple[object, DepStatus]:
    unit, settled = values.settled(index)
    binding, record = edge.binding, settled.materialization
    fingerprint = settled.fingerprint
    inputs.append(Input("asset", binding.parameter, fingerprint, unit.key, None if record is None else record.id))
    if record is not None:
        wanted = None if edge.keys is not None else binding.wanted
        return await values.load(unit, settled, wanted), "ok"
    if settled.state == "skipped":
        skipped = Skipped(asset=unit.node.name, partition=unit.partition, reason=settled.reason or "")
        return (skipped if binding.admits_skipped else None), "skipped"
    if settled.state == "missing":
        return None, "missing"
    error = settled.error
    failed = Failed(
        asset=unit.node.name,
        partition=unit.partition,
        error_type="" if error is None else _type_of(error),
        message="" if error is None else error.message,
    )
    return (failed if binding.admits_failed else None), "failed"


def _type_of(error: FlowstoneError) -> str:
    """Return what a body raised by name, also where only its record is left."""
    cause = error.__cause__
    if cause is None or isinstance(cause, RecordedError):
        return str(error.details.get("error_type", type(error).__name__)).rpartition(".")[2]
    return type(cause).__name__
