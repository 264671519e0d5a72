"""Tokens of gates: derived from the gate's id, so that whoever runs a body again has the same one.

`v1.<gate>.<mac>`: the gate's id as 32 hex digits, and HMAC-SHA256 of it under a secret, as base64 for URLs. Links to
requests for approval have `a1.<gate>.<mac>`, made with another label: neither opens what the other does.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from uuid import UUID

from flowstone_async.errors import ConfigError, ForgedToken, MalformedToken

LEAST_SECRET = 16
MOST_CHOSEN = 512

_TOKEN = re.compile(r"v1\.([0-9a-f]{32})\.([A-Za-z0-9_-]{43})", re.ASCII)
_LINK = re.compile(r"a1\.([0-9a-f]{32})\.([A-Za-z0-9_-]{43})", re.ASCII)
_APPROVAL, _FORM = "flowstone approval v1", "flowstone approval form v1"
_LOOKS = re.compile(r"\s*v1\.[0-9a-f]{32}\.", re.ASCII | re.IGNORECASE)


def token_of(secret: bytes, gate: str) -> str:
    """Return the token of a gate.

    Raises:
        ConfigError: The secret is too short.
    """
    _require(secret)
    name = UUID(gate).hex
    return f"v1.{name}.{_mac(secret, name)}"


def gate_of(secrets: Sequence[bytes], token: str) -> str:
    """Return the gate that a token belongs to.

    Args:
        secrets: Any of them may have made it: the present one first, then those before.
        token: As it came in.

    Raises:
        MalformedToken: It does not look like one.
        ForgedToken: None of the secrets has made it.
    """
    for secret in secrets:
        _require(secret)
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise MalformedToken(
            "this is no token of a gate", hint="Pass `gate.token` on as it is, all of it and nothing else."
        )
    name, mac = found.groups()
    if not any(hmac.compare_digest(_mac(secret, name), mac) for secret in secrets):
        raise ForgedToken(
            "the token was not made with this engine's secret",
            hint="If the secret was changed, keep the one before it as well until its gates have ended.",
        )
    return str(UUID(name))


def link_token(secret: bytes, request: str) -> str:
    """Return what is in the link to a request for approval, in place of its id.

    Raises:
        ConfigError: The secret is too short.
    """
    _require(secret)
    name = UUID(request).hex
    return f"a1.{name}.{_mac(secret, name, _APPROVAL)}"


def request_of_link(secrets: Sequence[bytes], token: str) -> str | None:
    """Return the request that a link leads to; None if none of the secrets has made it."""
    found = _LINK.fullmatch(token)
    if found is None:
        return None
    name, mac = found.groups()
    if not any(hmac.compare_digest(_mac(secret, name, _APPROVAL), mac) for secret in secrets):
        return None
    return str(UUID(name))


def form_token(secret: bytes, request: str, person: str) -> str:
    """Return what the page of a request sends along with a decision: it shows that this person was shown the page."""
    return _mac(secret, f"{UUID(request).hex} {person}", _FORM)


def looks_derived(token: str) -> bool:
    """Tell whether a text begins as a token of ours does: it is one, or a damaged one, and nobody chose it."""
    return _LOOKS.match(token) is not None


def key_id(secret: bytes) -> str:
    """Return what tells a secret from others, and nothing else of it: kept with a gate, it finds the one that made it.

    Raises:
        ConfigError: The secret is too short.
    """
    _require(secret)
    return hmac.digest(secret, b"flowstone gate key", "sha256")[:4].hex()


def secret_for(secrets: Sequence[bytes], key: str | None = None) -> bytes:
    """Return the secret to make a token with: the one of a key (`key_id`), as long as it is listed, else the first.

    Raises:
        ConfigError: There is none.
    """
    if not secrets:
        raise ConfigError(
            "this engine has no secret, so that it cannot make tokens of gates: it was given a pool",
            hint="Say Engine(secret=...): 32 bytes or more, the same in all engines on the store.",
        )
    return next((each for each in secrets if key is not None and key_id(each) == key), secrets[0])


def chosen(token: str) -> bytes:
    """Return what a token that the other side chose is stored and found by.

    Raises:
        ConfigError: It is empty, longer than 512 bytes, no text, or could be taken for a token of ours.
    """
    if looks_derived(token):
        raise ConfigError(
            "token= looks like a token that a gate makes for itself",
            hint="Leave it out: `gate.token` is such a one. Or put something of your own before it.",
        )
    try:
        given = token.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError("token= holds half a surrogate pair: it is no text", hint="Give any text.") from error
    if not 1 <= len(given) <= MOST_CHOSEN:
        raise ConfigError(
            f"token= has {len(given)} bytes; it may have 1 to {MOST_CHOSEN}",
            hint="Use the id that the other side gives its job, or a hash of it.",
        )
    return hashlib.sha256(given).digest()


def _mac(secret: bytes, name: str, label: str = "flowstone gate v1") -> str:
    made = hmac.digest(secret, f"{label} {name}".encode(), "sha256")
    return urlsafe_b64encode(made).rstrip(b"=").decode("ascii")


def _require(secret: bytes) -> None:
    if len(secret) < LEAST_SECRET:
        raise ConfigError(
            f"the secret for tokens has {len(secret)} bytes; at least {LEAST_SECRET} are needed",
            hint="Make one with `python -c 'import secrets; print(secrets.token_hex())'`.",
        )
