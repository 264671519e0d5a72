"""The link of a request for approval, as messages carry it: it shows the request, and decides it by a POST, once.

Whoever has the link may see the request. One that names roles is decided by whoever is logged in and has one of them;
one without roles by whoever has the link. A GET decides nothing: what opens links in messages does no harm.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

from pydantic import Field, JsonValue, ValidationError
from pydantic_core import to_json
from starlette.responses import HTMLResponse, Response

from flowstone_async._engine.approving.deciding import LONGEST_REASON, answer
from flowstone_async._engine.approving.requests import BY_TIMEOUT
from flowstone_async._engine.tokens import form_token, request_of_link
from flowstone_async.approval_errors import AlreadyDecided
from flowstone_async.errors import FlowstoneError, GateClosed, GateNotFound
from flowstone_async.web.approval_page import HEADERS, form_text, message_page, request_page, written
from flowstone_async.web.approvals import Approval, settle, shown_now
from flowstone_async.web.auth import refuse_other_sites
from flowstone_async.web.operation import Call, Operation, Order, Query, json_answer
from flowstone_async.web.received import parse_json, read_body, read_order
from flowstone_async.web.refusal import Refused, problems_of, refusal_of, unfit

BY_LINK = "link"
_MOST_BODY = 1 << 20
_MOST_FIELDS = 20
_FORM = "application/x-www-form-urlencoded"
_OVER = "Nothing is left to decide. Whoever runs the asset again lets it ask again."
_TITLES = {404: "Nothing here", 403: "You may not decide this", 409: "Decided already", 410: "This is over"}


class LinkOrder(Order):
    """What somebody decides who has the link."""

    decision: Literal["approve", "reject"]
    reason: Annotated[str | None, Field(max_length=LONGEST_REASON, description="Why.")] = None
    form: Annotated[JsonValue, Field(description="The form, filled; without it the one that is proposed.")] = None


async def _show(call: Call[Query, None]) -> Response:
    try:
        found = await _pending(call)
    except (Refused, FlowstoneError) as error:
        return _refused(call, error)
    if not _wants_page(call):
        return json_answer(found)
    return _page(request_page(found, _csrf(call, found.id), None if call.user is None else call.user.name))


async def _decide(call: Call[Query, None]) -> Response:
    try:
        refuse_other_sites(call.request)
        found = await _pending(call, deciding=True)
        order = await _order(call, found)
        if found.state != "pending":
            raise _over(found, deciding=True)
        user = call.user
        said = answer(
            approved=order.decision == "approve",
            by=BY_LINK if user is None else user.name,
            reason=order.reason,
            form_json=None if order.form is None else to_json(order.form),
            roles=() if user is None else user.roles,
        )
        settled = await settle(call, found.id, said, hides=call.path["token"])
    except (Refused, FlowstoneError) as error:
        return _refused(call, error)
    if not _wants_page(call):
        return json_answer(settled)
    return _page(message_page("Thank you", written(settled)))


async def _pending(call: Call[Any, Any], *, deciding: bool = False) -> Approval:
    """Return the request that the link leads to.

    Raises:
        Refused: There is none, or it is over; or somebody asks too often.
    """
    client = call.request.client
    wait = call.state.addresses.wait(None if client is None else client.host)
    if wait:
        headers = {"Retry-After": str(math.ceil(wait))}
        raise Refused(
            429,
            "TOO_OFTEN",
            "too many requests from this address",
            hint=f"Try again in {math.ceil(wait)} s.",
            headers=headers,
        )
    request = request_of_link(call.session.services.secrets, call.path["token"])
    nowhere = Refused(
        404, GateNotFound.code, "this link leads nowhere", hint="Open it as it was sent, all of it and nothing else."
    )
    if request is None:
        raise nowhere
    try:
        found = await shown_now(call, request)
    except GateNotFound:
        raise nowhere from None
    if found.state != "pending" and not deciding:
        raise _over(found)
    return found


def _over(found: Approval, *, deciding: bool = False) -> Refused:
    """Return the refusal of a link whose request has ended: it says how, and nothing else of it."""
    if deciding and found.by not in (None, BY_TIMEOUT):
        decision = {"approved": found.state == "approved", "by": found.by, "at": found.decided_at}
        return Refused(409, AlreadyDecided.code, written(found), hint=_OVER, details={"decision": decision})
    return Refused(410, GateClosed.code, written(found), hint=_OVER, details={"state": found.state})


async def _order(call: Call[Query, None], found: Approval) -> LinkOrder:
    """Return what was sent: from the page, or as JSON, which no page of another site lets a browser send."""
    request = call.request
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        return await read_order(request, LinkOrder, _MOST_BODY)
    data = await read_body(request, _MOST_BODY)
    try:
        fields = dict(parse_qsl(data.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise Refused(400, "NO_FORM", "what came is not what the page sends", hint="Open the link again.") from None
    if not hmac.compare_digest(fields.get("csrf", "").encode(), _csrf(call, found.id).encode()):
        raise Refused(403, "CROSS_SITE", "this was not sent from the page of the request", hint="Open the link again.")
    form = _filled(fields.get("form", ""), found) if fields.get("decision") == "approve" else None
    order = {"decision": fields.get("decision"), "reason": fields.get("reason", "").strip() or None, "form": form}
    try:
        return LinkOrder.model_validate(order)
    except ValidationError as error:
        raise unfit(problems_of(error, "body"), "form") from None


def _filled(text: str, found: Approval) -> Any:
    """Return the form as it came from the page; None if it is as it was shown, secrets hidden."""
    text = text.replace("\r\n", "\n").strip()
    return None if not text or text == form_text(found) else parse_json(text.encode())


def _csrf(call: Call[Any, Any], request: str) -> str:
    """Return what proves that whoever is logged in, or nobody, was shown the page."""
    return form_token(call.session.services.secrets[0], request, "" if call.user is None else call.user.name)


# -- what comes back --------------------------------------------------------------------------------------------


def _wants_page(call: Call[Any, Any]) -> bool:
    return "text/html" in call.request.headers.get("accept", "").lower()


def _page(html: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return HTMLResponse(html, status_code=status, headers={**HEADERS, **(headers or {})})


def _refused(call: Call[Any, Any], error: Refused | FlowstoneError) -> Response:
    """Return a refusal as a page to whoever wants one; else it goes the way of all.

    Raises:
        Refused: Nobody wants a page.
        FlowstoneError: Likewise.
    """
    if not _wants_page(call):
        raise error
    refused = error if isinstance(error, Refused) else refusal_of(error)
    hide = call.state.redactor.text
    lines = [hide(each) for each in (refused.message, refused.hint) if each]
    return _page(
        message_page(_TITLES.get(refused.status, "This did not work"), *lines), refused.status, refused.headers
    )


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="showApprovalLink",
        method="GET",
        path="/hooks/approval/{token}",
        summary="Show the request that a link in a message leads to; nothing is decided.",
        tag="approvals",
        permission=None,
        identify=True,
        pages=True,
        handler=_show,
        answers={200: (Approval, "text/html")},
        refusals=(404, 410, 429),
    ),
    Operation(
        name="decideApprovalLink",
        method="POST",
        path="/hooks/approval/{token}",
        summary="Decide the request that a link leads to, as JSON, or as its page sends it: once.",
        tag="approvals",
        permission=None,
        identify=True,
        pages=True,
        handler=_decide,
        described=LinkOrder,
        raw_body=True,
        answers={200: (Approval, "text/html")},
        refusals=(400, 403, 404, 409, 410, 413, 429),
    ),
)
