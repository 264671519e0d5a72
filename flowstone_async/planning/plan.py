"""The plan of a run: for each unit what would be done, and why. Pure, linear in units plus edges."""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from typing_extensions import override

from flowstone_async.definition.code_hash import CodeHash
from flowstone_async.definition.graph import Node
from flowstone_async.planning.freshness import changed_code
from flowstone_async.planning.units import Unit, Units
from flowstone_async.planning.verdicts import Asked, Verdicts
from flowstone_async.types import AssetKey, Materialization

Action: TypeAlias = Literal["run", "reuse", "blocked", "unknown"]


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
