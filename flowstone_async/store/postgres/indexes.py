"""The indexes that the migrations make, compared with those that are there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.migrate import schema_texts
from flowstone_async.store.records import Fault

_INDEX = re.compile(
    r"CREATE( UNIQUE)? INDEX (\w+) ON flowstone\.(\w+) "
    r"\(((?:[^;()]|\((?:[^;()]|\([^;()]*\))*\))*)\)( NULLS NOT DISTINCT)?(\s+WHERE [^;]+)?;"
)
_DROPPED = re.compile(r"DROP (?:INDEX|TABLE) flowstone\.(\w+);")
_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?flowstone\.(\w+) \((.*?)\n\)", re.DOTALL)
_PARTITIONED = re.compile(r"CREATE TABLE flowstone\.(\w+) \([^;]*\) PARTITION BY ")
_KEY = re.compile(r"^\s+(?:(\w+) [^,]*)?PRIMARY KEY(?: \(([^)]*)\))?", re.MULTILINE)


class Index(NamedTuple):
    """An index.

    Attributes:
        condition: What follows its columns, as SQL: what a partial one holds; empty for others.
        primary: Whether it is a table's primary key.
        unique: Whether it lets no two rows be equal.
        partitioned: Whether its table is: nothing can be done to its index while others write.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    condition: str = ""
    primary: bool = False
    unique: bool = False
    partitioned: bool = False

    @property
    def shape(self) -> tuple[object, ...]:
        """What is compared: the server words conditions in its own way, and leaves the collation of expressions out."""
        columns = (each.removeprefix("(").removesuffix(' COLLATE "C")') for each in self.columns)
        return self.table, tuple(columns), "WHERE" in self.condition

    def creation(self) -> str:
        """Return the statement that makes it without locking anybody out, as far as there is one."""
        columns = ", ".join(self.columns)
        if self.primary:
            return f"ALTER TABLE flowstone.{self.table} ADD CONSTRAINT {self.name} PRIMARY KEY ({columns});"
        kind = "UNIQUE INDEX" if self.unique else "INDEX"
        return f"CREATE {kind} {self._way}{self.name} ON flowstone.{self.table} ({columns}){self.condition};"

    def removal(self, table: str) -> str:
        """Return the statement that makes room for it, where another index of a table has its name."""
        if self.primary:
            return f"ALTER TABLE flowstone.{table} DROP CONSTRAINT {self.name};"
        return f"DROP INDEX {self._way}flowstone.{self.name};"

    @property
    def _way(self) -> str:
        return "" if self.partitioned else "CONCURRENTLY "


def expected(texts: Iterable[str]) -> Mapping[str, Index]:
    """Return the indexes that are there after some migrations, by name."""
    found: dict[str, Index] = {}
    partitioned: set[str] = set()
    for text in texts:
        for gone in _DROPPED.findall(text):
            found = {name: each for name, each in found.items() if gone not in (name, each.table)}
        partitioned.update(_PARTITIONED.findall(text))
        for table, body in _TABLE.findall(text):
            for column, columns in _KEY.findall(body):
                name, split = f"{table}_pkey", table in partitioned
                found[name] = Index(name, table, _listed(columns or column), primary=True, partitioned=split)
        for unique, name, table, columns, nulls, condition in _INDEX.findall(text):
            where = nulls + " ".join(["", *condition.split()]) if condition else nulls
            split = table in partitioned
            found[name] = Index(name, table, _listed(columns), where, unique=bool(unique), partitioned=split)
    return found


def _listed(columns: str) -> tuple[str, ...]:
    return tuple(column.strip() for column in re.split(r",(?![^()]*\))", columns))


async def index_faults(connections: Connections) -> tuple[Fault, ...]:
    """Return what is wrong with the indexes of the schema; see `Store.faults`."""
    wanted = expected(schema_texts())
    faults: list[Fault] = []
    present: set[str] = set()
    for name, table, columns, partial, usable in await connections.fetch("indexes"):
        index = wanted.get(name)
        present.add(name)
        if index is None:
            continue
        if (table, tuple(columns), partial) != index.shape:
            is_on = f"index {name} is on {table} ({', '.join(columns)})"
            faults.append(Fault(f"{is_on}, not as it should be", f"{index.removal(table)}\n{index.creation()}"))
        elif not usable:
            problem = f"index {name} of {table} is not valid: making it was broken off"
            faults.append(Fault(problem, f"REINDEX INDEX CONCURRENTLY flowstone.{name};"))
    missing = [index for name, index in wanted.items() if name not in present]
    faults += [Fault(f"index {each.name} of {each.table} is missing", each.creation()) for each in missing]
    return tuple(sorted(faults))
