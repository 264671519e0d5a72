"""I/O managers: where values live and how they are encoded.

Read `base.py` first: the protocol, and what a manager owes. `codec.py` turns values into bytes and back as their
declared type; `memory.py`, `postgres.py` and `files.py` are the managers.
"""

from __future__ import annotations

from flowstone_async.io.base import IOManager, Stored, ValueRef
from flowstone_async.io.files import Files
from flowstone_async.io.memory import Memory
from flowstone_async.io.postgres import Postgres

__all__ = ["Files", "IOManager", "Memory", "Postgres", "Stored", "ValueRef"]
