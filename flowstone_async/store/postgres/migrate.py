"""The schema: numbered SQL files, applied once each, in order, under a lock, and remembered by checksum."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple

from flowstone_async.errors import ConfigError
from flowstone_async.store.postgres.connections import Session

# Any number will do that nobody else in the database uses: "flowston" in ASCII.
_LOCK = int.from_bytes(b"flowston")
_FILE = re.compile(r"(\d{4})_(\w+)\.sql")

# A migration may rewrite a large table, or wait for another process to do so.
_PATIENCE = 3600.0

_START = """
CREATE SCHEMA IF NOT EXISTS flowstone;
CREATE TABLE IF NOT EXISTS flowstone.migration (
    number integer PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""


class Migration(NamedTuple):
    """One numbered file."""

    number: int
    name: str
    text: str

    @property
    def full_name(self) -> str:
        """Its number and name, as its file is called."""
        return f"{self.number:04d}_{self.name}"

    @property
    def sha256(self) -> str:
        """The checksum of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> tuple[Migration, ...]:
    """Return the library's migrations, in order."""
    found = [
        Migration(int(match[1]), match[2], file.read_text(encoding="utf-8"))
        for file in files("flowstone_async.store.postgres").joinpath("migrations").iterdir()
        if (match := _FILE.fullmatch(file.name))
    ]
    return tuple(sorted(found))


def schema_texts() -> tuple[str, ...]:
    """Return all that makes the schema, in order."""
    return _START, *(one.text for one in migrations())


async def migrate(session: Session, known: Sequence[Migration] | None = None) -> tuple[str, ...]:
    """Bring the schema up to date, from any number of processes at once; each file in a transaction of its own.

    Args:
        session: A direct connection.
        known: The migrations there are; by default the library's.

    Returns:
        The names of those that were applied.

    Raises:
        ConfigError: The schema is newer than the library, or was made from another text.
    """
    known = migrations() if known is None else known
    done: list[str] = []
    while _pending(await _applied(session), known):
        # Only now: an engine that merely looks must not wait that long on a connection that hangs.
        session.patience = _PATIENCE
        async with session.transaction():
            await session.fetch_text("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await session.execute(_START)
            waiting = _pending(await _applied(session), known)
            if waiting:
                await session.execute(waiting[0].text)
                await session.fetch_text(
                    "INSERT INTO flowstone.migration (number, name, sha256) VALUES ($1, $2, $3)",
                    waiting[0].number,
                    waiting[0].name,
                    waiting[0].sha256,
                )
                done.append(waiting[0].full_name)
    return tuple(done)


async def require_current(session: Session, known: Sequence[Migration] | None = None) -> tuple[str, ...]:
    """Refuse a schema that is not up to date.

    Returns:
        What was applied: nothing.

    Raises:
        ConfigError: It is older or newer than the library, or was made from another text.
    """
    known = migrations() if known is None else known
    waiting = _pending(await _applied(session), known)
    if waiting:
        raise ConfigError(
            f"the schema flowstone lacks {len(waiting)} of {len(known)} migrations, and migrate=False",
            hint="Run `flowstone db migrate`, or open the store with migrate=True.",
            details={"missing": [one.full_name for one in waiting]},
        )
    return ()


async def _applied(session: Session) -> Mapping[int, str]:
    there = await session.fetch_text("SELECT to_regclass('flowstone.migration') IS NOT NULL")
    if not there[0][0]:
        return {}
    rows = await session.fetch_text("SELECT number, sha256 FROM flowstone.migration")
    return {row[0]: row[1] for row in rows}


def _pending(applied: Mapping[int, str], known: Sequence[Migration]) -> list[Migration]:
    newer = sorted(applied.keys() - {one.number for one in known})
    if newer:
        raise ConfigError(
            f"the schema flowstone is newer than this library: it has migration {newer[-1]}",
            hint="Upgrade flowstone_async, or use another database.",
            details={"unknown": newer},
        )
    for one in known:
        if applied.get(one.number, one.sha256) != one.sha256:
            raise ConfigError(
                f"migration {one.full_name} was applied from another text than this library's",
                hint="A released migration never changes: restore the library's file, or use another database.",
                details={"applied": applied[one.number], "known": one.sha256},
            )
    return [one for one in known if one.number not in applied]
