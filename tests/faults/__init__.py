"""Seeded runs of worker processes, a server and a network that break: `python -m tests.faults --seeds 1-20`."""
