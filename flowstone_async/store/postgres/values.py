"""Values that Postgres keeps: payloads committed with their record, streams in chunks, tables of the users' own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from typing_extensions import override

from flowstone_async.errors import ConfigError
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.identifiers import ids, is_id, quoted
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.protocol import Values
from flowstone_async.types import AssetKey

_CHUNKS_AT_ONCE = 8
_SHAPE = {
    "pipeline": "text",
    "asset": "text",
    "partition": "text",
    "materialization": "uuid",
    "value": "bytea",
    "stored_at": "timestamp with time zone",
}

_CREATE = """
CREATE TABLE IF NOT EXISTS {table} (
    pipeline text NOT NULL,
    asset text NOT NULL,
    partition text NOT NULL,
    materialization uuid NOT NULL,
    value bytea NOT NULL,
    stored_at timestamptz NOT NULL,
    PRIMARY KEY (pipeline, asset, partition)
);
ALTER TABLE {table} ALTER COLUMN value SET STORAGE EXTERNAL;
"""
_READ = "SELECT materialization, value FROM {table} WHERE pipeline = $1 AND asset = $2 AND partition = $3"
_DELETE = """
DELETE FROM {table} WHERE pipeline = $1 AND asset = $2 AND partition = $3 AND materialization = $4 RETURNING pipeline
"""


class PostgresValues(Values):
    """Values in the store's database.

    Args:
        connections: To the server.
        instants: The store's clock.
    """

    def __init__(self, connections: Connections, instants: Instants) -> None:
        self._connections = connections
        self._instants = instants

    @override
    async def payload(self, materialization: str) -> bytes | None:
        if not is_id(materialization):
            return None
        rows = await self._connections.fetch("payload", materialization)
        return rows[0][0] if rows else None

    @override
    async def prepare_table(self, table: str) -> None:
        name = quoted(table)
        schema, _, _ = name.rpartition(".")
        async with self._connections.transaction() as session:
            found = await session.fetch("columns", name)
            if not found:
                await session.fetch("lock_tables")
                if schema:
                    await session.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
                await session.execute(_CREATE.format(table=name))
                found = await session.fetch("columns", name)
            shape = {column: type_ for column, type_, _ in found}
            key = [column for column, _, in_key in found if in_key]
        if shape != _SHAPE or sorted(key) != ["asset", "partition", "pipeline"]:
            raise ConfigError(
                f"the table {table} has another shape than io.Postgres(table=…) needs",
                hint="Name a table that does not exist yet, or drop this one: it is made when it is first used.",
                details={"found": shape, "expected": _SHAPE, "primary key": key},
            )

    @override
    async def table_payload(self, table: str, key: AssetKey) -> tuple[str, bytes] | None:
        text = _READ.format(table=quoted(table))
        rows = await self._connections.fetch_text(text, key.pipeline, key.asset, key.partition)
        return (str(rows[0][0]), rows[0][1]) if rows else None

    @override
    async def delete_from_table(self, table: str, materialization: str, key: AssetKey) -> None:
        if is_id(materialization):
            text = _DELETE.format(table=quoted(table))
            await self._connections.fetch_text(text, key.pipeline, key.asset, key.partition, materialization)

    @override
    async def append_chunk(self, materialization: str, no: int, data: bytes) -> None:
        await self._connections.fetch("append_chunk", materialization, no, data, self._instants.given())

    @override
    async def chunks(self, materialization: str) -> AsyncIterator[bytes]:
        last = -1
        while is_id(materialization):
            rows = await self._connections.fetch("chunks", materialization, last, _CHUNKS_AT_ONCE)
            for no, data in rows:
                yield data
                last = no
            if len(rows) < _CHUNKS_AT_ONCE:
                return

    @override
    async def delete(self, materializations: Collection[str]) -> None:
        known = ids(materializations)
        if known:
            async with self._connections.transaction() as session:
                for name in ("delete_payloads", "delete_chunks", "delete_uploads"):
                    await session.fetch(name, known)
