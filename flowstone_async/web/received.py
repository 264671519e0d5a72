"""What a request carries, read within bounds and checked by what its operation declares."""

from __future__ import annotations

from typing import TypeVar

import anyio
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from flowstone_async.web.operation import Query
from flowstone_async.web.refusal import Problem, Refused, problems_of, unfit

Q = TypeVar("Q", bound=Query)
B = TypeVar("B", bound=BaseModel)

READ_WITHIN = 60.0
_DIGITS = 12


def read_query(request: Request, model: type[Q]) -> Q:
    """Return the parameters of a request.

    Raises:
        Refused: One does not fit, is unknown, or comes twice.
    """
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise unfit([Problem(f"query.{name}"[:100], "it is given twice")], "query")
        given[name] = value
    try:
        return model.model_validate(given)
    except ValidationError as error:
        known = ", ".join(model.model_fields)
        hint = f"Parameters are {known}." if known else "There are no parameters."
        raise unfit(problems_of(error, "query"), "query", hint=hint) from None


async def read_order(request: Request, model: type[B], most: int) -> B:
    """Return the JSON object that a request carries.

    Raises:
        Refused: It is too large, no JSON, or does not fit.
    """
    _refuse_other_types(request)
    data = await read_body(request, most)
    parse_json(data)  # what pydantic says of broken JSON is told apart from what does not fit
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise unfit(problems_of(error, "body"), "body") from None


async def read_body(request: Request, most: int) -> bytes:
    """Return what a request carries, at most so many bytes; no more is kept, however it comes.

    Raises:
        Refused: There is more, or it takes too long to come.
    """
    said = request.headers.get("content-length", "")
    if said.isascii() and said.isdigit() and (len(said) > _DIGITS or int(said) > most):
        raise _too_large(most)
    parts: list[bytes] = []
    size = 0
    with anyio.move_on_after(READ_WITHIN) as reading:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise _too_large(most)
            parts.append(part)
    if reading.cancelled_caught:
        raise Refused(400, "TOO_SLOW", f"the body did not come within {READ_WITHIN:g} s", hint="Send it again.")
    return b"".join(parts)


def parse_json(data: bytes) -> object:
    """Return what a text in JSON says; its nesting is bounded.

    Raises:
        Refused: It is none.
    """
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        hint = "Send JSON in UTF-8: text in double quotes, without halves of surrogate pairs, NaN or Infinity."
        raise Refused(400, "NO_JSON", f"the body is no JSON: {error}"[:300], hint=hint) from None


def _refuse_other_types(request: Request) -> None:
    """Refuse forms, which a browser sends for any site without asking first."""
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise Refused(
            400,
            "NO_JSON",
            f"the body is of type {given[:100] or 'unknown'}",
            hint="Send JSON, with the header Content-Type: application/json.",
        )


def _too_large(most: int) -> Refused:
    hint = "Put what is large where the asset can read it, and send where that is."
    return Refused(413, "TOO_LARGE", f"the body has more than {most:,} bytes", hint=hint, details={"max_body": most})


__all__ = ["ClientDisconnect", "parse_json", "read_body", "read_order", "read_query"]
