"""Scatters that follow another scatter of their run: they begin as soon as it has begun, and end after it.

Such a unit takes no place of the run's concurrency, since its items do not either: so the scatter that it follows never
waits for it. All its other inputs have ended when it begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from typing_extensions import override

from flowstone_async._engine.board import Board, Next, Phase
from flowstone_async._engine.outcome import Settled
from flowstone_async.definition.graph import Node
from flowstone_async.definition.item_source import AssetSource
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.planning.freshness import Facts, Judgement, cache_keyed
from flowstone_async.planning.units import Unit, Units
from flowstone_async.planning.verdicts import Asked, Verdicts
from flowstone_async.types import AssetKey, Materialization

_ANEW = Judgement("stale", "the scatter that it follows is computed anew")


class Begun(NamedTuple):
    """A scatter that goes on.

    Attributes:
        committed: Set once its end is on record, whatever it is.
    """

    place: int
    scatter: str
    committed: asyncio.Event


class AheadBoard(Board):
    """A board on which a unit may go as soon as the scatter that it follows has begun."""

    def __init__(
        self,
        units: Units,
        verdicts: Verdicts,
        current: Mapping[AssetKey, Materialization],
        facts: Callable[[Node], Facts],
        asked: Asked,
        tolerates: frozenset[str],
    ) -> None:
        super().__init__(units, verdicts, current, facts, asked, tolerates)
        self._begun: dict[int, Begun] = {}
        self._sources: dict[int, int | None] = {}

    def has_followers(self, index: int) -> bool:
        """Tell whether any unit can begin with a scatter."""
        return any(self._source(each) == index for each in self.units.dependants[index])

    def scatter_begun(self, index: int, scatter: str) -> Next:
        """Let units that follow a scatter go, unless they wait for something else, too."""
        if index not in self._begun:
            self._begun[index] = Begun(index, scatter, asyncio.Event())
        for waiter in list(self._waiters[index]):
            if self._source(waiter) == index:
                self._follow(waiter, index)
        return self._drain()

    def followed(self, index: int) -> Begun | None:
        """Return the scatter that a unit follows, if that has begun and not ended."""
        source = self._source(index)
        return None if source is None or self.settled[source] is not None else self._begun.get(source)

    def begun(self) -> Sequence[Begun]:
        """Return the scatters that have begun and may be followed."""
        return tuple(self._begun.values())

    def blocked(self, index: int) -> Settled | None:
        """Return how a unit ends because of an input; None if it may go on."""
        unit = self.units.all[index]
        return self._blocking.judge(unit, unit.inputs)

    def _follow(self, index: int, source: int) -> None:
        """Wait for the scatter that a unit follows no longer."""
        unit = self.units.all[index]
        if self._phase[index] is Phase.INPUTS:
            self._leave(index, (source,))
            self._count[index] -= 1
            if not self._count[index]:
                self._agenda.append((index, False))
        elif self._phase[index] is Phase.PROBE and not self._has_to_agree(unit) and not cache_keyed(unit.node):
            # What it was computed from before is not what the scatter gives now.
            self._leave(index, self._resting.pop(index, unit.upstreams))
            self._act(index, _ANEW)

    @override
    def _probe(self, index: int) -> None:
        super()._probe(index)
        begun = self.followed(index)
        if begun is not None and index in self._waiters[begun.place]:
            self._follow(index, begun.place)

    @override
    def _wait(self, index: int, upstreams: tuple[int, ...], demanded: frozenset[int] | set[int]) -> None:
        super()._wait(index, upstreams, demanded)
        begun = self.followed(index)
        if begun is not None and self._phase[index] is Phase.INPUTS and index in self._waiters[begun.place]:
            self._follow(index, begun.place)

    def _source(self, index: int) -> int | None:
        """Return the scatter that a unit follows; None if it follows none, or takes it in some other way, too."""
        if index not in self._sources:
            self._sources[index] = _source_of(self.units.all[index], self.units.all)
        return self._sources[index]


def _source_of(unit: Unit, units: Sequence[Unit]) -> int | None:
    scatter = unit.node.scatter
    if scatter is None or not isinstance(scatter.source.spec, AssetSource):
        return None
    [binding] = scatter.source.bindings
    edge = next((each for each in unit.inputs if each.binding is binding), None)
    if edge is None or edge.keys is not None or edge.external is not None:
        return None
    [source] = edge.units
    others = (each for each in (*unit.inputs, *unit.asked) if each is not edge)
    if not isinstance(units[source].node.definition.kind, ScatterKind) or any(source in o.units for o in others):
        return None
    return source
