"""Ids and names that reach SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from uuid import UUID

from flowstone_async.errors import ConfigError

_TABLE = re.compile(r"[A-Za-z0-9_]{1,63}(\.[A-Za-z0-9_]{1,63})?")


def is_id(text: str) -> bool:
    """Tell whether `text` can be an id of ours: a UUID, as text. Nothing is stored under anything else."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def ids(texts: Iterable[str]) -> list[str]:
    """Return those of `texts` that can be ids."""
    return [text for text in texts if is_id(text)]


def quoted(table: str) -> str:
    """Return the name of a table as SQL.

    Raises:
        ConfigError: It is no name of a table.
    """
    if not _TABLE.fullmatch(table):
        raise ConfigError(
            f"{table!r} is no name of a table",
            hint="Use letters, digits and underscores, with at most one dot: `table` or `schema.table`.",
        )
    return ".".join(f'"{part}"' for part in table.split("."))
