"""The store that lives in this process's memory: the durable one minus durability.

One lock guards everything, is held for microseconds and never across an await, so that a store is tied to no event
loop and may be used from several threads at once. Read `store.py` first: the port. `step.py` is the hot path, one
`Advance`; `key.py`, `run.py`, `log.py` and `values.py` are the nouns it works on; `ownership.py` has
leases, orphans and cancellation; `lineage.py` invalidation and renaming.
"""

from __future__ import annotations

from flowstone_async.store.memory.store import MemoryStore

__all__ = ["MemoryStore"]
