"""Where records live: one port, two implementations.

Read `protocol.py` first (what a store owes), then `records.py` (what crosses the port). `memory/` keeps everything in
the process, `postgres/` in a database, and `embedded/` runs a database of our own. Nothing outside the composition
roots names an implementation.
"""
