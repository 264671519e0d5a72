"""The app as a whole: every operation, routed, under whatever path it is mounted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from flowstone_async._engine.asgi import Live
from flowstone_async.engine import Engine
from flowstone_async.errors import ConfigError
from flowstone_async.web import (
    approval_links,
    approvals,
    assets,
    gates,
    health,
    items,
    limits,
    metrics,
    run_events,
    runs,
    signals,
    submitting,
    values,
    workers,
)
from flowstone_async.web.addresses import Addresses
from flowstone_async.web.auth import Auth, Guard, guard_of
from flowstone_async.web.endpoint import Endpoint
from flowstone_async.web.openapi import document
from flowstone_async.web.operation import Call, Operation, Query, root_of
from flowstone_async.web.refusal import Refused, answer, guarded
from flowstone_async.web.state import WebState

SIGNALS_A_SECOND = 100.0
_LONGEST_TITLE = 200

# A module that adds operations (schedules, lineage …) is added here, and is then routed, checked and described.
_MODULES = (
    *(runs, submitting, run_events, items, assets, values, approvals, approval_links, limits, workers, gates, signals),
    *(health, metrics),
)


def operations(title: str) -> tuple[Operation[Any, Any], ...]:
    """Return everything that an app does."""
    found: list[Operation[Any, Any]] = [each for module in _MODULES for each in module.OPERATIONS]

    async def describe(call: Call[Query, None]) -> Response:
        version = str(sys.modules[__name__.partition(".")[0]].__version__)
        return JSONResponse(document(found, title=title, version=version, root=root_of(call.request)))

    found.append(
        Operation(
            name="openapi",
            method="GET",
            path="/api/v1/openapi.json",
            summary="This document.",
            tag="health",
            permission="read",
            handler=describe,
            answers={200: "application/json"},
            open=False,
        )
    )
    return tuple(found)


def make(engine: Engine, live: Live, *, auth: Auth, title: str | None) -> ASGIApp:
    """Return the app of an engine; see `Engine.asgi`.

    Raises:
        ConfigError: An option is wrong.
    """
    if title is not None and (not isinstance(title, str) or not 0 < len(title) <= _LONGEST_TITLE):
        raise ConfigError(f"title={title!r}"[:300], hint=f"Give text of 1 to {_LONGEST_TITLE} characters.")
    name = title or ", ".join(each.name for each in engine.pipelines)
    return WebApp(engine, live, guard_of(auth, live), operations(name))


class WebApp:
    """The ASGI app of one engine, in one process.

    Args:
        engine: Open or not.
        live: Its session, if it is open.
        guard: Tells who asks.
        declared: What the app does.
    """

    def __init__(self, engine: Engine, live: Live, guard: Guard, declared: Sequence[Operation[Any, Any]]) -> None:
        self.operations = declared
        self._guard = guard
        self.state = WebState(redactor=engine.redactor, addresses=Addresses(SIGNALS_A_SECOND))
        by_path: dict[str, list[Operation[Any, Any]]] = {}
        for each in declared:
            by_path.setdefault(each.path, []).append(each)
        # Fixed paths come before those with parameters.
        routes = [
            Route(path, cast("Any", Endpoint(engine, live, guard, self.state, some)))
            for path, some in sorted(by_path.items(), key=lambda each: "{" in each[0])
        ]
        self._router = Router(routes, redirect_slashes=False, default=self._not_found)
        self._announced = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if not self._announced:
            self._announced = True
            self._guard.announce()
        await self._router(scope, receive, send)

    def drain(self) -> None:
        """Let streams and whoever waits for a run come to their end: the server is being stopped."""
        self.state.draining.set()

    async def _not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router.not_found(scope, receive, send)
            return
        path = Request(scope).url.path[:200]
        refused = Refused(404, "NO_SUCH_PATH", f"there is nothing at {path}", hint="See /api/v1/openapi.json.")
        await guarded(answer(refused, self.state.redactor))(scope, receive, send)
