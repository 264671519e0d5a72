"""What keeps a unit from running although it is its turn: inputs that failed, were skipped, or are not stored."""

from __future__ import annotations

from collections.abc import Container, Sequence

from flowstone_async._engine.outcome import Settled
from flowstone_async.errors import DependencyFailed, DependencyNotReady, FlowstoneError
from flowstone_async.planning.units import Unit, UnitInput
from flowstone_async.types import AssetKey


class Blocking:
    """Judges units of one run by how their inputs ended.

    Args:
        units: All units of the run.
        settled: How they ended, as far as they did; it is looked at, not copied.
        current: What is stored, for other pipelines' assets.
        tolerates: What an optional input may suffer.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        settled: Sequence[Settled | None],
        current: Container[AssetKey],
        tolerates: frozenset[str],
    ) -> None:
        self._units, self._settled, self._current, self._tolerates = units, settled, current, tolerates

    def judge(self, unit: Unit, edges: Sequence[UnitInput]) -> Settled | None:
        """Return how a unit ends that an input keeps from running; a failed input counts before a skipped one.

        Args:
            unit: The unit.
            edges: Those of its edges that count; what they lead to has ended.
        """
        missing: list[AssetKey] = []
        external: list[AssetKey] = []
        skipped: Settled | None = None
        for each in edges:
            binding = each.binding
            for upstream in each.units:
                settled = self._settled[upstream]
                if settled is None or settled.materialization is not None:
                    continue
                state, above = settled.state, self._units[upstream]
                if state in ("failed", "blocked", "cancelled"):
                    if not (binding.admits_failed or (binding.optional and "failed" in self._tolerates)):
                        return _blocked_by(unit, above, settled.error)
                elif state == "skipped":
                    tolerated = binding.optional and "skipped" in self._tolerates
                    if not (binding.admits_skipped or tolerated) and skipped is None:
                        skipped = Settled("skipped", reason=_skip_reason(above, settled))
                elif not (binding.optional and "missing" in self._tolerates):
                    missing.append(above.key)
            if each.external is not None and each.external not in self._current and not binding.optional:
                external.append(each.external)
        if missing or external:
            return Settled("blocked", error=_not_ready(unit, missing, external))
        return skipped


def _skip_reason(above: Unit, settled: Settled) -> str:
    reason = settled.reason or "skipped"
    return reason if reason.startswith("upstream ") else f"upstream {above.node.name!r} was skipped: {reason}"


def _blocked_by(unit: Unit, above: Unit, error: FlowstoneError | None) -> Settled:
    first = error
    while isinstance(first, DependencyFailed) and isinstance(first.__cause__, FlowstoneError):
        first = first.__cause__
    root = above.node.name if first is None or first.asset is None else first.asset
    partition = above.partition if first is None else first.partition
    where = "" if partition is None else f" [{partition}]"
    failed = DependencyFailed(
        f"asset {unit.node.name!r} could not run because {root!r}{where} failed: {first.message if first else '?'}",
        asset=unit.node.name,
        partition=unit.partition,
        details={"upstream": root, "upstream_partition": None if partition is None else str(partition)},
        hint=f"Mend {root!r} and run again; what is stored already is reused.",
    )
    failed.__cause__ = first
    return Settled("blocked", error=failed)


def _not_ready(unit: Unit, missing: Sequence[AssetKey], external: Sequence[AssetKey]) -> DependencyNotReady:
    own, others = (list(dict.fromkeys(map(str, keys))) for keys in (missing, external))
    every = [*own, *others]
    return DependencyNotReady(
        f"asset {unit.node.name!r} needs {_listed(every)}, which {'is' if len(every) == 1 else 'are'} not stored",
        asset=unit.node.name,
        partition=unit.partition,
        details={"missing": every, "external": others},
        hint=_way_out(unit.key.pipeline, own, others, external),
    )


def _way_out(here: str, own: Sequence[str], others: Sequence[str], external: Sequence[AssetKey]) -> str:
    """Return the hint: `with_deps` runs what the pipeline has, and never what belongs to another one."""
    ways: list[str] = []
    if own:
        which = _listed(own) if others else "it" if len(own) == 1 else "them"
        ways.append(f"Run {which} first, or run with with_deps=True.")
    if others:
        pipelines = dict.fromkeys(each.pipeline.replace("-", "_") for each in external)
        engine = ", ".join([*pipelines, here.replace("-", "_")])
        what = "an asset of another pipeline, which is" if len(others) == 1 else "assets of other pipelines, which are"
        ways.append(
            f"{_listed(others)} {'is' if len(others) == 1 else 'are'} {what} read and never run from here: run "
            f"{'it' if len(others) == 1 else 'them'} there, on the same store: Engine({engine}). "
            f"A pipeline without an engine has a store to itself."
        )
    return " ".join(ways)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
