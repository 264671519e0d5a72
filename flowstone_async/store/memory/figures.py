"""What is counted in memory for whoever watches; see `Store.figures`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection

from flowstone_async.store.figures import Figures
from flowstone_async.store.gates import GateKind
from flowstone_async.store.memory.memory import Memory


async def count(memory: Memory, pipelines: Collection[str]) -> Figures:
    """Count open gates, and items of scatters that are under way."""
    gates, scatters, names = memory.gates, memory.scatters, tuple(pipelines)
    kinds = Counter[GateKind](each.gate.kind for each in await gates.waiting(names, limit=sys.maxsize))
    with memory.lock:
        running = [run.id for run in memory.active.values() if run.state == "running" and run.created.pipeline in names]
    looked = [await scatters.totals(each.id) for run_id in running for each in await scatters.of_run(run_id)]
    found = [each for each in looked if each is not None and each.state == "running"]
    waiting, succeeded, failed = (
        sum(getattr(each, name) for each in found) for name in ("waiting", "succeeded", "failed")
    )
    total = sum(each.total for each in found)
    return Figures(kinds, total - waiting - succeeded - failed, waiting, succeeded, failed)
