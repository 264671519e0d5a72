"""Tokens of the web side, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from threading import RLock

from typing_extensions import override

from flowstone_async.clock import Clock
from flowstone_async.store.api_tokens import ApiTokens, StoredToken
from flowstone_async.store.records import AuditEntry

_HOUR = timedelta(hours=1)


class MemoryApiTokens(ApiTokens):
    """Tokens by their ids, in the order in which they were made.

    Args:
        note: Keeps audit entries.
    """

    def __init__(self, clock: Clock, lock: RLock, note: Callable[[Sequence[AuditEntry], datetime], None]) -> None:
        self._clock, self._lock, self._note = clock, lock, note
        self._tokens: dict[str, StoredToken] = {}
        self._by_digest: dict[bytes, str] = {}

    @override
    async def add(
        self, token_id: str, name: str, roles: Sequence[str], digest: bytes, lasts: float | None, audit: AuditEntry
    ) -> StoredToken:
        with self._lock:
            if token_id not in self._tokens:
                now = self._clock.now()
                until = None if lasts is None else now + timedelta(seconds=lasts)
                self._tokens[token_id] = StoredToken(token_id, name, tuple(roles), digest, now, until)
                self._by_digest[digest] = token_id
                self._note((audit,), now)
            return self._tokens[token_id]

    @override
    async def find(self, digest: bytes) -> StoredToken | None:
        with self._lock:
            token, now = self._tokens.get(self._by_digest.get(digest, "")), self._clock.now()
            if token is None or _has_ended(token, now):
                return None
            if token.used_at is None or token.used_at <= now - _HOUR:
                token = self._tokens[token.id] = token._replace(used_at=now)
            return token

    @override
    async def revoke(self, token_id: str, audit: AuditEntry) -> StoredToken | None:
        with self._lock:
            token = self._tokens.get(token_id)
            if token is not None and token.revoked_at is None:
                now = self._clock.now()
                token = self._tokens[token_id] = token._replace(revoked_at=now)
                self._note((audit,), now)
            return token

    @override
    async def page(self, *, ended: bool, limit: int, after: str | None) -> tuple[StoredToken, ...]:
        with self._lock:
            if after is not None and after not in self._tokens:
                return ()
            now, newest = self._clock.now(), list(reversed(self._tokens.values()))
            behind = newest if after is None else newest[[each.id for each in newest].index(after) + 1 :]
            return tuple(each for each in behind if ended or not _has_ended(each, now))[:limit]


def _has_ended(token: StoredToken, now: datetime) -> bool:
    return token.revoked_at is not None or (token.expires_at is not None and token.expires_at <= now)
