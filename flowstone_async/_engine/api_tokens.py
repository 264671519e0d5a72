"""Tokens of the web side: made, listed and revoked in process, since whoever holds one could else make more.

A token is 256 random bits behind a mark that scanners for secrets can look for. The store has its SHA-256, which is
enough for what nobody can guess, and finds it by that: nothing is compared character by character.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Collection
from typing import Any, cast

from flowstone_async._engine.acting import acting_now
from flowstone_async._engine.options import Limit
from flowstone_async._engine.options import limit as optional_limit
from flowstone_async._engine.session import Session
from flowstone_async.api_tokens import ROLES, ApiToken, ApiTokenNotFound, NewApiToken
from flowstone_async.config import switch, whole
from flowstone_async.errors import ConfigError
from flowstone_async.store.api_tokens import StoredToken
from flowstone_async.store.records import AuditEntry
from flowstone_async.types import new_id

_MARK = "fstk_"
_TOKEN = re.compile(rf"{_MARK}[\w-]{{43}}", re.ASCII)
_LONGEST, _MOST, _MOST_ROLES = 200, 10_000, 50


class Tokens:
    """The tokens that let somebody into the web side of engines on this store: `engine.tokens`.

    Args:
        live: Returns the session of an engine that is open.
    """

    def __init__(self, live: Callable[[], Session]) -> None:
        self._live = live

    async def create(self, name: str, *, role: str | Collection[str], expires: Limit = "90d") -> NewApiToken:
        """Make a token, which is shown this once.

        Args:
            name: Of who will use it, 1 to 200 characters: what stands in the audit log.
            role: `"viewer"` reads, `"operator"` also submits, cancels and signals, `"approver"` decides, `"admin"` does
                everything; or several, with roles of your own among them that requests for approval name.
            expires: How long it lets somebody in; False for ever.

        Raises:
            ConfigError: An argument is wrong, or the engine is not open.

        Example:
            >>> made = await engine.tokens.create("grafana", role="viewer", expires="365d")
            >>> headers = {"Authorization": f"Bearer {made.token}"}
        """
        session = self._live()
        called, roles = _name(name), _roles(role)
        token, token_id = _MARK + secrets.token_urlsafe(32), new_id()
        session.services.redactor.learn(token)
        lasts = optional_limit(expires, "expires")
        audit = _act("created", token_id, name=called, roles=sorted(roles))
        stored = await session.store.api_tokens.add(token_id, called, sorted(roles), digest(token), lasts, audit)
        return NewApiToken(token=token, **_facts(stored))

    async def list(self, *, ended: bool = False, limit: int = 100, after: str | None = None) -> tuple[ApiToken, ...]:
        """Return tokens, the newest first.

        Args:
            ended: Those too that have expired or were revoked.
            limit: At most so many; 10,000 at most.
            after: The id of the last one of the page before.

        Raises:
            ConfigError: An argument is wrong, or the engine is not open.
        """
        session, most = self._live(), whole(limit, what="limit")
        if most > _MOST:
            raise ConfigError(f"limit={limit}", hint=f"At most {_MOST:,} at once; go on with after=.")
        page = await session.store.api_tokens.page(ended=switch(ended, what="ended"), limit=most, after=after)
        return tuple(ApiToken(**_facts(each)) for each in page)

    async def revoke(self, token_id: str) -> ApiToken:
        """Let a token let nobody in any more, from the next request on; again, it changes nothing.

        Whoever was let in may read a stream to its end.

        Raises:
            ApiTokenNotFound: There is none of that id.
            ConfigError: The engine is not open.
        """
        stored = await self._live().store.api_tokens.revoke(str(token_id), _act("revoked", str(token_id)))
        if stored is None:
            known_as = f"{_MARK}…" if _MARK in str(token_id) else str(token_id)[:80]  # it may let somebody in still
            raise ApiTokenNotFound(
                f"no token has the id {known_as!r}",
                hint="Look for it with engine.tokens.list(ended=True) or `flowstone tokens ls --all`; it is no token.",
            )
        return ApiToken(**_facts(stored))


async def holder(session: Session, token: str) -> StoredToken | None:
    """Return the token of the store that somebody has sent, if it lets them in."""
    return await session.store.api_tokens.find(digest(token)) if is_api_token(token) else None


def is_api_token(token: str) -> bool:
    """Tell whether something looks like a token that was made here, before the store is asked."""
    return _TOKEN.fullmatch(token) is not None


def digest(token: str) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _facts(stored: StoredToken) -> dict[str, Any]:
    facts = stored._asdict()
    del facts["digest"]
    return facts


def _act(what: str, token_id: str, **details: object) -> AuditEntry:
    who = acting_now()
    return AuditEntry(f"token.{what}", token_id, actor=who.name, actor_kind=who.kind, details=details)


def _name(given: object) -> str:
    if isinstance(given, str) and 0 < len(given.strip()) <= len(given) <= _LONGEST and _is_storable(given):
        return given
    raise ConfigError(
        f"name={given!r}"[:300], hint=f"Say who will use the token, in 1 to {_LONGEST} printable characters."
    )


def _roles(given: object) -> frozenset[str]:
    several = [given] if isinstance(given, str) or not isinstance(given, Collection) else cast("Any", given)
    roles = frozenset(
        each for each in several if isinstance(each, str) and 0 < len(each) <= _LONGEST and _is_storable(each)
    )
    if len(roles) < len(several) or len(roles) > _MOST_ROLES or not roles & frozenset(ROLES):
        raise ConfigError(
            f"role={given!r}"[:300],
            hint=f"Give one of {', '.join(ROLES)}; or up to {_MOST_ROLES} names, one of these among them.",
        )
    return roles


def _is_storable(text: str) -> bool:
    return text.isprintable()  # half of a surrogate pair is not, and neither is NUL
