"""Which scatter the items of another one are results of, and how they are read."""

from __future__ import annotations

from typing import Any

from flowstone_async._engine.ahead import Begun
from flowstone_async._engine.arguments import Values
from flowstone_async._engine.scatter.batch_results import BatchLabels
from flowstone_async._engine.scatter.batching import BatchItems
from flowstone_async._engine.scatter.gathered import Labels
from flowstone_async._engine.scatter.key_forms import Followed, items_of, key_form
from flowstone_async._engine.scatter.results import Results
from flowstone_async._engine.scatter.upstream import UpstreamResults
from flowstone_async._engine.services import Services
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.planning.units import Unit
from flowstone_async.sources.source import Source


class UpstreamEnded(Exception):
    """The scatter that another one follows has ended without a value."""


async def ended(follows: Begun, values: Values) -> None:
    """Return once the scatter that another one follows is committed.

    Raises:
        UpstreamEnded: It has ended without a value.
    """
    await follows.committed.wait()
    _, settled = values.settled(follows.place)
    if settled.materialization is None:
        raise UpstreamEnded


def upstream_scatter(unit: Unit, follows: Begun | None, values: Values, services: Services) -> str | None:
    """Return the scatter that a unit's items are results of; None where a value was given in its place."""
    if follows is not None:
        return follows.scatter
    scatter = unit.node.scatter
    assert scatter is not None  # noqa: S101 - whoever calls has asked
    [binding] = scatter.source.bindings
    edge = next(each for each in unit.inputs if each.binding is binding)
    made = values.external(edge) if edge.external is not None else values.settled(edge.units[0])[1].materialization
    return None if made is None or made.id in services.given else made.location or made.id


def results_of(above: Followed, scatter: str, services: Services) -> Source[Any]:
    """Return the results of a scatter as a source of items."""
    upstream, nodes = above
    store, kind, names = services.store.scatters, upstream.definition.kind, upstream.definition.scope.names
    assert isinstance(kind, ScatterKind)  # noqa: S101 - for the type checker: only scatters are followed
    form = key_form(upstream, nodes)
    if kind.batch is None:
        labels = Labels(store, scatter, items_of(upstream), kind.key, form)
    else:
        wanted = None if upstream.scatter is None else upstream.scatter.item.wanted
        labels = BatchLabels(store, scatter, BatchItems(wanted, names), kind.key, form)
    return UpstreamResults(
        store,
        scatter,
        results=Results(upstream.value_type, names, kind.results),
        labels=labels,
        clock=services.clock,
        poll=services.settings.poll,
        upstream=f"scatter {upstream.name}",
        batches=kind.batch is not None,
    )
