"""The plan of a run: for each unit what would be done, and why. Pure, linear in units plus edges."""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from typing_extensions import override

from flowstone_async.definition.code_hash import CodeHash
from flowstone_async.definition.graph import Node
from flowstone_async.planning.freshness import (
    FRESH,
    MISSING,
    Facts,
    Judgement,
    cache_keyed,
    changed_code,
    judge_alone,
    judge_inputs,
    was_skipped,
)
from flowstone_async.planning.units import Unit, Units
from flowstone_async.types import AssetKey, Materialization

Action: TypeAlias = Literal["run", "reuse", "blocked", "unknown"]
Force: TypeAlias = bool | Literal["all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of a run that decide what it computes.

    Attributes:
        force: True computes the targets whatever is stored, `"all"` every unit.
        with_deps: Whether upstreams are computed; otherwise they are taken as they are stored.
        given: Names of assets whose values are given, whatever is stored.
    """

    force: Force = False
    with_deps: bool = True
    given: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is known of each unit before anything runs.

    Attributes:
        judgements: One for each unit, by index.
        needed: 0: not looked at; 1: looked at only if a dependant turns out to run; 2: needed.
        beyond: For units with a condition, by index: the judgement if it holds.
    """

    judgements: tuple[Judgement, ...]
    needed: tuple[int, ...]
    beyond: Mapping[int, Judgement] = field(default_factory=dict[int, Judgement])

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
    forced = targets if asked.force is True else frozenset[int]()
    computed = None if asked.with_deps else targets
    judged: list[Judgement] = []
    beyond: dict[int, Judgement] = {}
    for unit in units.all:
        if unit.node.name in asked.given:
            judged.append(FRESH)
            continue
        if asked.force == "all" or unit.place in forced:
            judged.append(Judgement("stale", "forced"))
        else:
            judged.append(_judge(unit, units, judged, current, facts, computed))
        if unit.node.conditions:
            beyond[unit.place], judged[-1] = judged[-1], Judgement("maybe", _asks(unit))
    if not asked.with_deps:
        return _shallow(units, judged, current)
    needed = _needed(units, judged)
    if _disturb(units, judged, needed, asked):
        needed = _needed(units, judged)
    return Verdicts(tuple(judged), needed, beyond)


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
    pending: Judgement | None = None
    for each in unit.inputs:
        if each.external is not None:
            outer = current.get(each.external)
            settled[each.external] = "absent:missing" if outer is None else outer.fingerprint
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
                elif was_skipped(stored, upstream.key):
                    pending = Judgement("maybe", f"depends on whether {upstream.node.name!r} is skipped again")
    judgement = judge_inputs(stored, settled, unseen)
    return pending if pending is not None and judgement.verdict == "fresh" else judgement


def _depends(upstream: Unit, verdict: Judgement) -> str:
    if verdict.verdict in ("stale", "missing"):
        return f"depends on whether {upstream.node.name!r} changes when computed again ({verdict.reason})"
    return (
        f"depends on {upstream.node.name!r}: {verdict.reason}" if "depends on" not in verdict.reason else verdict.reason
    )


def _needed(units: Units, judged: Sequence[Judgement]) -> tuple[int, ...]:
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
        for index in unit.upstreams:
            probed = judged[index].verdict != "missing" and not unit.node.conditions
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


def _shallow(units: Units, judged: list[Judgement], current: Mapping[AssetKey, Materialization]) -> Verdicts:
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
    return Verdicts(tuple(judged), tuple(needed))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """What a run would do with one asset and partition.

    Attributes:
        action: `run`, `reuse`, `blocked` (a stored value it needs is missing), or `unknown` (beyond a condition, or
            depending on whether an upstream changes).
        reason: Why.
        seconds: Median duration of the last computations, or None without history.
        materialization: The stored value that was judged, or None.
    """

    asset: str
    partition: Any
    action: Action
    reason: str
    seconds: float | None = None
    materialization: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do; nothing has run.

    Attributes:
        entries: In topological order.
        seconds: Estimate of the whole along its longest path under `concurrency`, or None without history.
    """

    pipeline: str
    targets: tuple[str, ...]
    entries: tuple[PlanEntry, ...]
    seconds: float | None = None
    perform: Callable[[Plan], Awaitable[Any]] | None = field(default=None, repr=False, compare=False)

    async def apply(self) -> Any:
        """Run just this plan and return what `run` would.

        Raises:
            PlanOutdated: What it was made from has changed; the error lists what.
        """
        if self.perform is None:
            raise TypeError("this plan was not made by a pipeline or an engine, so that it cannot be applied")
        return await self.perform(self)

    def as_dict(self) -> dict[str, object]:
        """Return the plan as JSON-compatible values; partition keys as text."""
        return {
            "pipeline": self.pipeline,
            "targets": list(self.targets),
            "seconds": self.seconds,
            "entries": [
                {
                    "asset": each.asset,
                    "partition": None if each.partition is None else str(each.partition),
                    "action": each.action,
                    "reason": each.reason,
                    "seconds": each.seconds,
                }
                for each in self.entries
            ],
        }

    @override
    def __str__(self) -> str:
        return "\n".join(_table(self))

    def __getitem__(self, asset: str) -> PlanEntry:
        """Return the first entry of an asset.

        Raises:
            KeyError: The plan does not touch it.
        """
        for entry in self.entries:
            if entry.asset == asset:
                return entry
        raise KeyError(asset)


def _table(plan: Plan) -> Iterator[str]:
    rows = [("asset", "partition", "action", "estimate", "reason")]
    rows += [
        (
            each.asset,
            "" if each.partition is None else str(each.partition),
            each.action,
            "" if each.seconds is None else f"{each.seconds:.2f}s",
            each.reason,
        )
        for each in plan.entries
    ]
    shown = [index for index in range(5) if index != 1 or any(row[1] for row in rows[1:])]
    widths = {index: max(len(row[index]) for row in rows) for index in shown}
    for row in rows:
        yield "  ".join(row[index].ljust(widths[index]) for index in shown).rstrip()
    total = "" if plan.seconds is None else f", about {plan.seconds:.2f}s"
    counts = {
        action: sum(each.action == action for each in plan.entries) for action in ("run", "reuse", "unknown", "blocked")
    }
    yield ", ".join(f"{count} to {_VERBS[action]}" for action, count in counts.items() if count) + total


_VERBS = {"run": "run", "reuse": "reuse", "unknown": "decide later", "blocked": "block"}


def make_plan(
    pipeline: str,
    units: Units,
    verdicts: Verdicts,
    current: Mapping[AssetKey, Materialization],
    asked: Asked,
    durations: Mapping[str, float],
    code: Callable[[Node], CodeHash],
    concurrency: int,
) -> Plan:
    """Turn verdicts into the plan that people read.

    Args:
        pipeline: Name of the pipeline.
        units: The units of the run.
        verdicts: What is known of each.
        current: What exists.
        asked: Options of the run.
        durations: Median seconds by asset.
        code: Hash and place of an asset's code now.
        concurrency: Bodies at once.
    """
    entries: list[PlanEntry] = []
    estimates: dict[int, float] = {}
    for unit in units.all:
        level = verdicts.needed[unit.place]
        if not level:
            continue
        action, reason = _action(unit, units, verdicts, asked)
        stored = current.get(unit.key)
        if action == "reuse" and stored is not None and (changed := changed_code(stored, code(unit.node))) is not None:
            reason = f"{reason}; code changed since in {changed}"
        estimate = durations.get(unit.node.name) if action in ("run", "unknown") else None
        estimates[unit.place] = estimate or 0.0
        entries.append(
            PlanEntry(
                asset=unit.node.name,
                partition=unit.partition,
                action=action,
                reason=reason,
                seconds=estimate,
                materialization=None if stored is None else stored.id,
            )
        )
    targets = tuple(units.all[index].node.name for index in units.targets)
    total = _total(units, estimates, concurrency) if durations else None
    return Plan(pipeline=pipeline, targets=targets, entries=tuple(entries), seconds=total)


def _total(units: Units, estimates: Mapping[int, float], concurrency: int) -> float:
    """Return when the last unit ends if each starts as soon as its upstreams have ended and a body may run."""
    free = [0.0] * min(concurrency, len(estimates))
    ends: dict[int, float] = {}
    for place, seconds in estimates.items():
        ready = max((ends.get(each, 0.0) for each in units.all[place].upstreams), default=0.0)
        if seconds:
            ready = max(ready, heapq.heappop(free)) + seconds
            heapq.heappush(free, ready)
        ends[place] = ready
    return max(ends.values(), default=0.0)


def _action(unit: Unit, units: Units, verdicts: Verdicts, asked: Asked) -> tuple[Action, str]:
    verdict, reason = verdicts.judgements[unit.place]
    if verdict == "fresh":
        return "reuse", reason if asked.with_deps or unit.place in units.targets else "taken as it is stored"
    if not asked.with_deps:
        if unit.place not in units.targets:
            return "blocked", "not stored, and with_deps=False"
        missing = missing_inputs(unit, units, verdicts)
        if missing:
            return "blocked", f"needs {', '.join(map(repr, missing))}, not stored"
    if verdict == "maybe":
        return "unknown", reason
    if verdicts.needed[unit.place] == 1:
        return "unknown", f"{reason}; needed only if a dependant runs"
    return "run", reason


def missing_inputs(unit: Unit, units: Units, verdicts: Verdicts) -> list[str]:
    """Return names of required upstreams that are not stored, for a run that does not compute upstreams."""
    targets = frozenset(units.targets)
    return [
        units.all[index].node.name
        for each in unit.inputs
        if not each.binding.optional
        for index in each.units
        if index not in targets and verdicts.judgements[index].verdict == "missing"
    ]
