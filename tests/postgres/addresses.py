"""Addresses of one database."""

from __future__ import annotations

import itertools

_numbers = itertools.count()


def apart(dsn: str) -> str:
    """Return an address of a database that no store of this process shares, as in a process of its own."""
    return f"{dsn}&application_name=process{next(_numbers)}"
