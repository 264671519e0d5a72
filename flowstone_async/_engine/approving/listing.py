"""Requests to look at: those that wait for somebody, and one by its id: `engine.approvals`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from flowstone_async._engine.approving import finding
from flowstone_async._engine.approving.requests import Request, request_of, verdict_of
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target, find
from flowstone_async.config import text, whole
from flowstone_async.definition.keys import PartitionKey, decode_key
from flowstone_async.store.gates import StoredGate

ApprovalState: TypeAlias = Literal["pending", "approved", "rejected", "expired", "cancelled"]
_MOST, _PAGE = 10_000, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """A request for approval as it is at a moment.

    Attributes:
        id: What `approve` and `reject` take.
        text: The question; secrets are hidden in it, and in `show`.
        show: What is to be looked at, as plain JSON.
        state: `"pending"`, `"approved"`, `"rejected"`, `"expired"`, or `"cancelled"` with its run.
        item: Key of the item of a scatter that asks, as plain JSON (of a batch, those of its items); None if none does.
        name: What it is called in the body.
        roles: Who may decide now, those that escalation has added among them; anybody who logs in, if it is empty.
        schema: JSON schema of the form; None without one.
        initial: The form as it is proposed, as plain JSON.
        opened_at: When it was made.
        due: When it expires, as things stand; None never.
        expires_at: The last deadline, where `Extend` moves it.
        by: Who decided.
        reason: Why, if that was said.
        form: The form as it was filled, as plain JSON.
        modified: Whether it differs from `initial`.
        decided_at: When it was decided, expired or was cancelled.
    """

    id: str
    text: str
    show: Any
    state: ApprovalState
    run_id: str
    pipeline: str
    asset: str
    partition: PartitionKey | None
    name: str
    roles: tuple[str, ...]
    schema: Mapping[str, Any] | None
    initial: Any
    opened_at: datetime
    due: datetime | None
    expires_at: datetime | None
    by: str | None = None
    reason: str | None = None
    form: Any = None
    modified: bool = False
    decided_at: datetime | None = None
    item: Any = None


class Approvals:
    """The requests for approval of an engine's pipelines: `engine.approvals`."""

    def __init__(self, session: Callable[[], AbstractAsyncContextManager[Session]]) -> None:
        self._session = session

    async def pending(
        self, *, asset: Target | None = None, role: str | None = None, limit: int = 50, after: str | None = None
    ) -> tuple[ApprovalRequest, ...]:
        """Return requests that wait for somebody, the nearest deadline first and those without one last.

        Args:
            asset: Only those of this asset.
            role: Only those that somebody with this role may decide.
            limit: At most so many.
            after: Id of the last request of the previous page; it may have been decided meanwhile.

        Raises:
            AssetNotFound: There is no such asset.
            GateNotFound: `after` is no request of this store (any more).
            ConfigError: Another option is wrong.
        """
        whole(limit, what="limit")
        wanted, most = text(role, what="role"), min(limit, _MOST)
        found: list[ApprovalRequest] = []
        async with self._session() as session:
            session.check()
            pipelines, name = tuple(session.catalogs), None
            if asset is not None:
                catalog, name = find(session.catalogs, asset)
                pipelines = (catalog.graph.pipeline,)
            if after is not None:
                await finding.request(session, after)
            gates, now = session.services.store.gates, session.services.store.now()
            while len(found) < most:
                size = most - len(found) if wanted is None else _PAGE
                page = await gates.waiting(pipelines, ("approval",), asset=name, limit=size, after=after)
                shown = (shown_request(each, now) for each in page)
                found.extend(each for each in shown if wanted is None or not each.roles or wanted in each.roles)
                if len(page) < size:
                    break
                after = page[-1].gate.id
        return tuple(found[:most])

    async def get(self, id: str) -> ApprovalRequest:  # noqa: A002 - what it is
        """Return a request, in whatever state it is.

        Raises:
            GateNotFound: The store has no such request.
        """
        async with self._session() as session:
            session.check()
            return shown_request(await finding.request(session, id), session.services.store.now())


def shown_request(stored: StoredGate, now: datetime) -> ApprovalRequest:
    """Return a request as people get it."""
    gate, request, outcome, verdict = stored.gate, request_of(stored), stored.outcome, verdict_of(stored)
    until = now if outcome is None else outcome.at
    return ApprovalRequest(
        id=gate.id,
        text=request.text,
        show=request.show,
        state=_state(stored),
        run_id=gate.run_id,
        pipeline=gate.asset.pipeline,
        asset=gate.asset.asset,
        partition=decode_key(gate.asset.partition),
        name=gate.name,
        roles=request.roles_at((until - stored.opened_at).total_seconds()),
        schema=request.schema,
        initial=request.initial,
        opened_at=stored.opened_at,
        due=_due(stored, request, until),
        expires_at=stored.due,
        by=None if verdict is None else verdict.by,
        reason=None if verdict is None else verdict.reason,
        form=None if verdict is None else verdict.form,
        modified=verdict is not None and verdict.modified,
        decided_at=None if outcome is None else outcome.at,
        item=request.item,
    )


def _due(stored: StoredGate, request: Request, now: datetime) -> datetime | None:
    return stored.due if request.extend is None else request.due(stored.opened_at, now)


def _state(stored: StoredGate) -> ApprovalState:
    verdict = verdict_of(stored)
    if verdict is not None:
        return "approved" if verdict.approved else "rejected"
    return "pending" if stored.state in ("open", "signalled") else stored.state
