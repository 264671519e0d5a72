"""Tokens that let somebody into the web side: what is told of them, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from flowstone_async.errors import NotFound

ROLES = ("viewer", "operator", "approver", "admin")
"""What each of them may is in docs/web.md."""


class ApiTokenNotFound(NotFound):
    """No token of the web side has that id in this store."""

    code: ClassVar[str] = "API_TOKEN_NOT_FOUND"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """A token of the web side, without what lets one in.

    Attributes:
        id: To revoke it by.
        name: Of who uses it: what stands in the audit log.
        roles: What it may, sorted.
        created_at: When it was made.
        expires_at: From when it lets nobody in; None never.
        revoked_at: Since when it lets nobody in; None if it was not revoked.
        used_at: When it let somebody in last, to the hour; None never yet.
    """

    id: str
    name: str
    roles: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiToken(ApiToken):
    """A token that was made just now.

    Attributes:
        token: What lets one in. It is nowhere else: the store keeps its hash.
    """

    token: str = field(repr=False)
