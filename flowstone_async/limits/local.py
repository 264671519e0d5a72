"""Limits within one process: what was granted and who holds, in its memory.

One lock guards everything, is held for microseconds and never across an await: so a book is tied to no event loop.
"""

from __future__ import annotations

import asyncio
import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from threading import RLock
from typing import Self

from typing_extensions import override

from flowstone_async.clock import Clock
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
from flowstone_async.limits.history import History
from flowstone_async.limits.rate import Pace
from flowstone_async.waiters import Waiter, Waiters

_AT_ONCE = 500
LISTED = 20
"""Waiters that are shown of each line."""


@dataclass(slots=True)
class _Holder:
    shown: LimitHolder
    worker: str


@dataclass(slots=True)
class _Key:
    """What is remembered of a key."""

    history: History = field(default_factory=History)
    holders: dict[str, _Holder] = field(default_factory=dict[str, _Holder])
    lines: list[Waiting] = field(default_factory=list[Waiting])
    setting: Pace | int | None = None
    pace: Pace | None = None
    slots: int | None = None
    blocked_until: float = 0.0

    def blocked(self, now: float) -> float:
        return max(0.0, self.blocked_until - now)

    def is_idle(self, now: float) -> bool:
        """Tell whether forgetting it changes nothing."""
        if self.setting is not None or self.holders or self.lines or now < self.blocked_until:
            return False
        return self.history.forgotten(now)


