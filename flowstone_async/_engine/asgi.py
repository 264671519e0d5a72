"""The door to the web side, which lies above the engine and needs an extra."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal, TypeAlias

from flowstone_async._engine.session import Session
from flowstone_async.errors import ConfigError

AsgiApp: TypeAlias = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]
Auth: TypeAlias = Callable[[Any], Awaitable[Any]] | str | Literal[False] | None
Live: TypeAlias = Callable[[], Session]
"""Returns the session of an engine that is open, or refuses."""

_HOME = "flowstone_async.web.app"
_EXTRA = ("sse_starlette", "starlette")


def missing(module: str) -> ConfigError:
    """Say that the web side is not installed."""
    return ConfigError(
        f"the web side needs the extra `ui`: there is no module {module!r}",
        hint="Install it: pip install 'flowstone_async[ui]'",
    )


def make_app(engine: object, live: Live, *, auth: Auth, title: str | None) -> AsgiApp:
    """Return the ASGI app of an engine; see `Engine.asgi`.

    Raises:
        ConfigError: The extra `ui` is not installed, or an option is wrong.
    """
    try:
        web = importlib.import_module(_HOME)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise missing(error.name or "") from error
    app: AsgiApp = web.make(engine, live, auth=auth, title=title)
    return app
