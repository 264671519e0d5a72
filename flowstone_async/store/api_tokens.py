"""The store's port for tokens of the web side: kept as hashes, looked up whenever one comes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from flowstone_async.store.records import AuditEntry


class StoredToken(NamedTuple):
    """A token as it is on record.

    Attributes:
        name: Of who uses it.
        digest: SHA-256 of the token, which nobody has written down.
        created_at: Set by the store where it is recorded.
        expires_at: From when it lets nobody in; None never.
        revoked_at: Since when it lets nobody in; None if it was not taken back.
        used_at: When it let somebody in, to the hour; None never yet.
    """

    id: str
    name: str
    roles: tuple[str, ...]
    digest: bytes
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    used_at: datetime | None = None


class ApiTokens(Protocol):
    """Tokens, by their ids and by their hashes."""

    async def add(
        self, token_id: str, name: str, roles: Sequence[str], digest: bytes, lasts: float | None, audit: AuditEntry
    ) -> StoredToken:
        """Record a token with its audit entry; one that is there already, as after a lost reply, is returned as it is.

        Args:
            token_id: A new id.
            name: Of who uses it.
            roles: What it may.
            digest: SHA-256 of it.
            lasts: Seconds until it expires; None never.
            audit: The act.
        """
        ...

    async def find(self, digest: bytes) -> StoredToken | None:
        """Return the token with a hash if it lets somebody in now, and note that it did: once an hour."""
        ...

    async def revoke(self, token_id: str, audit: AuditEntry) -> StoredToken | None:
        """Let a token let nobody in any more, and return it, or None if there is none of that id.

        The act is recorded if it changes anything.
        """
        ...

    async def page(self, *, ended: bool, limit: int, after: str | None) -> tuple[StoredToken, ...]:
        """Return tokens, the newest first, behind the one with the id `after`.

        Args:
            ended: Those too that have expired or were revoked.
            limit: At most so many.
            after: The last one of the page before; of one that is not there, nothing follows.
        """
        ...