class LocalBook(LimitBook):
    """Remembers in this process. A key is forgotten once nothing of it matters.

    Args:
        clock: Where instants and durations come from.
        alive: Whether a worker's slots still count.
        audit: Takes note of each change.
        lock: Guards what `alive` and `audit` look at, too; re-entrant.
    """

    remote = False

    def __init__(
        self,
        clock: Clock,
        *,
        alive: Callable[[str], bool] = lambda _: True,
        audit: Callable[[LimitChange], None] = lambda _: None,
        lock: RLock | None = None,
    ) -> None:
        self._clock, self._alive, self._audit = clock, alive, audit
        self._worker: Callable[[], str | None] = str
        # Re-entrant, since the garbage collector may close an abandoned `changed()` while this thread holds it.
        self._lock = lock or RLock()
        self._waiters = Waiters()
        self._keys: OrderedDict[str, _Key] = OrderedDict()

    def of(self, worker: Callable[[], str | None]) -> Self:
        """Return the same book in the hands of a worker, with whose lease its slots end; without one it has none."""
        other = copy.copy(self)
        other._worker = worker  # noqa: SLF001 - of the same class
        return other

    # -- permits ------------------------------------------------------------------------------------------------

    @override
    async def take(self, asks: Sequence[PermitAsk]) -> Sequence[Permits]:
        with self._lock:
            return [self._take(ask) for ask in asks]

    def grant(self, name: str, pace: Pace | None) -> bool:
        """Grant a permit that is used at once, the short way; False if that takes more than a look."""
        with self._lock:
            now = self._clock.monotonic()
            key = self._key(name, now)
            judged = pace if key.setting is None else key.setting
            if not isinstance(judged, Pace) or now < key.blocked_until or not key.history.room(now, judged):
                return False
            key.pace = judged
            key.history.add(now, 1, judged)
            return True

    def _take(self, ask: PermitAsk) -> Permits:
        now = self._clock.monotonic()
        key = self._key(ask.key, now)
        pace = key.setting if key.setting is not None else ask.pace
        if not isinstance(pace, Pace):
            return Permits(None, slots=pace)
        blocked = key.blocked(now)
        granted = 0 if blocked else min(ask.want, key.history.room(now, pace))
        if granted:
            key.pace = pace
            key.history.add(now, granted, pace, ask.span)
        outlook = key.history.outlook(now, pace, blocked) if granted < ask.want or not ask.want else None
        return Permits(pace, granted=granted, at=now, outlook=outlook)

    @override
    def give_back(self, key: str, at: object, count: int) -> None:
        with self._lock:
            known = self._keys.get(key)
            if known is not None and isinstance(at, float):
                known.history.take_back(at, count)
                self._waiters.wake(key)

    # -- slots --------------------------------------------------------------------------------------------------

    @override
    async def hold(self, asks: Sequence[SlotAsk]) -> Sequence[SlotAnswer]:
        worker = self._worker()
        if worker is None:
            raise refusals.no_lease()
        if not self._alive(worker):
            raise refusals.lease_lost()
        with self._lock:
            return [self._hold(worker, ask) for ask in asks]

    def _hold(self, worker: str, ask: SlotAsk) -> SlotAnswer:
        now = self._clock.monotonic()
        key = self._key(ask.key, now)
        n = key.setting if key.setting is not None else ask.n
        if n is None or isinstance(n, Pace):
            return SlotAnswer(None, pace=n)
        blocked, held = key.blocked(now), key.holders.get(ask.holder)
        if held is None and not blocked and sum(map(self._counts, key.holders.values())) < n:
            shown = LimitHolder(run_id=ask.run_id or None, asset=ask.asset or None, since=self._clock.now())
            held = key.holders[ask.holder] = _Holder(shown, worker)
            key.slots = n
        return SlotAnswer(n, since=None if held is None else held.shown.since, blocked=blocked)

    def _counts(self, holder: _Holder) -> bool:
        return self._alive(holder.worker)

    @override
    async def release(self, slots: Sequence[HeldSlot]) -> None:
        with self._lock:
            for slot in slots:
                known = self._keys.get(slot.key)
                if known is not None and known.holders.pop(slot.holder, None) is not None:
                    self._waiters.wake(slot.key)

    def leave(self, workers: Collection[str]) -> None:
        """Free the slots of workers that are gone."""
        with self._lock:
            for name, key in self._keys.items():
                gone = [holder for holder, held in key.holders.items() if held.worker in workers]
                for holder in gone:
                    del key.holders[holder]
                if gone:
                    self._waiters.wake(name)

    # -- looking and changing -----------------------------------------------------------------------------------

    @override
    async def change(self, change: LimitChange) -> None:
        with self._lock:
            now = self._clock.monotonic()
            key = self._key(change.key, now)
            match change.action:
                case "set":
                    key.setting = change.setting
                case "reset":
                    key.history, key.blocked_until = History(), 0.0
                    key.holders.clear()
                case _:
                    key.blocked_until = max(key.blocked_until, now + change.seconds)
            self._audit(change)
            self._waiters.wake(change.key)

    @override
    async def states(
        self, keys: Sequence[str] | None = None, *, pace: Pace | None = None, after: str = "", limit: int = 1000
    ) -> Sequence[LimitState]:
        with self._lock:
            names = islice((key for key in sorted(self._keys) if key > after), limit) if keys is None else keys
            return [self._state(name, self._keys[name], pace) for name in names if name in self._keys]

    def _state(self, name: str, key: _Key, asked: Pace | None) -> LimitState:
        now = self._clock.monotonic()
        pace = key.setting if isinstance(key.setting, Pace) else asked or key.pace
        lines = [line.shown() for line in key.lines]
        waiters = sorted((waiter for _, shown in lines for waiter in shown), key=lambda waiter: waiter.since)
        return LimitState(
            key=name,
            setting=key.setting,
            pace=pace,
            slots=key.setting if isinstance(key.setting, int) else key.slots,
            used=0 if pace is None else key.history.used(now, pace.per),
            blocked=key.blocked(now),
            holders=tuple(held.shown for held in key.holders.values() if self._counts(held)),
            waiters=tuple(waiters[:LISTED]),
            waiting=sum(count for count, _ in lines),
        )

    # -- waiting ------------------------------------------------------------------------------------------------

    @override
    async def changed(self, key: str, *, within: float) -> None:
        if within <= 0:
            return
        waiter = Waiter()
        with self._lock:
            self._waiters.add(key, waiter)
        timer = self._clock.call_later(within, waiter.expire) if within < float("inf") else None
        try:
            await waiter.woken()
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock:
                self._waiters.discard(key, waiter)

    def wake_all(self) -> None:
        """Let everybody look who waits."""
        with self._lock:
            self._waiters.wake_all()

    @override
    def enter(self, waiting: Waiting) -> None:
        with self._lock:
            self._key(waiting.key, self._clock.monotonic()).lines.append(waiting)

    @override
    def withdraw(self, waiting: Waiting) -> None:
        with self._lock:
            known = self._keys.get(waiting.key)
            if known is not None and waiting in known.lines:
                known.lines.remove(waiting)

    # -- keys ---------------------------------------------------------------------------------------------------

    def _key(self, name: str, now: float) -> _Key:
        """Return what is remembered of a key."""
        key = self._keys.get(name)
        if key is None:
            self._look_after_some(now)
            key = self._keys[name] = _Key()
        return key

    async def forget_idle(self) -> None:
        """Forget all keys that are idle; whoever only asks for new ones needs no such call."""
        for _ in range(0, len(self._keys), _AT_ONCE):
            with self._lock:
                self._look_after_some(self._clock.monotonic(), _AT_ONCE)
            await asyncio.sleep(0)

    def _look_after_some(self, now: float, count: int = 2) -> None:
        """Forget two keys, if they are idle, for each that is new: those that were not looked at longest."""
        for oldest in list(islice(self._keys, count)):
            if self._keys[oldest].is_idle(now):
                del self._keys[oldest]
            else:
                self._keys.move_to_end(oldest)
