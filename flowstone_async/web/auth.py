"""Who may come in: tokens, whoever the host app says, or everybody where the host says it has seen to that."""

from __future__ import annotations

import hmac
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

from flowstone_async._engine.api_tokens import digest, holder, is_api_token
from flowstone_async._engine.asgi import Live
from flowstone_async.errors import ConfigError
from flowstone_async.web.refusal import Refused, session_of
from flowstone_async.web.user import MAY_NOT, Permission, User, needed_for

Authenticate: TypeAlias = Callable[[Any], Awaitable[User | None]]
Auth: TypeAlias = Authenticate | str | Literal[False] | None

LEAST_TOKEN = 16
_HOLDER = User("token", frozenset({"admin"}))
_ANYBODY = User("anybody", frozenset({"admin"}))
_SAFE = ("GET", "HEAD")
_HOME = ("same-origin", "none")
_logger = logging.getLogger("flowstone")


class Guard(Protocol):
    """Tells who asks.

    Attributes:
        kind: What stands in the audit log as the kind of whoever acts.
    """

    kind: str

    @property
    def challenge(self) -> str | None:
        """What one who is not let in is told to bring."""
        ...

    async def user(self, request: Request) -> User | None:
        """Return who asks, or None if that is nobody who is known."""
        ...

    def announce(self) -> None:
        """Say, when the app begins to work, how one comes in."""


def guard_of(auth: Auth, live: Live) -> Guard:
    """Return the guard that `auth=` asks for.

    Args:
        auth: As `Engine.asgi` takes it.
        live: Returns the engine's session, if it is open.

    Raises:
        ConfigError: It is none of the forms.
    """
    if auth is False:
        return _Open()
    if auth is None:
        return _Tokens(live)
    if isinstance(auth, str):
        if len(auth) < LEAST_TOKEN or not auth.isascii() or not auth.isprintable() or " " in auth:
            raise ConfigError(
                f"auth= is a token that is too short, or holds what no header may: {len(auth)} characters",
                hint=f"Give {LEAST_TOKEN} or more visible ASCII characters, such as secrets.token_urlsafe(32) makes.",
            )
        return _Tokens(live, auth)
    if callable(auth):
        return _Host(auth)
    raise ConfigError(
        f"auth={auth!r} is none of its forms",
        hint="Give an async function that takes a request and returns a User or None, a token as text, None for "
        "tokens of engine.tokens only, or False if nobody comes here whom you have not authenticated.",
    )


class _Open:
    kind = "process"
    challenge = None

    async def user(self, request: Request) -> User | None:
        del request
        return _ANYBODY

    def announce(self) -> None:
        _logger.warning("the web side lets everybody in (auth=False): whoever is in front of it must not")


class _Tokens:
    """Lets in who has a token of the store, or the app's own, of which it keeps the hash.

    The store is asked at each request, so that a token that is revoked lets nobody in from then on.
    """

    kind = "token"
    challenge = 'Bearer realm="flowstone"'

    def __init__(self, live: Live, own: str | None = None) -> None:
        self._live, self._digest = live, None if own is None else digest(own)

    async def user(self, request: Request) -> User | None:
        given = request.headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        token = token.strip(" ")
        if scheme.lower() != "bearer":
            return None
        if self._digest is not None and hmac.compare_digest(digest(token), self._digest):
            return _HOLDER
        stored = await holder(session_of(self._live), token) if is_api_token(token) else None
        return None if stored is None else User(stored.name, stored.roles)

    def announce(self) -> None:
        if self._digest is None:
            _logger.info(
                "no auth= was given: the web side lets in who has a token of engine.tokens, or of `flowstone tokens`"
            )


class _Host:
    """Lets in whom the host app knows."""

    kind = "person"
    challenge = None

    def __init__(self, authenticate: Authenticate) -> None:
        self._authenticate = authenticate

    async def user(self, request: Request) -> User | None:
        found: object = self._authenticate(request)
        if inspect.isawaitable(found):
            found = await found
        if found is not None and not isinstance(found, User):
            raise TypeError(f"auth= returned {type(found).__name__}, and neither a User nor None")
        return found

    def announce(self) -> None:
        pass


async def known(guard: Guard, request: Request) -> User | None:
    """Return who asks, or None if that is nobody who is known; also where a host has its own way to say no."""
    try:
        return await guard.user(request)
    except HTTPException:
        return None


async def admit(guard: Guard, request: Request, permission: Permission) -> User:
    """Return who asks.

    Raises:
        Refused: 401 if that is nobody who is known, 403 if they may not, or another site made their browser ask.
    """
    user = await guard.user(request)
    if user is None:
        headers = {} if guard.challenge is None else {"WWW-Authenticate": guard.challenge}
        hint = None if guard.challenge is None else "Send a bearer token in the header of authorization."
        raise Refused(401, "NOT_AUTHENTICATED", "nobody who is known asks this", hint=hint, headers=headers)
    if request.method not in _SAFE:
        refuse_other_sites(request)
    if not user.may(permission):
        raise Refused(
            403,
            "NOT_ALLOWED",
            f"this needs one of the roles {', '.join(needed_for(permission))}",
            hint=MAY_NOT,
            details={"user": user.name, "roles": sorted(user.roles)},
        )
    return user


def refuse_other_sites(request: Request) -> None:
    """Refuse what a page of another site lets a browser send, which would add the cookies of ours.

    Raises:
        Refused: It is.
    """
    headers = request.headers
    if "authorization" in headers:  # no browser adds it by itself to what another site asks for
        return
    site = headers.get("sec-fetch-site")
    origin = headers.get("origin")
    if site is None and origin is not None:
        site = "same-origin" if _host(origin) == headers.get("host", "").lower() else "cross-site"
    if site is not None and site not in _HOME:
        raise Refused(
            403,
            "CROSS_SITE",
            "a page of another site lets a browser send this",
            hint="Send it from a page of this address, or with a bearer token.",
        )


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
