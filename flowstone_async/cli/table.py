"""Columns of text, and times as people say them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns; a column that is empty but for its head, the first row, is left out.

    Args:
        rows: The head, then the others, all of the same length.
    """
    kept = [index for index in range(len(rows[0])) if any(row[index] for row in rows[1:])]
    widths = {index: max(len(row[index]) for row in rows) for index in kept}
    return "\n".join("  ".join(row[index].ljust(widths[index]) for index in kept).rstrip() for row in rows)


def moment(at: datetime | None, now: datetime) -> str:
    """Return an instant with the time since, such as `2025-01-15 09:30:00 UTC (14m ago)`; empty without one."""
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC ({ago(at, now)})"


def ago(at: datetime, now: datetime) -> str:
    """Return the time since an instant, such as `14m ago`."""
    passed = max(int((now - at).total_seconds()), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if passed >= size:
            return f"{passed // size}{unit} ago"
    return f"{passed}s ago"
