"""Limits as they stand on the store: rates and slots, who holds them and how many wait."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field
from starlette.responses import Response

from flowstone_async.limits.rate import Rate
from flowstone_async.limits.status import LimitKind, LimitStatus, status_of
from flowstone_async.web.cursor import from_cursor, to_cursor
from flowstone_async.web.operation import Answer, Call, Operation, PageQuery, json_answer

_PEOPLE = 100


class Holder(Answer):
    """Somebody who holds a slot, or waits for one."""

    run_id: str | None
    asset: str | None
    since: datetime


class Limit(Answer):
    """A limit.

    Attributes:
        limit: Permits in `per` seconds, or slots.
        setting: What was set over what code says, in words.
        holders: The first 100 of those who hold slots, if the limit was asked for by its key.
    """

    key: str
    kind: LimitKind | None
    limit: int | None
    per: float | None
    burst: int | None
    count: int
    remaining: int | None
    waiting: int
    backed_off: float
    setting: str | None
    holders: list[Holder]
    waiters: list[Holder]


class LimitPage(Answer):
    """A page of limits, by key."""

    limits: list[Limit]
    next: str | None


class LimitsQuery(PageQuery):
    """Which limits."""

    key: Annotated[str | None, Field(min_length=1, description="Only this one, with who holds it and who waits.")] = (
        None
    )


def _limit(found: LimitStatus, *, people: bool) -> Limit:
    rate, setting = found.rate, found.setting
    holders, waiters = (found.holders[:_PEOPLE], found.waiters[:_PEOPLE]) if people else ((), ())
    return Limit(
        key=found.key,
        kind=found.kind,
        limit=found.limit,
        per=None if rate is None else rate.pace.per,
        burst=None if rate is None else rate.pace.burst,
        count=found.count,
        remaining=found.remaining,
        waiting=found.waiting,
        backed_off=found.backed_off,
        setting=None if setting is None else str(setting.pace) if isinstance(setting, Rate) else str(setting),
        holders=[Holder(run_id=each.run_id, asset=each.asset, since=each.since) for each in holders],
        waiters=[Holder(run_id=each.run_id, asset=each.asset, since=each.since) for each in waiters],
    )


async def _list(call: Call[LimitsQuery, None]) -> Response:
    query = call.query
    if query.key is not None:
        status = await call.engine.limits.status(query.key)
        return json_answer(LimitPage(limits=[_limit(status, people=True)], next=None))
    after = from_cursor("limits", query.cursor, str) or ""
    desk = call.session.services.limits
    found = await call.session.store.limits.states(after=after, limit=query.limit + 1)
    page = found[: query.limit]
    limits = [_limit(status_of(each, desk.declared.get(each.key)), people=False) for each in page]
    more = len(found) > query.limit
    return json_answer(LimitPage(limits=limits, next=to_cursor("limits", page[-1].key) if more else None))


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="listLimits",
        method="GET",
        path="/api/v1/limits",
        summary="List limits that were used or set, or look at one.",
        tag="limits",
        permission="read",
        handler=_list,
        query=LimitsQuery,
        answers={200: LimitPage},
    ),
)
