"""What would run and why, computed by pure code before anything runs.

From a graph, targets and what already exists to a frozen `Plan`. Read `units.py` (what a run is about: assets times
partitions), then `freshness.py` (one stored value against its inputs), then `verdicts.py` (all units, and which of them
are needed), then `plan.py`.
"""
