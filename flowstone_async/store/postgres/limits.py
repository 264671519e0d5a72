"""Limits on Postgres: what was granted and who holds, for all processes on one database. docs/adr/0009-limits.md."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime

from asyncpg import Record
from typing_extensions import override

from flowstone_async.errors import FlowstoneError
from flowstone_async.limits import refusals
from flowstone_async.limits.book import (
    HeldSlot,
    LimitBook,
    LimitChange,
    LimitHolder,
    LimitState,
    PermitAsk,
    Permits,
    SlotAnswer,
    SlotAsk,
    Waiting,
)
from flowstone_async.limits.local import LISTED
from flowstone_async.limits.rate import Pace
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.hints import Hints
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.ownership import write_audit
from flowstone_async.store.postgres.permits import PermitCall, PermitLane, history, pace_of
from flowstone_async.store.postgres.slots import HoldCall, SlotLane
from flowstone_async.store.records import AuditEntry

# A freed slot reaches who waits within a second, however seldom all else is looked for (RATE-07).
_LONGEST_POLL = 1.0
_FIRST_WAIT = 0.1
_PAGE = 1000


class PostgresLimits(LimitBook):
    """Remembers in the database.

    Args:
        connections: To the server.
        instants: The store's clock.
        hints: Who waits for what changes.
        process: What this process is called: the id of its worker, with or without a lease.
        leased: Whether that worker has a lease, or has lost it: None, False, and else True.
        poll: Seconds after which `changed` returns at the latest.
    """

    remote = True

    def __init__(
        self,
        connections: Connections,
        instants: Instants,
        hints: Hints,
        *,
        process: Callable[[], str],
        leased: Callable[[], bool | None],
        poll: float,
    ) -> None:
        self._connections, self._instants, self._hints = connections, instants, hints
        self._process, self._leased = process, leased
        self._poll = min(poll, _LONGEST_POLL)
        self._lines: defaultdict[str, list[Waiting]] = defaultdict(list)
        self._permits = PermitLane(connections, instants, process=process, shown=self._shown)
        self._slots = SlotLane(connections, instants, hints, worker=process, shown=self._shown)
        self.lanes = (self._permits, self._slots)

    def close(self) -> None:
        """Answer what was asked, and no more."""
        for lane in self.lanes:
            lane.close()
        self._hints.publish_all()

    async def leave(self, *, slots: bool) -> None:
        """Wait for nothing here any more, and free the slots of this process's worker if they are still its own."""
        with suppress(FlowstoneError):
            if slots:
                rows = await self._connections.fetch("leave_slots", self._process())
                keys = {row["key"] for row in rows}
                self._hints.limits(keys, keys)
            await self._connections.fetch("leave_lines", self._process(), None)

    # -- asking -------------------------------------------------------------------------------------------------

    @override
    async def take(self, asks: Sequence[PermitAsk]) -> Sequence[Permits]:
        call = PermitCall(asks)
        self._permits.submit(call)
        return await call.answer

    @override
    def give_back(self, key: str, at: object, count: int) -> None:
        if isinstance(at, datetime):
            self._permits.give_back(key, at, count)

    @override
    async def hold(self, asks: Sequence[SlotAsk]) -> Sequence[SlotAnswer]:
        leased = self._leased()
        if leased is None:
            raise refusals.no_lease()
        if not leased:
            raise refusals.lease_lost()
        call = HoldCall(asks)
        self._slots.submit(call)
        return await call.answer

    @override
    async def release(self, slots: Sequence[HeldSlot]) -> None:
        await self._slots.release(slots)

    @override
    async def changed(self, key: str, *, within: float) -> None:
        if within <= 0:
            return
        topic = f"limit:{key}"
        within = min(within, self._poll)
        if self._hints.follow(topic):
            # What has changed since the caller looked was not followed: the first wait is short.
            within = min(within, _FIRST_WAIT)
        await self._hints.wait(topic, within=within)

    # -- those who wait -----------------------------------------------------------------------------------------

    @override
    def enter(self, waiting: Waiting) -> None:
        self._lines[waiting.key].append(waiting)

    @override
    def withdraw(self, waiting: Waiting) -> None:
        lines = self._lines[waiting.key]
        if waiting in lines:
            lines.remove(waiting)
        if not lines:
            del self._lines[waiting.key]
            self._slots.leave_line(waiting.key)

    def _shown(self, line: Waiting | None) -> tuple[int, float, str]:
        """Return who waits at the key of a line in this process: how many, how long, the first of them as JSON."""
        if line is None:
            return 0, 0.0, ""
        lines = {id(each): each for each in (line, *self._lines.get(line.key, ()))}.values()
        count, first = _together([each.shown() for each in lines])
        told = [[each.run_id, each.asset, each.since.isoformat()] for each in first]
        return count, max(each.waited() for each in lines), json.dumps(told)

    # -- looking and changing -----------------------------------------------------------------------------------

    @override
    async def change(self, change: LimitChange) -> None:
        entry = AuditEntry(
            action=f"limit.{change.action}",
            subject=change.key,
            actor=change.actor,
            actor_kind="process",
            details=change.details,
        )
        now = self._instants.given()
        async with self._connections.transaction() as session:
            match change.action:
                case "set":
                    setting = change.setting
                    columns = setting if isinstance(setting, Pace) else (setting, None, None)
                    await session.fetch("set_limit", change.key, *columns)
                case "reset":
                    await session.fetch("reset_limit", change.key)
                case _:
                    await session.fetch("back_off_limit", change.key, change.seconds, now)
            await write_audit(session, [entry], now)
        self._hints.limits([change.key], [change.key])

    @override
    async def states(
        self, keys: Sequence[str] | None = None, *, pace: Pace | None = None, after: str = "", limit: int = 1000
    ) -> Sequence[LimitState]:
        if keys is None:
            keys = [row["key"] for row in await self._connections.fetch("limit_page", after, limit)]
        asked = (list(keys), self._instants.given(), self._process())
        return [self._state(row, pace) for row in await self._connections.fetch("limit_states", *asked)]

    def _state(self, row: Record, asked: Pace | None) -> LimitState:
        setting = pace_of(row["set_n"], row["set_per"], row["set_burst"]) or row["set_n"]
        pace = setting if isinstance(setting, Pace) else asked or pace_of(row["n"], row["per"], row["burst"])
        known = history(row["firsts"], row["lasts"], row["counts"], row["at"])
        elsewhere = [[_holder(*each) for each in json.loads(shown)] for shown in row["shown"]]
        here, first = _together([line.shown() for line in self._lines.get(row["key"], ())])
        return LimitState(
            key=row["key"],
            setting=setting,
            pace=pace,
            slots=setting if isinstance(setting, int) else row["slots"],
            used=0 if pace is None else known.used(0.0, pace.per),
            blocked=row["blocked"],
            holders=tuple(_holder(*json.loads(each)) for each in row["holders"]),
            waiters=tuple(sorted((*first, *(each for some in elsewhere for each in some)), key=_since)),
            waiting=here + row["waiting"],
        )

    async def prune(self) -> None:
        """Forget keys of which nothing matters any more, and what the dead held."""
        await self._connections.fetch("forget_holders")
        last = ""
        while True:
            async with self._connections.transaction() as session:
                [(last, idle)] = await session.fetch("idle_limits", last, _PAGE, self._instants.given())
                if idle:
                    await session.fetch("forget_limits", idle)
            if last is None:
                return


def _together(lines: Sequence[tuple[int, Sequence[LimitHolder]]]) -> tuple[int, Sequence[LimitHolder]]:
    first = sorted((waiter for _, shown in lines for waiter in shown), key=_since)
    return sum(count for count, _ in lines), first[:LISTED]


def _since(holder: LimitHolder) -> datetime:
    return holder.since


def _holder(run_id: str | None, asset: str | None, since: str) -> LimitHolder:
    return LimitHolder(run_id=run_id or None, asset=asset or None, since=datetime.fromisoformat(since))
