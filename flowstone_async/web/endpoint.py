"""All methods of one path: who asks is told, what they send is checked, and whatever goes wrong becomes an answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flowstone_async._engine.acting import Actor, acting
from flowstone_async._engine.asgi import Live
from flowstone_async.engine import Engine
from flowstone_async.errors import ConfigError, FlowstoneError
from flowstone_async.redaction import one_line
from flowstone_async.web.auth import Guard, admit, known
from flowstone_async.web.operation import Call, Operation
from flowstone_async.web.received import read_order, read_query
from flowstone_async.web.refusal import Refused, answer, guarded, refusal_of, session_of
from flowstone_async.web.state import WebState
from flowstone_async.web.user import User

_logger = logging.getLogger("flowstone")


class Endpoint:
    """All methods of one path.

    Args:
        engine: Whose app it is.
        live: Its session, if it is open.
        guard: Tells who asks.
        state: What the app keeps.
        operations: One for each method.
    """

    def __init__(
        self, engine: Engine, live: Live, guard: Guard, state: WebState, operations: Sequence[Operation[Any, Any]]
    ) -> None:
        self._engine, self._live, self._guard, self._state = engine, live, guard, state
        self._operations: Mapping[str, Operation[Any, Any]] = {str(each.method): each for each in operations}
        if "GET" in self._operations:
            self._operations = {**self._operations, "HEAD": self._operations["GET"]}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive)
        operation = self._operations.get(request.method)
        if operation is None:
            response = self._refuse(not_allowed(request.method, self._operations))
        else:
            response = await self._respond(operation, request)
            self._state.answered[operation.name, response.status_code // 100] += 1
        await guarded(response)(scope, receive, send)

    async def _respond(self, operation: Operation[Any, Any], request: Request) -> Response:
        try:
            user = None
            if operation.permission is not None:
                user = await admit(self._guard, request, operation.permission)
            elif operation.identify:
                user = await known(self._guard, request)
            call = await self._call(operation, request, user)
            if user is None:
                return await operation.handler(call)
            with acting(Actor(user.name, self._guard.kind)):
                return await operation.handler(call)
        except Refused as refused:
            return self._refuse(refused)
        except FlowstoneError as error:
            return self._refuse(refusal_of(error, ending=self._ending(), instead=operation.instead))
        except HTTPException as error:  # `auth=` may have its own way to say no
            headers = dict(error.headers or {})
            return self._refuse(Refused(error.status_code, "REFUSED", str(error.detail), headers=headers))
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except Exception as error:
            told = self._state.redactor.line(f"{type(error).__name__}: {error}")
            place = one_line(f"{request.method} {operation.path}")
            _logger.exception("the web side made a mistake at %s: %s", place, told)
            return self._refuse(Refused(500, "INTERNAL", "the request could not be answered; the log says why"))

    async def _call(self, operation: Operation[Any, Any], request: Request, user: User | None) -> Call[Any, Any]:
        if operation.open:
            session_of(self._live)
        query = read_query(request, operation.query)
        body = None
        if operation.body is not None and not operation.raw_body:
            body = await read_order(request, operation.body, operation.most_body)
        return Call(
            engine=self._engine,
            live=self._live,
            state=self._state,
            request=request,
            user=user,
            path=request.path_params,
            query=query,
            body=body,
        )

    def _ending(self) -> bool:
        try:
            session = self._live()
        except ConfigError:
            return True
        return session.closing or session.left

    def _refuse(self, refused: Refused) -> Response:
        return answer(refused, self._state.redactor)


def not_allowed(method: str, allowed: Mapping[str, object]) -> Refused:
    """Return the refusal of a method that a path does not have."""
    return Refused(
        405,
        "METHOD_NOT_ALLOWED",
        f"{method} is no method of this path",
        hint=f"It has {', '.join(allowed)}.",
        headers={"Allow": ", ".join(allowed)},
    )
