"""Calling a function for many items inside a body, some at once: `async for result in ctx.map(fn, items)`.

Read `fan.py` first: what users hold, and all that one body has going. `work.py` makes the calls of one loop. Each call
is a step: what is on record of it is the engine's (`durable.py` has the port, `_engine/replay/mapping.py` does it).
"""
