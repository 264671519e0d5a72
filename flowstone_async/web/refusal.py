"""From what went wrong to a status and what is told of it: never a trace, never a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import BaseModel, ValidationError
from starlette.responses import JSONResponse, Response

from flowstone_async._engine.asgi import Live
from flowstone_async._engine.session import Session
from flowstone_async.approval_errors import AlreadyDecided, NotAllowed, NothingPending
from flowstone_async.errors import (
    AlreadySignalled,
    ConfigError,
    DependencyNotReady,
    FlowstoneError,
    ForgedToken,
    GateClosed,
    GateExpired,
    KeyConflict,
    LeaseLost,
    MalformedToken,
    NotFound,
    NothingToCancel,
    PlanOutdated,
    RateLimited,
    ResourceUnavailable,
    StoreUnavailable,
    TokenInUse,
)
from flowstone_async.redaction import Redactor
from flowstone_async.web.plain import plain

RETRY_AFTER = {"Retry-After": "1"}
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}

_STATUSES: tuple[tuple[type[FlowstoneError], int], ...] = (
    (MalformedToken, 404),
    (ForgedToken, 404),
    (KeyConflict, 409),
    (TokenInUse, 409),
    (ConfigError, 422),
    (NotFound, 404),
    (GateExpired, 410),
    (GateClosed, 410),
    (AlreadySignalled, 409),
    (AlreadyDecided, 409),
    (NothingPending, 409),
    (NotAllowed, 403),
    (DependencyNotReady, 409),
    (NothingToCancel, 409),
    (PlanOutdated, 409),
    (RateLimited, 429),
    (StoreUnavailable, 503),
    (ResourceUnavailable, 503),
    (LeaseLost, 503),
)


class ErrorBody(BaseModel):
    """Why a request was refused.

    Attributes:
        code: Stable, for machines.
        message: What was found and what was expected.
        hint: The way out, if there is one.
        details: Facts; `fields` has what is wrong with each field.
    """

    code: str
    message: str
    hint: str | None
    details: dict[str, object]


class Refused(Exception):
    """A request is not carried out.

    Attributes:
        status: Of the answer.
        code, message, hint, details: As `ErrorBody`.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint
        self.details, self.headers = dict(details or {}), dict(headers or {})


def session_of(live: Live) -> Session:
    """Return the session of an engine.

    Raises:
        Refused: It is not open (503).
    """
    try:
        return live()
    except ConfigError as error:
        raise Refused(
            503,
            "ENGINE_NOT_OPEN",
            error.message,
            hint="The lifespan of a mounted app does not run: open the engine with the host app, "
            "as in FastAPI(lifespan=engine.lifespan), or let `flowstone serve` do all of it.",
            headers=RETRY_AFTER,
        ) from None


class Problem(NamedTuple):
    """What is wrong with one field of a request."""

    field: str
    problem: str


def unfit(problems: list[Problem], what: str, *, hint: str | None = None) -> Refused:
    """Return the refusal of a request whose fields do not fit."""
    told = "; ".join(f"{each.field}: {each.problem}" for each in problems)
    fields = {each.field: each.problem for each in problems}
    return Refused(422, "UNFIT", f"the {what} does not fit: {told}"[:2000], hint=hint, details={"fields": fields})


def problems_of(error: ValidationError, where: str) -> list[Problem]:
    """Return what pydantic found, without what was given."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [Problem(".".join([where, *(str(part)[:100] for part in each["loc"])]), each["msg"]) for each in found[:50]]


def refusal_of(error: FlowstoneError, *, ending: bool = False, instead: Mapping[int, int] | None = None) -> Refused:
    """Return how an error of the library is told.

    Args:
        error: The error.
        ending: Whether the engine is being left: what it refuses then is refused for that.
        instead: Statuses that stand for others in an operation.
    """
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    status = 503 if ending and status in (422, 500) else (instead or {}).get(status, status)
    headers = RETRY_AFTER if status in (429, 503) else None
    return Refused(status, error.code, error.message, hint=error.hint, details=error.details, headers=headers)


def guarded(response: Response) -> Response:
    """Let no browser guess what an answer is, and nobody keep it."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def answer(refused: Refused, redactor: Redactor) -> JSONResponse:
    """Return the answer to a request that is refused."""
    body = {
        "code": refused.code,
        "message": redactor.text(refused.message),
        "hint": None if refused.hint is None else redactor.text(refused.hint),
        "details": plain(redactor.value(plain(refused.details))),
    }
    return JSONResponse(body, status_code=refused.status, headers=refused.headers)
