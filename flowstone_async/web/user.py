"""Who asks, and what they may do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from flowstone_async.config import unstorable
from flowstone_async.errors import ConfigError

Permission: TypeAlias = Literal["enter", "read", "operate", "decide", "administer"]
"""`enter` is everybody's who was authenticated: what is asked for says more of who may."""

_READ, _OPERATE, _DECIDE = frozenset({"read"}), frozenset({"read", "operate"}), frozenset({"read", "decide"})
_GRANTED: Mapping[str, frozenset[str]] = {
    "viewer": _READ,
    "operator": _OPERATE,
    "approver": _DECIDE,
    "admin": frozenset({"read", "operate", "decide", "administer"}),
}


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who was authenticated.

    Attributes:
        name: What stands in the audit log.
        roles: `viewer` reads, `operator` also submits, cancels and signals, `approver` decides, `admin` does
            everything. Roles of your own count where a request for approval names them: then nothing but those does.

    Raises:
        ConfigError: The name is empty, or the roles are no names.

    Example:
        >>> User("ada", roles={"operator", "release"})
    """

    name: str
    roles: Collection[str] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or unstorable(self.name):
            raise ConfigError(
                f"name={self.name!r} of a user is no name", hint="Give what is to stand in the audit log."
            )
        if isinstance(self.roles, str) or not all(isinstance(each, str) for each in self.roles):
            raise ConfigError(f"roles={self.roles!r} of a user are no names", hint='Give several: roles={"operator"}.')
        object.__setattr__(self, "roles", frozenset(self.roles))

    def may(self, permission: Permission) -> bool:
        """Tell whether one of the roles grants a permission."""
        return permission == "enter" or any(permission in _GRANTED.get(role, ()) for role in self.roles)


MAY_NOT = "Ask as somebody who has one; which roles people have is for auth= to say."
"""What to do about a role that is missing."""


def needed_for(permission: Permission) -> list[str]:
    """Return the roles that grant a permission."""
    return [role for role, granted in _GRANTED.items() if permission in granted]
