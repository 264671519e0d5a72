"""Runs one plan. Knows only ports: the store, I/O managers, resources, the clock.

Read `run.py` first (a run from its first step to its last), then `board.py` (which unit may go next), `attempt.py`
(one call of one body) and `outcome.py` (what it ends in). `session.py` has the verbs.
"""
