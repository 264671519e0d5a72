"""What one method of one path takes, does and answers: the declaration that routes, checks and describes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeAlias
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypeVar

from flowstone_async._engine.session import Session
from flowstone_async.engine import Engine
from flowstone_async.web.cursor import LONGEST
from flowstone_async.web.state import WebState
from flowstone_async.web.user import Permission, User

Method: TypeAlias = Literal["GET", "POST"]
Answered: TypeAlias = "type[BaseModel] | str | None"
"""A model, which is answered as JSON; a media type; or nothing."""


class Query(BaseModel):
    """The parameters of a request; those that an operation does not declare are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Order(BaseModel):
    """The JSON object that a request carries; fields that an operation does not declare are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Answer(BaseModel):
    """What is answered as JSON."""

    model_config = ConfigDict(frozen=True)


class PageQuery(Query):
    """Which page of a list."""

    limit: Annotated[int, Field(ge=1, le=500, description="At most so many.")] = 50
    cursor: Annotated[
        str | None,
        Field(min_length=1, max_length=LONGEST, description="`next` of the page before; without it the first page."),
    ] = None


Q = TypeVar("Q", bound=Query, default=Query)
B = TypeVar("B", bound=BaseModel | None, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[Q, B]):
    """One request that was let in, with what it says.

    Attributes:
        engine: The engine, open unless the operation does without.
        state: What the app keeps between requests.
        user: Who asks; None where anybody may.
        path: Parameters of the path.
    """

    engine: Engine
    live: Callable[[], Session]
    state: WebState
    request: Request
    user: User | None
    path: Mapping[str, str]
    query: Q
    body: B

    @property
    def session(self) -> Session:
        """The session of the engine, which is open."""
        return self.live()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Generic[Q, B]):
    """One method of one path.

    Attributes:
        name: Unique; the `operationId`.
        permission: What the user needs; None lets anybody in.
        identify: Whether it is found out who asks, although anybody may.
        pages: Whether whoever prefers HTML gets it, refusals too.
        answers: What comes back, by status.
        refusals: Statuses of refusals beside those that any operation of its kind may answer.
        instead: Statuses that stand for others that an error would have: `{422: 409}`.
        headers: Request headers that mean something, with a description.
        described: What the body looks like that the operation reads by itself.
        open: Whether the engine must be open.
    """

    name: str
    method: Method
    path: str
    summary: str
    tag: str
    permission: Permission | None
    handler: Callable[[Call[Q, B]], Awaitable[Response]]
    query: type[Query] = Query
    body: type[BaseModel] | None = None
    most_body: int = 1 << 20
    raw_body: bool = False
    described: type[BaseModel] | None = None
    identify: bool = False
    pages: bool = False
    answers: Mapping[int, Answered | tuple[Answered, ...]] = field(default_factory=dict[int, Any])
    refusals: tuple[int, ...] = ()
    instead: Mapping[int, int] = field(default_factory=dict[int, int])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    open: bool = True


def root_of(request: Request) -> str:
    """Return where the app is mounted, as a part of a URL."""
    return quote(str(request.scope.get("root_path", "")))


def answered(operation: Operation[Any, Any]) -> Mapping[int, tuple[Answered, ...]]:
    """Return what comes back, by status."""
    return {status: each if isinstance(each, tuple) else (each,) for status, each in operation.answers.items()}


def json_answer(model: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in JSON."""
    return Response(
        model.model_dump_json(), status_code=status, media_type="application/json", headers=dict(headers or {})
    )
