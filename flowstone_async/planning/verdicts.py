"""What is known of each unit before anything runs, and which units a run needs. Pure, linear in units plus edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flowstone_async.definition.graph import Node
from flowstone_async.planning.freshness import (
    FRESH,
    MISSING,
    Facts,
    Judgement,
    absent_inputs,
    cache_keyed,
    judge_alone,
    judge_inputs,
)
from flowstone_async.planning.units import Unit, Units
from flowstone_async.types import AssetKey, Materialization

Force: TypeAlias = bool | Literal["all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of a run that decide what it computes.

    Attributes:
        force: True computes the targets whatever is stored, `"all"` every unit.
        with_deps: Whether upstreams are computed; otherwise they are taken as they are stored.
        given: Names of assets whose values are given, whatever is stored.
        again: Keys that are computed whatever is stored, with all that depends on them; everything else is taken as it
            is stored, where it is.
    """

    force: Force = False
    with_deps: bool = True
    given: frozenset[str] = frozenset()
    again: frozenset[AssetKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is known of each unit before anything runs.

    Attributes:
        judgements: One for each unit, by index.
        needed: 0: not looked at; 1: looked at only if a dependant turns out to run; 2: needed.
        beyond: For units with a condition, by index: the judgement if it holds.
        forced: Units that are computed whatever is stored.
    """

    judgements: tuple[Judgement, ...]
    needed: tuple[int, ...]
    beyond: Mapping[int, Judgement] = field(default_factory=dict[int, Judgement])
    forced: frozenset[int] = frozenset()

    def stored(self, index: int) -> Judgement:
        """Return the judgement of a unit's stored value, whatever its conditions will say."""
        return self.beyond.get(index, self.judgements[index])


def judge_all(
    units: Units,
    current: Mapping[AssetKey, Materialization],
    facts: Callable[[Node], Facts],
    asked: Asked,
) -> Verdicts:
    """Judge every unit from the roots up, then mark what is needed from the targets down.

    Args:
        units: The units of the run.
        current: What exists, also for external keys.
        facts: The facts by which a node's freshness is judged.
        asked: Options of the run.
    """
    targets = frozenset(units.targets)
    forced = _forced(units, asked)
    computed = None if asked.with_deps else targets
    judged: list[Judgement] = []
    beyond: dict[int, Judgement] = {}
    for unit in units.all:
        if unit.node.name in asked.given:
            judged.append(FRESH)
            continue
        if unit.place in forced:
            judged.append(Judgement("stale", "forced"))
        else:
            judged.append(_judge(unit, units, judged, current, facts, computed))
        if unit.node.conditions:
            beyond[unit.place], judged[-1] = judged[-1], Judgement("maybe", _asks(unit))
    if not asked.with_deps:
        return _shallow(units, judged, current, forced)
    needed = _needed(units, judged, current)
    if _disturb(units, judged, needed, asked):
        needed = _needed(units, judged, current)
    return Verdicts(tuple(judged), needed, beyond, forced)


def _forced(units: Units, asked: Asked) -> frozenset[int]:
    if asked.force == "all":
        return frozenset(range(len(units.all)))
    forced = set(units.targets if asked.force is True else ())
    if asked.again:
        below: set[int] = set()
        for unit in units.all:  # in topological order
            if unit.key in asked.again or not below.isdisjoint(unit.upstreams):
                below.add(unit.place)
        forced |= below
    return frozenset(forced)


def _asks(unit: Unit) -> str:
    return f"condition {', '.join(each.name for each in unit.node.conditions)} is asked when the run reaches it"


def _judge(
    unit: Unit,
    units: Units,
    judged: Sequence[Judgement],
    current: Mapping[AssetKey, Materialization],
    facts: Callable[[Node], Facts],
    computed: frozenset[int] | None,
) -> Judgement:
    """Judge one unit; `computed` are the units that the run may compute, None for all."""
    stored = current.get(unit.key)
    own = judge_alone(unit.node, stored, facts(unit.node))
    if own.verdict != "fresh" or stored is None or unit.node.definition.cache == "exists":
        return own
    if cache_keyed(unit.node):
        return Judgement("maybe", "its cache key is asked when the run reaches it")
    settled: dict[AssetKey, str] = {}
    unseen: list[AssetKey] = []
    absent = absent_inputs(stored)
    pending: Judgement | None = None
    for each in unit.inputs:
        if each.external is not None:
            outer = current.get(each.external)
            if outer is None:  # not there any more, or not yet
                unseen.append(each.external)
            else:
                settled[each.external] = outer.fingerprint
        for index in each.units:
            upstream, verdict = units.all[index], judged[index]
            at_hand = current.get(upstream.key)
            as_it_is = computed is not None and index not in computed
            if at_hand is not None and (verdict.verdict == "fresh" or as_it_is):
                settled[upstream.key] = at_hand.fingerprint
            else:
                unseen.append(upstream.key)
                if as_it_is or pending is not None:
                    continue
                if verdict.verdict in ("stale", "maybe"):
                    pending = Judgement("maybe", _depends(upstream, verdict))
                else:
                    pending = absent.get(upstream.key)
    judgement = judge_inputs(stored, settled, unseen)
    return pending if pending is not None and judgement.verdict == "fresh" else judgement


def _depends(upstream: Unit, verdict: Judgement) -> str:
    if verdict.verdict in ("stale", "missing"):
        return f"depends on whether {upstream.node.name!r} changes when computed again ({verdict.reason})"
    return (
        f"depends on {upstream.node.name!r}: {verdict.reason}" if "depends on" not in verdict.reason else verdict.reason
    )


def _needed(units: Units, judged: Sequence[Judgement], current: Mapping[AssetKey, Materialization]) -> tuple[int, ...]:
    needed = [0] * len(units.all)
    for target in units.targets:
        needed[target] = 2
    for unit in reversed(units.all):
        level = needed[unit.place]
        verdict = judged[unit.place].verdict
        if not level or verdict == "fresh":
            continue
        first = unit.condition_edges or unit.key_edges
        asked = {index for each in first for index in each.units}
        stored = current.get(unit.key)
        again = {} if stored is None or cache_keyed(unit.node) else absent_inputs(stored)
        for index in unit.upstreams:
            looked_at = judged[index].verdict != "missing" or units.all[index].key in again
            probed = looked_at and not unit.node.conditions
            certain = verdict in ("stale", "missing") or probed or index in asked
            needed[index] = max(needed[index], level if certain else 1)
    return tuple(needed)


def _disturb(units: Units, judged: list[Judgement], needed: Sequence[int], asked: Asked) -> bool:
    """Doubt what was judged fresh without an input that has no value, where the run computes that input after all."""
    doubted: set[int] = set()
    for unit in units.all:
        if (
            judged[unit.place].verdict != "fresh"
            or unit.node.definition.cache == "exists"
            or unit.node.name in asked.given
        ):
            continue
        for index in (each for edge in unit.inputs for each in edge.units):
            if index in doubted or (judged[index].verdict == "missing" and needed[index] == 2):  # noqa: PLR2004 - see Verdicts
                judged[unit.place] = Judgement("maybe", _depends(units.all[index], judged[index]))
                doubted.add(unit.place)
                break
    return bool(doubted)


def _shallow(
    units: Units, judged: list[Judgement], current: Mapping[AssetKey, Materialization], forced: frozenset[int]
) -> Verdicts:
    """Take everything but the targets as it is stored."""
    targets = frozenset(units.targets)
    needed = [0] * len(units.all)
    for target in units.targets:
        needed[target] = 2
        for index in units.all[target].upstreams:
            needed[index] = 2
    for unit in units.all:
        if unit.place not in targets:
            judged[unit.place] = FRESH if unit.key in current else MISSING
    return Verdicts(tuple(judged), tuple(needed), forced=forced)
