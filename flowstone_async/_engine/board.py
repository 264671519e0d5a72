"""Which unit of a run may go next. Pure bookkeeping: no I/O, no user code, linear in edges.

A unit is *opened* when somebody needs it. An opened unit whose freshness depends on upstreams waits for those
(`probe`), is judged, and is reused or *demanded*: then it waits for all its upstreams (`inputs`), opening those that
nobody needed before, and is ready to run. A unit without value that only a perhaps-fresh dependant would need stays
`parked` until that dependant turns out to run, unless the dependant was computed without it: then it is asked again. A
unit that is fresh as far as is known *rests* while such an input of its own may yet be computed for somebody else, so
that no run mixes values from before and after a change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from flowstone_async._engine.blocking import Blocking
from flowstone_async._engine.outcome import Settled
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
from flowstone_async.planning.units import Unit, UnitInput, Units
from flowstone_async.planning.verdicts import Asked, Verdicts
from flowstone_async.types import AssetKey, Materialization


class Phase(Enum):
    """Where a unit stands."""

    PARKED = "parked"
    PROBE = "probe"
    INPUTS = "inputs"
    BUSY = "busy"
    SETTLED = "settled"


class Next(NamedTuple):
    """What follows from the last change: units to ask (conditions, cache keys), to run, and newly settled."""

    ask: list[int]
    run: list[int]
    settled: list[int]


class Board:
    """The units of one run and where each stands."""

    def __init__(
        self,
        units: Units,
        verdicts: Verdicts,
        current: Mapping[AssetKey, Materialization],
        facts: Callable[[Node], Facts],
        asked: Asked,
        tolerates: frozenset[str],
    ) -> None:
        self.units = units
        self.current = dict(current)
        self.settled: list[Settled | None] = [None] * len(units.all)
        self.judgements = list(verdicts.judgements)
        self.active = 0
        self._verdicts, self._facts, self._asked = verdicts, facts, asked
        self._targets = frozenset(units.targets)
        self._blocking = Blocking(units.all, self.settled, self.current, tolerates)
        size = len(units.all)
        self._phase = [Phase.PARKED] * size
        self._count = [0] * size
        self._waiters: list[list[int]] = [[] for _ in range(size)]
        self._demanded = [False] * size
        self._certain: set[int] = set()
        self._resting: dict[int, tuple[int, ...]] = {}
        self._agreed: set[int] = set()
        self._keys: dict[int, str] = {}
        self._agenda: deque[tuple[int, bool]] = deque()
        self._next = Next([], [], [])

    # -- changes ------------------------------------------------------------------------------------------------

    def begin(self, history: Mapping[int, Settled]) -> Next:
        """Open what is needed.

        Args:
            history: Units that ended already, in an earlier life of the run.
        """
        for index, settled in history.items():
            self._settle(index, settled, note=False)
        for unit in self.units.all if not self._asked.with_deps else ():
            awaited = self._phase[unit.place] is Phase.PARKED and self._verdicts.needed[unit.place]
            if awaited and unit.place not in self._targets:
                self._take_stored(unit)
        for index in sorted(self._targets):
            self._demanded[index] = True
            self._open(index)
        return self._drain()

    def settle(self, index: int, settled: Settled, *, note: bool = False) -> Next:
        """Record how a unit that was given out ended; with `note` it is among `Next.settled`."""
        self.active -= 1
        self._settle(index, settled, note=note)
        return self._drain()

    def agree(self, index: int) -> Next:
        """The conditions of a unit that was given out to be asked hold: go on with its freshness."""
        self.active -= 1
        self._agreed.add(index)
        self._phase[index] = Phase.PROBE
        judgement = self._verdicts.stored(index)
        match judgement.verdict:
            case "maybe":
                self._probe(index)
            case "fresh":
                self._judge(index)
            case _:
                self._act(index, judgement)
        return self._drain()

    def answered(self, index: int, key: str) -> Next:
        """The cache key of a unit that was given out to be asked is known: reuse it or run it."""
        self.active -= 1
        self._keys[index] = key
        if index in self._certain:
            self._ready(index)
        else:
            self._act(index, self._judge_key(index))
        return self._drain()

    def judge_again(self, index: int, current: Materialization | None) -> Judgement:
        """Judge a ready unit against what another run has stored meanwhile; nothing changes on the board."""
        unit = self.units.all[index]
        if current is None:
            self.current.pop(unit.key, None)
        else:
            self.current[unit.key] = current
        if index in self._verdicts.forced:
            return Judgement("stale", "forced")
        own = judge_alone(unit.node, current, self._facts(unit.node))
        if own.verdict != "fresh" or current is None or unit.node.definition.cache == "exists":
            return own
        return self._judge_key(index) if cache_keyed(unit.node) else judge_inputs(current, *self._seen(unit))

    def has_agreed(self, index: int) -> bool:
        """Tell whether a unit's conditions hold in this run."""
        return index in self._agreed

    def was_opened(self, index: int) -> bool:
        """Tell whether the run has looked at a unit."""
        return self._phase[index] is not Phase.PARKED

    def is_settled(self, index: int) -> bool:
        """Tell whether a unit has ended in this run."""
        return self._phase[index] is Phase.SETTLED

    def is_open(self, index: int) -> bool:
        """Tell whether a unit is needed and has not ended; a target is from the start."""
        if self._phase[index] is Phase.PARKED:
            return index in self._targets
        return self._phase[index] is not Phase.SETTLED

    def waits_for_inputs(self, index: int) -> bool:
        """Tell whether a unit will run once its inputs are there."""
        return self._phase[index] is Phase.INPUTS

    # -- opening ------------------------------------------------------------------------------------------------

    def _open(self, index: int) -> None:
        """Somebody needs this unit: wait for what its judgement depends on."""
        if self._phase[index] is not Phase.PARKED:
            return
        verdict = self.judgements[index].verdict
        if verdict == "maybe":
            self._phase[index] = Phase.PROBE
            self._probe(index)
        elif verdict == "fresh":
            self._reuse(index)
        else:
            self._demand(index)

    def _probe(self, index: int) -> None:
        """Wait for what a unit's conditions take, or, once they hold, for what its freshness depends on."""
        unit = self.units.all[index]
        if self._has_to_agree(unit):
            asked = _units_of(unit.condition_edges)
            self._wait(index, tuple(asked), asked)
            return
        stored, wanted = self.current.get(unit.key), _units_of(unit.key_edges)
        if stored is not None and not cache_keyed(unit.node):
            again = absent_inputs(stored)
            wanted.update(u for u in unit.upstreams if self.units.all[u].key in again)
        known = (u for u in unit.upstreams if u in wanted or self.judgements[u].verdict != "missing")
        self._wait(index, tuple(known), wanted)

    def _has_to_agree(self, unit: Unit) -> bool:
        return bool(unit.node.conditions) and unit.place not in self._agreed

    def _demand(self, index: int) -> None:
        """This unit will run unless an input keeps it from that: wait for all of them."""
        self._phase[index] = Phase.INPUTS
        self._certain.add(index)
        upstreams = self.units.all[index].upstreams
        if not self._asked.with_deps:
            upstreams = tuple(each for each in upstreams if each in self._targets)
        self._wait(index, upstreams, frozenset(upstreams))

    def _wait(self, index: int, upstreams: tuple[int, ...], demanded: frozenset[int] | set[int]) -> None:
        count = 0
        for upstream in upstreams:
            if upstream in demanded:
                self._demanded[upstream] = True
            if self._phase[upstream] is not Phase.SETTLED:
                self._waiters[upstream].append(index)
                count += 1
                if self._phase[upstream] is Phase.PARKED:
                    self._agenda.append((upstream, True))
        self._count[index] = count
        if not count:
            self._agenda.append((index, False))

    def _drain(self) -> Next:
        self._work_off()
        while self._resting and not (self.active or self._next.ask or self._next.run):
            self._stir()
            self._work_off()
        following, self._next = self._next, Next([], [], [])
        self.active += len(following.ask) + len(following.run)
        return following

    def _work_off(self) -> None:
        agenda = self._agenda
        while agenda:
            index, opening = agenda.popleft()
            if opening:
                self._open(index)
            elif self._phase[index] is Phase.PROBE and not self._count[index]:
                self._judge(index)
            elif self._phase[index] is Phase.INPUTS and not self._count[index]:
                self._ready(index)

    # -- judging ------------------------------------------------------------------------------------------------

    def _judge(self, index: int) -> None:
        unit = self.units.all[index]
        self._leave(index, self._resting.pop(index, ()))
        if self._has_to_agree(unit):
            self._ask(index)
            return
        judgement = self.judge_again(index, self.current.get(unit.key))
        if judgement.verdict == "maybe":
            self._ask(index)
        else:
            self._act(index, judgement)

    def _ask(self, index: int) -> None:
        """Give a unit out to be asked, unless what its functions take keeps it from that."""
        unit = self.units.all[index]
        blocked = self._blocking.judge(unit, unit.condition_edges if self._has_to_agree(unit) else unit.key_edges)
        if blocked is None:
            self._give_out(index, self._next.ask)
        else:
            self._settle(index, blocked, note=True)

    def _judge_key(self, index: int) -> Judgement:
        """Judge a unit by its cache key, which stands for all its inputs."""
        current, key = self.current.get(self.units.all[index].key), self._keys.get(index)
        if current is None:
            return MISSING
        if key is None:
            return Judgement("maybe", "its cache key is not known yet")
        recorded = next((each.fingerprint for each in current.inputs if each.kind == "key"), None)
        return FRESH if recorded == key else Judgement("stale", "its cache key changed")

    def _act(self, index: int, judgement: Judgement) -> None:
        self.judgements[index] = judgement
        if judgement.verdict == "fresh":
            self._reuse(index)
        elif judgement.verdict == "missing" and not self._demanded[index]:
            self._phase[index] = Phase.PARKED
            self._release(index)
        else:
            self._demand(index)

    def _reuse(self, index: int) -> None:
        """Take a stored value as it is, unless an input that it was computed from may be computed in this run yet."""
        uncertain = self._uncertain_inputs(index)
        if uncertain:
            self._phase[index] = Phase.PROBE
            self._resting[index] = uncertain
            for upstream in uncertain:
                self._waiters[upstream].append(index)
            return
        reason = self.judgements[index].reason
        self._settle(index, Settled("cached", self.current[self.units.all[index].key], reason=reason), note=True)

    def _uncertain_inputs(self, index: int) -> tuple[int, ...]:
        unit = self.units.all[index]
        if unit.node.definition.cache == "exists" or cache_keyed(unit.node) or unit.node.name in self._asked.given:
            return ()
        unsettled = {u: None for each in unit.inputs for u in each.units if self.settled[u] is None}
        return tuple(each for each in unsettled if self._open_to(each, index))

    def _open_to(self, upstream: int, index: int) -> bool:
        """Tell whether anybody else may yet have an unsettled upstream computed."""
        if upstream in self._targets or self._phase[upstream] is not Phase.PARKED:
            return True
        others = (each for each in self.units.dependants[upstream] if each != index)
        return self._asked.with_deps and any(self.settled[each] is None for each in others)

    def _stir(self) -> None:
        """Nothing goes on any more: run what is stale by what is known; if that is nothing, what rests is fresh."""
        probing = [i for i, phase in enumerate(self._phase) if phase is Phase.PROBE and i not in self._resting]
        stale = [(i, judged) for i in probing if (judged := self._judged_early(i)).verdict == "stale"]
        for index, judgement in stale:
            self._leave(index, self.units.all[index].upstreams)
            self._act(index, judgement)
        if not stale:
            for index in sorted(self._resting):
                self._leave(index, self._resting.pop(index))
                current = self.current[self.units.all[index].key]
                self._settle(index, Settled("cached", current, reason=self.judgements[index].reason), note=True)

    def _judged_early(self, index: int) -> Judgement:
        unit = self.units.all[index]
        if self._has_to_agree(unit):
            return Judgement("maybe", "its conditions are not asked yet")
        return self.judge_again(index, self.current.get(unit.key))

    def _leave(self, index: int, upstreams: tuple[int, ...]) -> None:
        """Wait for upstreams no longer."""
        for upstream in upstreams:
            if index in self._waiters[upstream]:
                self._waiters[upstream].remove(index)

    def _seen(self, unit: Unit) -> tuple[dict[AssetKey, str], list[AssetKey]]:
        seen, unseen = dict[AssetKey, str](), list[AssetKey]()
        for each in unit.inputs:
            if each.external is not None and (outer := self.current.get(each.external)) is not None:
                seen[each.external] = outer.fingerprint
            elif each.external is not None:
                unseen.append(each.external)
            for upstream in each.units:
                settled, key = self.settled[upstream], self.units.all[upstream].key
                if settled is None or settled.state == "missing":
                    unseen.append(key)
                else:
                    seen[key] = settled.fingerprint
        return seen, unseen

    # -- settling -----------------------------------------------------------------------------------------------

    def _ready(self, index: int) -> None:
        """All inputs are final: run, or end because of one of them."""
        unit = self.units.all[index]
        if self._has_to_agree(unit):
            self._ask(index)
            return
        blocked = self._blocking.judge(unit, unit.inputs)
        if blocked is not None:
            self._settle(index, blocked, note=True)
        elif cache_keyed(unit.node) and index not in self._keys:
            self._ask(index)
        else:
            self._give_out(index, self._next.run)

    def _give_out(self, index: int, to: list[int]) -> None:
        self._phase[index] = Phase.BUSY
        to.append(index)

    def _settle(self, index: int, settled: Settled, *, note: bool) -> None:
        self._phase[index] = Phase.SETTLED
        self.settled[index] = settled
        if settled.materialization is not None:
            self.current[self.units.all[index].key] = settled.materialization
        if note:
            self._next.settled.append(index)
        self._release(index)

    def _release(self, index: int) -> None:
        waiters, self._waiters[index] = self._waiters[index], []
        for waiter in waiters:
            if waiter not in self._resting:
                self._count[waiter] -= 1
            if waiter in self._resting or not self._count[waiter]:
                self._agenda.append((waiter, False))

    def _take_stored(self, unit: Unit) -> None:
        current = self.current.get(unit.key)
        settled = Settled("missing") if current is None else Settled("cached", current, reason="taken as it is stored")
        self._settle(unit.place, settled, note=False)


def _units_of(edges: Sequence[UnitInput]) -> set[int]:
    return {index for each in edges for index in each.units}
