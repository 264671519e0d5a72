"""Tokens of the web side, on Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from asyncpg import Record
from typing_extensions import override

from flowstone_async.store.api_tokens import ApiTokens, StoredToken
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.identifiers import is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.ownership import write_audit
from flowstone_async.store.postgres.repeating import Repeating
from flowstone_async.store.records import AuditEntry


class PostgresApiTokens(ApiTokens):
    """Keeps tokens.

    Args:
        connections: To the server.
        instants: The store's clock.
        patience: Seconds for which a change is tried while the server cannot be reached.
    """

    def __init__(self, connections: Connections, instants: Instants, *, patience: float) -> None:
        self._connections, self._instants = connections, instants
        self._patiently = Repeating(lambda: True, patience)  # it needs no lease

    @override
    async def add(
        self, token_id: str, name: str, roles: Sequence[str], digest: bytes, lasts: float | None, audit: AuditEntry
    ) -> StoredToken:
        given = (token_id, name, list(roles), digest, lasts)
        found = await self._patiently(partial(self._change, "add_api_token", given, token_id, audit))
        assert found is not None  # noqa: S101 - for the type checker: it was added now, or is there
        return found

    @override
    async def find(self, digest: bytes) -> StoredToken | None:
        rows = await self._connections.fetch("use_api_token", digest, self._instants.given())
        return _stored(rows[0]) if rows else None

    @override
    async def revoke(self, token_id: str, audit: AuditEntry) -> StoredToken | None:
        if not is_id(token_id):
            return None
        return await self._patiently(partial(self._change, "revoke_api_token", (token_id,), token_id, audit))

    async def _change(
        self, query: str, given: tuple[object, ...], token_id: str, audit: AuditEntry
    ) -> StoredToken | None:
        """Do something with its audit entry, unless it was done before; return the token."""
        now = self._instants.given()
        async with self._connections.transaction() as session:
            if await session.fetch(query, *given, now):
                await write_audit(session, (audit,), now)
            rows = await session.fetch("api_token", token_id)
        return _stored(rows[0]) if rows else None

    @override
    async def page(self, *, ended: bool, limit: int, after: str | None) -> tuple[StoredToken, ...]:
        if after is not None and not is_id(after):
            return ()
        rows = await self._connections.fetch("api_tokens", after, limit, ended, self._instants.given())
        return tuple(map(_stored, rows))


def _stored(row: Record) -> StoredToken:
    return StoredToken(
        *(str(row["id"]), row["name"], tuple(row["roles"]), row["digest"]),
        *(row["created_at"], row["expires_at"], row["revoked_at"], row["used_at"]),
    )
