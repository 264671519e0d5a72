"""What is left of deleted scatters: deleted some at a time, each time behind what is deleted already.

A scatter that is deleted goes from its table to a list, `scatter_remains`; `scatter_trim` lists what only deleted ones
had read of chains that are still there. Whoever deletes and whoever prunes works both off, in statements of a bounded
size, each of which keeps with the list how far it came: it may be the last one of whoever sent it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Final, Literal, NamedTuple
from uuid import UUID

from flowstone_async.store.postgres.connections import Connections, Session
from flowstone_async.store.postgres.instants import Instants

SHARE: Final = 20_000
"""Rows of a table that a statement deletes at most, where they are small."""
LARGE: Final = 100
"""Rows of a table that a statement deletes at most, where each may be as large as a page or a flush."""
LISTED: Final = 100
"""Parts of scatters that a statement works at."""

_PART = re.compile(r"^-- part: (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)
_PARAMETER = re.compile(r"(?<!:):([a-z]\w*)")


class Table(NamedTuple):
    """A table, and what of it is deleted for one part of what is listed.

    Attributes:
        of: The part.
        table: Its name.
        key: The column in whose order it is read; no row comes to be before one that was deleted.
        large: Whether a row may be as large as a page or a flush.
        type: Of the key.
        least: The key to begin with.
        also: Further columns of the list.
        only: Which rows are deleted, if not all.
    """

    of: str
    table: str
    key: str
    large: bool = False
    type: str = "bigint"
    least: str = "0"
    also: str = ""
    only: str = ""

    def write(self, text: str) -> str:
        """Write a part of the statement for this table."""
        greatest = f"'{UUID(int=2**128 - 1)}'" if self.type == "uuid" else str(2**63 - 1)
        rows = ":large" if self.large else ":rows"
        return text.format(**self._asdict(), rows=rows, greatest=f"{greatest}::{self.type}")


class Listing(NamedTuple):
    """A list of what is left.

    Attributes:
        table: Where it is kept.
        part: What tells apart the parts of a scatter that are listed.
        tables: What they have rows in.
    """

    table: str
    part: str
    tables: tuple[Table, ...]


class Statement(NamedTuple):
    """A statement, and the names of its parameters in their order."""

    text: str
    parameters: tuple[str, ...]


_NO_HASH = f"'{UUID(int=0)}'::uuid"
REMAINS: Final = Listing(
    "scatter_remains",
    "r.part",
    (
        Table("run", "scatter_chunk", "first"),
        Table("run", "scatter_failure", "item_no"),
        Table("run", "scatter_wait", "first"),
        Table("results", "scatter_block", "no", large=True),
        Table("results", "scatter_result", "no"),
        Table("results", "scatter_note", "no"),
        Table("read", "scatter_page", "no", large=True),
        Table("read", "scatter_key", "hash", type="uuid", least=_NO_HASH),
    ),
)
TRIMS: Final = Listing(
    "scatter_trim",
    "'trim'",
    (
        Table("trim", "scatter_page", "no", large=True, least="l.pages"),
        Table(
            "trim", "scatter_key", "hash", type="uuid", least=_NO_HASH, also=", l.read", only=" AND t.item_no >= s.read"
        ),
    ),
)


@cache
def statement(listing: Listing, which: Literal["all", "own"]) -> Statement:
    """Return the statement that deletes some of what is on a list: of `all` from some scatter on, or of one's `own`."""
    text = files("flowstone_async.store.postgres").joinpath("queries/remains.sql").read_text(encoding="utf-8")
    _, *found = _PART.split(text)
    parts = {name: _COMMENT.sub("", text).strip() for name, text in zip(found[::2], found[1::2], strict=True)}
    each = " UNION ALL ".join(table.write(parts["of"]) for table in listing.tables)
    listed, answer = (
        parts[name].format(list=listing.table, part=listing.part, each=each) for name in (which, "answer")
    )
    text = ", ".join([f"WITH {listed}", *(table.write(parts["table"]) for table in listing.tables), answer])
    parameters = tuple(dict.fromkeys(_PARAMETER.findall(text)))
    numbers = {name: f"${number}" for number, name in enumerate(parameters, 1)}
    return Statement(_PARAMETER.sub(lambda match: numbers[match[1]], text), parameters)


class Remains:
    """Deletes what is left of deleted scatters.

    Args:
        connections: To the server.
        instants: The store's clock.
    """

    def __init__(self, connections: Connections, instants: Instants) -> None:
        self._connections = connections
        self._instants = instants

    def now(self) -> datetime | None:
        """Return the instant to give to statements."""
        return self._instants.given()

    async def begin(self, session: Session, listing: Listing, scatters: Collection[object]) -> bool:
        """Delete some of what was just listed, in the transaction of `session`, and tell whether more may be left."""
        text, given = self._asked(statement(listing, "own"), scatters=scatters)
        rows = await session.fetch_text(text, *given)
        return len(rows) >= LISTED or any(row["more"] for row in rows)

    async def finish(self, listing: Listing, scatters: Collection[object]) -> None:
        """Delete what is left of some scatters; what others are at is left to them."""
        text, given = self._asked(statement(listing, "own"), scatters=scatters)
        while await self._connections.fetch_text(text, *given):
            pass

    async def sweep(self, most: int) -> int:
        """Delete what is left of all of them, with `most` statements; what others are at is left to them.

        Returns:
            How many statements found something; if as many as it might send, there may be more.
        """
        sent = 0
        [listed] = await self._connections.fetch("remains_listed")
        for listing, any_listed in zip((TRIMS, REMAINS), listed, strict=True):
            first: object = UUID(int=0)
            while any_listed and sent < most:
                text, given = self._asked(statement(listing, "all"), first=first)
                rows = await self._connections.fetch_text(text, *given)
                if not rows:
                    break
                sent += 1
                first = next((row["scatter"] for row in rows if row["more"]), rows[-1]["scatter"])
        return sent

    def _asked(self, sent: Statement, **given: object) -> tuple[str, Sequence[object]]:
        given |= {"most": LISTED, "rows": SHARE, "large": LARGE, "now": self.now()}
        return sent.text, [given[name] for name in sent.parameters]
