"""Keyset paging: the statements, and the place between two rows, also in the middle of rows with equal keys.

A page never ends between rows with equal keys, as long as those fit into one: it ends before them. Where more rows than
a page have equal keys, they are read in the order of a hash of their whole contents, which tells all rows apart but
those that are the same in every column; of these it is counted how many were read. Whether keys are equal is for the
server to say, which knows collations, NaN and blanks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from flowstone_async.errors import ConfigError
from flowstone_async.sources.plain import pack, unpack
from flowstone_async.sources.sql import quoted

RANK = "flowstone_rank"
DIGEST = "flowstone_digest"
TIE_PAGES = 5
"""Pages of rows with equal keys that are read at once: each statement computes the hash of all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """A place among rows with equal keys.

    Attributes:
        key: Their key.
        digest: Hash of the last row that was read; None before the first.
        same: How many rows with that hash were read.
    """

    key: tuple[object, ...]
    digest: bytes | None = None
    same: int = 0

    def behind(self, digests: Sequence[bytes]) -> Tie:
        """Return the place behind rows that were read from here, in order."""
        last = digests[-1]
        same = sum(1 for each in reversed(digests) if each == last)
        return Tie(key=self.key, digest=last, same=same + self.same if last == self.digest else same)


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """A place between two rows.

    Attributes:
        after: Key of the row before it; None at the start.
        tie: The place among rows with equal keys, or None between such groups.
    """

    after: tuple[object, ...] | None = None
    tie: Tie | None = None

    def stored(self, columns: Sequence[str], *, descending: bool) -> dict[str, object]:
        """Return the place as JSON-compatible values.

        Args:
            columns: The columns of the key.
            descending: Whether the greatest come first.

        Raises:
            ConfigError: A key holds a value that cannot be stored.
        """
        order: dict[str, object] = {"by": [*columns], "descending": descending}
        what = f"the cursor column {' or '.join(columns)}"
        if self.tie is None:
            return {**order, "after": pack(self.after, what=what)}
        digest = pack(self.tie.digest, what=what)
        return {**order, "key": pack(self.tie.key, what=what), "digest": digest, "same": self.tie.same}

    @classmethod
    def restored(cls, stored: Mapping[str, Any], columns: Sequence[str], *, descending: bool) -> Border:
        """Return the place that `stored` described.

        Raises:
            ConfigError: It is one in another order.
        """
        if (stored.get("by"), stored.get("descending")) != ([*columns], descending):
            by = ", ".join(map(str, stored.get("by", ())))
            raise ConfigError(
                f"reading began in order of {by or 'something else'}, and cannot continue by {', '.join(columns)}",
                hint="Give cursor= and descending= as they were, or run it anew.",
            )
        if "after" in stored:
            return cls(after=unpack(stored["after"]))
        return cls(tie=Tie(key=unpack(stored["key"]), digest=unpack(stored["digest"]), same=stored["same"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyset:
    """The statements that read a query by keyset.

    Attributes:
        query: The query.
        arguments: What it takes.
        columns: Columns of its result that order it.
        descending: Whether the greatest keys come first.
    """

    query: str
    arguments: tuple[object, ...]
    columns: tuple[str, ...]
    descending: bool

    def nulls(self) -> str:
        """Return the statement that tells of each column, in one row, whether it is NULL; no row if none is."""
        are = [f"flowstone_source.{quoted(column)} IS NULL" for column in self.columns]
        return f"SELECT {', '.join(are)} FROM {self._source} WHERE {' OR '.join(are)} LIMIT 1"

    def page(self, after: tuple[object, ...] | None, count: int) -> tuple[str, list[object]]:
        """Return the statement for the first `count` rows behind a key, with its arguments.

        Its last column is equal for rows with equal keys, and greater for later ones.
        """
        values = [*self.arguments, *(after or ()), count]
        behind = "" if after is None else f"WHERE ({self._keys('flowstone_source')}) {self._then} ({self._given()})"
        order, again = self._order("flowstone_source"), self._order("flowstone_page")
        text = f"""
            SELECT flowstone_page.*, dense_rank() OVER (ORDER BY {again}) AS {RANK}
            FROM (
                SELECT flowstone_source.* FROM {self._source} {behind} ORDER BY {order} LIMIT ${len(values)}
            ) AS flowstone_page
            ORDER BY {RANK}
        """
        return text, values

    def tied(self, tie: Tie, count: int) -> tuple[str, list[object]]:
        """Return the statement for the next `count` rows with a key, with its arguments.

        Its last column is the hash.
        """
        values = [*self.arguments, *tie.key, count, tie.same]
        limits = f"LIMIT ${len(values) - 1} OFFSET ${len(values)}"
        digest = "sha256(convert_to(flowstone_source::text, 'UTF8'))"
        behind = ""
        if tie.digest is not None:
            values.append(tie.digest)
            behind = f"AND {digest} >= ${len(values)}"
        text = f"""
            SELECT flowstone_source.*, {digest} AS {DIGEST} FROM {self._source}
            WHERE ({self._keys("flowstone_source")}) = ({self._given()}) {behind}
            ORDER BY {DIGEST} {limits}
        """
        return text, values

    @property
    def _source(self) -> str:
        return f"({self.query}\n) AS flowstone_source"  # on a line of its own: a comment may end the query

    @property
    def _then(self) -> str:
        return "<" if self.descending else ">"

    def _keys(self, table: str) -> str:
        return ", ".join(f"{table}.{quoted(column)}" for column in self.columns)

    def _order(self, table: str) -> str:
        way = "DESC" if self.descending else "ASC"
        return ", ".join(f"{table}.{quoted(column)} {way}" for column in self.columns)

    def _given(self) -> str:
        first = len(self.arguments) + 1
        return ", ".join(f"${number}" for number in range(first, first + len(self.columns)))


def border_at(ranks: Sequence[int], size: int) -> int:
    """Return how many of the rows make a page of at most `size` that splits no rows with equal keys; 0 if none do.

    Args:
        ranks: Rank of each row, equal for equal keys; one row more than a page tells what comes behind it.
        size: Rows in a page.
    """
    if len(ranks) <= size:
        return len(ranks)
    border = size
    while border and ranks[border - 1] == ranks[size]:
        border -= 1
    return border


def as_key(value: object) -> tuple[object, ...] | None:
    """Return what `start_after=` was given as a key; None if nothing was."""
    if value is None:
        return None
    return tuple(cast("Sequence[object]", value)) if isinstance(value, list | tuple) else (value,)
