"""One module per question, each measuring its own floor in the same run: `python -m benchmarks.NAME --json [--quick]`.

A floor is what the same work costs without the engine. Compare ratios, not absolute times: machines differ and drift.
"""
