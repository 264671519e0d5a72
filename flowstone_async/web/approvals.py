"""Requests for approval: listed, looked at and decided by whoever has logged in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue
from pydantic_core import to_json
from starlette.responses import Response

from flowstone_async._engine.approving import finding
from flowstone_async._engine.approving.deciding import LONGEST_REASON, Answer, answer, decide
from flowstone_async._engine.approving.listing import ApprovalRequest, ApprovalState, shown_request
from flowstone_async._engine.approving.requests import request_of
from flowstone_async.approval_errors import NotAllowed
from flowstone_async.definition.key_text import format_key
from flowstone_async.errors import GateNotFound
from flowstone_async.redaction import Redactor
from flowstone_async.store.gates import StoredGate
from flowstone_async.web import operation
from flowstone_async.web.cursor import from_cursor, to_cursor
from flowstone_async.web.named import asset_of, is_id
from flowstone_async.web.operation import Call, Operation, Order, PageQuery, Query, json_answer
from flowstone_async.web.refusal import Refused
from flowstone_async.web.senders import sender_of
from flowstone_async.web.user import MAY_NOT, User, needed_for


class Approval(operation.Answer):
    """A request for approval.

    Attributes:
        item: Key of the item of a scatter that asks (of a batch, those of its items); null if none does.
        roles: Who may decide now; without any whoever may decide at all.
        form_schema: JSON schema of the form; null without one, or where it is very long.
        due: When it expires, as things stand; null never.
        expires_at: The last deadline, where that moves.
        form: As it was filled.
        decided_at: When it was decided, expired or was cancelled.
    """

    id: str
    text: str
    show: Any
    state: ApprovalState
    run_id: str
    pipeline: str
    asset: str
    partition: str | None
    item: Any
    name: str
    roles: list[str]
    form_schema: dict[str, Any] | None
    initial: Any
    opened_at: datetime
    due: datetime | None
    expires_at: datetime | None
    by: str | None
    reason: str | None
    form: Any
    modified: bool
    decided_at: datetime | None


class ApprovalPage(operation.Answer):
    """A page of pending requests, the nearest deadline first and those without one last."""

    approvals: list[Approval]
    next: str | None


class ApprovalsQuery(PageQuery):
    """Which requests."""

    asset: Annotated[str | None, Field(min_length=1, description="Only of this asset.")] = None
    role: Annotated[str | None, Field(min_length=1, description="Only those that this role may decide.")] = None


class RejectOrder(Order):
    """A no."""

    reason: Annotated[str | None, Field(max_length=LONGEST_REASON, description="Why.")] = None


class ApproveOrder(RejectOrder):
    """A yes."""

    form: Annotated[JsonValue, Field(description="The form, filled; without it the one that is proposed.")] = None


def shown_approval(found: ApprovalRequest, redactor: Redactor) -> Approval:
    """Return a request as it is answered."""
    same = set(Approval.model_fields) - {"partition", "roles", "form_schema", "initial", "form"}
    key: Any = found.partition
    return Approval(
        **{name: getattr(found, name) for name in same},
        partition=None if key is None else format_key(key),
        roles=list(found.roles),
        form_schema=None if found.schema is None else dict(found.schema),
        initial=redactor.value(found.initial),
        form=redactor.value(found.form),
    )


async def request_here(call: Call[Any, Any], request: str) -> StoredGate:
    """Return a request of a pipeline that the app serves.

    Raises:
        GateNotFound: There is none.
    """
    found = await finding.request(call.session, request) if is_id(request) else None
    if found is None or found.gate.asset.pipeline not in call.session.catalogs:
        raise GateNotFound(
            "there is no such request for approval", hint="GET /api/v1/approvals lists those that are pending."
        )
    return found


async def shown_now(call: Call[Any, Any], request: str) -> Approval:
    """Return a request as it is now."""
    stored = await request_here(call, request)
    return shown_approval(shown_request(stored, call.session.store.now()), call.state.redactor)


async def settle(call: Call[Any, Any], request: str, said: Answer, *, hides: str = "") -> Approval:
    """Decide a request; return it as it is then.

    Args:
        call: The request that says so.
        request: Which one.
        said: What is said, and by whom.
        hides: A credential that headers may hold.

    Raises:
        FlowstoneError: It is refused; see `deciding.decide`.
    """
    await decide(call.session, request, None, said, sender_of(call, actor=said.by, hides=hides))
    return await shown_now(call, request)


# -- operations -------------------------------------------------------------------------------------------------


async def _list(call: Call[ApprovalsQuery, None]) -> Response:
    query = call.query
    after = from_cursor("approvals", query.cursor, str)
    target = None
    if query.asset is not None:
        catalog, name = asset_of(call, query.asset)
        target = f"{catalog.graph.pipeline}.{name}"
    gone = Refused(
        410, "CURSOR_GONE", "the request that the cursor stands at is gone", hint="Begin anew, without a cursor."
    )
    if after is not None and not is_id(after):
        raise gone
    listed = call.engine.approvals
    try:
        found = await listed.pending(asset=target, role=query.role, limit=query.limit + 1, after=after)
    except GateNotFound as error:
        raise gone from error
    shown = [shown_approval(each, call.state.redactor) for each in found[: query.limit]]
    more = len(found) > query.limit
    return json_answer(ApprovalPage(approvals=shown, next=to_cursor("approvals", shown[-1].id) if more else None))


async def _get(call: Call[Query, None]) -> Response:
    return json_answer(await shown_now(call, call.path["approval_id"]))


async def _approve(call: Call[Query, ApproveOrder]) -> Response:
    form = None if call.body.form is None else to_json(call.body.form)
    return await _decide(call, approved=True, form=form)


async def _reject(call: Call[Query, RejectOrder]) -> Response:
    return await _decide(call, approved=False, form=None)


async def _decide(call: Call[Query, Any], *, approved: bool, form: bytes | None) -> Response:
    user, request = call.user, call.path["approval_id"]
    assert user is not None  # noqa: S101 - the operations let nobody else in
    try:
        stored = await request_here(call, request)
    except GateNotFound:
        if user.may("decide"):
            raise
        raise _may_not(user) from None
    if not request_of(stored).roles and not user.may("decide"):
        raise _may_not(user)
    said = answer(approved=approved, by=user.name, reason=call.body.reason, form_json=form, roles=user.roles)
    return json_answer(await settle(call, request, said))


def _may_not(user: User) -> Refused:
    """Return the refusal of somebody who may decide nothing but what names a role of theirs."""
    return Refused(
        403,
        NotAllowed.code,
        f"this needs one of the roles {', '.join(needed_for('decide'))}",
        hint=MAY_NOT,
        details={"user": user.name, "roles": sorted(user.roles)},
    )


def _deciding(name: Literal["approve", "reject"], summary: str, handler: Any, body: type[Order]) -> Operation[Any, Any]:
    return Operation(
        name=f"{name}Request",
        method="POST",
        path=f"/api/v1/approvals/{{approval_id}}/{name}",
        summary=summary,
        tag="approvals",
        permission="enter",
        handler=handler,
        body=body,
        answers={200: Approval},
        refusals=(404, 409, 410),
    )


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="listApprovals",
        method="GET",
        path="/api/v1/approvals",
        summary="List requests that wait for somebody, the nearest deadline first.",
        tag="approvals",
        permission="read",
        handler=_list,
        query=ApprovalsQuery,
        answers={200: ApprovalPage},
        refusals=(404, 410),
    ),
    Operation(
        name="getApproval",
        method="GET",
        path="/api/v1/approvals/{approval_id}",
        summary="Look at a request for approval, in whatever state it is.",
        tag="approvals",
        permission="read",
        handler=_get,
        answers={200: Approval},
        refusals=(404,),
    ),
    _deciding("approve", "Say yes to a request: the first decision stands.", _approve, ApproveOrder),
    _deciding("reject", "Say no to a request: the first decision stands.", _reject, RejectOrder),
)
