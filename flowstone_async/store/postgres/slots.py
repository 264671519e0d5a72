"""Slots on Postgres: rows of a worker, taken and freed together.

What is to be freed is freed, whatever fails meanwhile, as long as the store is open: a worker's lease frees the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from asyncpg import Record
from typing_extensions import override

from flowstone_async.errors import FlowstoneError
from flowstone_async.limits import refusals
from flowstone_async.limits.book import HeldSlot, SlotAnswer, SlotAsk
from flowstone_async.store.postgres.batched import Batched, Call, copied
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.hints import Hints
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.permits import Shown, pace_of

_RETRY = 1.0
# After which a statement that nobody waits for any more is not under way either.
_ONCE_MORE = 60.0
_BOUND = 5.0


class HoldCall(Call):
    """Some wishes of one caller."""

    __slots__ = ("answer", "asks")

    def __init__(self, asks: Sequence[SlotAsk]) -> None:
        self.asks = asks
        self.answer: asyncio.Future[Sequence[SlotAnswer]] = asyncio.get_running_loop().create_future()

    @override
    def fail(self, error: FlowstoneError) -> None:
        if not self.answer.done():
            self.answer.set_exception(copied(error))


class SlotLane(Batched[HoldCall]):
    """Takes and frees slots, for all who wait.

    Args:
        connections: To the server.
        instants: The store's clock.
        hints: Who waits for what is freed.
        worker: Tells whose slots they are.
        shown: Tells who waits.
    """

    def __init__(
        self,
        connections: Connections,
        instants: Instants,
        hints: Hints,
        *,
        worker: Callable[[], str],
        shown: Shown,
    ) -> None:
        super().__init__()
        self._connections, self._instants, self._hints = connections, instants, hints
        self._worker, self._shown = worker, shown
        self._freed: list[tuple[HeldSlot, asyncio.Future[None] | None]] = []
        self._again: deque[tuple[float, HeldSlot]] = deque()
        self._retry_at = 0.0
        self._left: set[str] = set()

    def leave_line(self, key: str) -> None:
        """Note, soon, that nobody waits any more at a key."""
        self._left.add(key)
        self._wake.set()

    async def release(self, slots: Sequence[HeldSlot]) -> None:
        """Free slots; returns when that is done, or takes too long to wait for."""
        if self._closed or self._loop is None or not slots:
            return
        if asyncio.get_running_loop() is not self._loop:
            self._loop.call_soon_threadsafe(self._free, slots, None)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._free(slots, done)
        with suppress(TimeoutError):
            async with asyncio.timeout(_BOUND):
                await done

    def _free(self, slots: Sequence[HeldSlot], done: asyncio.Future[None] | None) -> None:
        self._freed += [(slot, None) for slot in slots[:-1]]
        self._freed.append((slots[-1], done))
        self._retry_at = 0.0
        self._wake.set()

    @override
    def due(self) -> bool:
        now = time.monotonic()
        while self._again and self._again[0][0] <= now:
            self._freed.append((self._again.popleft()[1], None))
        return bool(self._left) or (bool(self._freed) and now >= self._retry_at)

    @override
    def pause(self) -> float | None:
        now = time.monotonic()
        waits = [self._retry_at - now] if self._freed else []
        waits += [self._again[0][0] - now] if self._again else []
        return max(0.0, min(waits)) if waits else None

    @override
    async def answer(self, calls: Sequence[HoldCall]) -> None:
        if self._left:
            await self._leave_lines()
        waiting = [call for call in calls if not call.answer.done()]
        freed, self._freed = self._freed, []
        asks = [ask for call in waiting for ask in call.asks]
        if not asks and not freed:
            return
        try:
            rows = await self._connections.fetch("change_slots", *self._columns(freed, asks))
        except FlowstoneError as error:
            self._failed(waiting, freed, error)
            return
        self._note_freed(freed, [row["told"] for row in rows if row["told"] is not None])
        found = {row["place"]: row for row in rows if row["told"] is None}
        answers = [_answer(found[place]) for place in range(1, len(asks) + 1)]
        for call in waiting:
            mine, answers = answers[: len(call.asks)], answers[len(call.asks) :]
            self._tell(call, mine)

    async def _leave_lines(self) -> None:
        """What is not noted now is out of date soon."""
        left, self._left = sorted(self._left), set[str]()
        with suppress(FlowstoneError):
            await self._connections.fetch("leave_lines", self._worker(), left)

    def _columns(
        self, freed: Sequence[tuple[HeldSlot, asyncio.Future[None] | None]], asks: Sequence[SlotAsk]
    ) -> Sequence[object]:
        rows: list[tuple[object, ...]] = []
        for ask in asks:
            waiting, _, shown = self._shown(ask.line)
            rows.append((ask.key, ask.n, ask.holder, ask.run_id, ask.asset, waiting, ask.waited, shown))
        wishes = map(list, zip(*rows, strict=True)) if rows else [list[object]() for _ in range(8)]
        slots = [slot for slot, _ in freed]
        return (
            self._worker(),
            [slot.key for slot in slots],
            [slot.holder for slot in slots],
            *wishes,
            self._instants.given(),
        )

    def _tell(self, call: HoldCall, answers: Sequence[SlotAnswer | None]) -> None:
        found = [answer for answer in answers if answer is not None]
        if len(found) < len(answers):
            call.fail(refusals.lease_lost())
        elif not call.answer.done():
            call.answer.set_result(found)
        else:
            self._let_go(ask for ask, answer in zip(call.asks, found, strict=True) if answer.since is not None)

    def _note_freed(self, freed: Iterable[tuple[HeldSlot, asyncio.Future[None] | None]], told: Sequence[str]) -> None:
        self._hints.limits({slot.key for slot, _ in freed}, told)
        for _, done in freed:
            if done is not None and not done.done():
                done.set_result(None)

    def _failed(
        self,
        calls: Sequence[HoldCall],
        freed: list[tuple[HeldSlot, asyncio.Future[None] | None]],
        error: FlowstoneError,
    ) -> None:
        """Nobody knows what was done: what was to be freed is freed again, what was taken perhaps, too."""
        for call in calls:
            self._let_go(call.asks)
            call.fail(error)
        self._freed = freed + self._freed
        self._retry_at = time.monotonic() + _RETRY
        if self._closed:
            self._note_freed(self._freed, ())
            self._freed = []

    def _let_go(self, asks: Iterable[SlotAsk]) -> None:
        """Free what was given to nobody: now, and once more in case the statement is still on its way."""
        for ask in asks:
            slot = HeldSlot(ask.key, ask.holder)
            self._freed.append((slot, None))
            self._again.append((time.monotonic() + _ONCE_MORE, slot))


def _answer(row: Record) -> SlotAnswer | None:
    """Return what came of a wish; None if the worker has no lease."""
    if row["held"] is None:
        return None
    if row["slots_n"] is None or row["rate_per"] is not None:
        return SlotAnswer(None, pace=pace_of(row["slots_n"], row["rate_per"], row["rate_burst"]))
    return SlotAnswer(row["slots_n"], since=row["since"] if row["held"] else None, blocked=row["blocked"])
