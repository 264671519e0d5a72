"""Where the other side sends a signal to, or people decide: addresses made of the engine's `base_url` and a token."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from flowstone_async._engine.tokens import link_token, looks_derived
from flowstone_async.errors import ConfigError

PATH = "/hooks/signal/"
APPROVALS = "/hooks/approval/"


def base_url_of(given: object) -> str | None:
    """Return `Engine(base_url=...)`, checked, without a slash at its end; None if there is none.

    Raises:
        ConfigError: It is no address that a path can be put behind.
    """
    if given is None:
        return None
    hint = 'Give what is before /hooks/signal/… for whoever calls: base_url="https://flow.example.org/app".'
    if not isinstance(given, str):
        raise ConfigError(f"base_url={given!r} is no text", hint=hint)
    try:
        parts = urlsplit(given)
        host, port, login = parts.hostname, parts.port, parts.username or parts.password
    except ValueError as error:
        raise ConfigError(f"base_url= is no address: {error}", hint=hint) from error
    if login is not None:
        raise ConfigError("base_url= holds a login, which every receiver of a URL would see", hint=hint)
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ConfigError(f"base_url={given!r} is no address of http or https", hint=hint)
    if parts.query or parts.fragment or "?" in given or "#" in given:
        raise ConfigError(f"base_url={given!r} has more than a path behind the host", hint=hint)
    if not given.isascii() or any(each.isspace() or not each.isprintable() for each in given):
        raise ConfigError(f"base_url={given!r} has characters that no address has", hint=hint)
    return given.rstrip("/")


def url_of(base_url: str | None, token: str) -> str:
    """Return the URL of a gate.

    Args:
        base_url: Of the engine (`Settings.base_url`).
        token: The gate's own token.

    Raises:
        ConfigError: The engine has no `base_url`, or the other side chose the token.
    """
    if not looks_derived(token):
        raise ConfigError(
            "a gate whose token the other side chose has no URL: such a token can be guessed",
            hint="Signal it with engine.signal(token, payload), behind a login of yours.",
        )
    if base_url is None:
        raise ConfigError(
            "the engine does not know under which address it is reached, so that the gate has no URL",
            hint='Say Engine(..., base_url="https://…"), or pass `gate.token` on.',
        )
    return f"{base_url}{PATH}{quote(token, safe='')}"


def approval_url(base_url: str | None, secrets: Sequence[bytes], request: str) -> str | None:
    """Return the link to a request for approval; None where the engine has no `base_url`, or no secret."""
    if base_url is None or not secrets:
        return None
    return f"{base_url}{APPROVALS}{link_token(secrets[0], request)}"
