"""Waiting for slots, and holding one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any, Self

from typing_extensions import override

from flowstone_async.errors import SlotTimeout
from flowstone_async.limits import refusals
from flowstone_async.limits.book import HeldSlot, SlotAnswer, SlotAsk
from flowstone_async.limits.line import Caller, Line, Place
from flowstone_async.types import new_id

MOST = 100
"""Slots asked for at once."""


class Slot:
    """A slot that is held until it is released; `async with slot:` releases it at the end.

    Attributes:
        key: Of the limit.
        since: Since when it is held, on the store's clock.
        lost: Whether it was lost with the engine's lease: somebody else may hold it now.
    """

    __slots__ = ("_free", "_task", "held", "key", "lost", "since")

    def __init__(self, held: HeldSlot, since: datetime, free: Callable[[Slot], Any]) -> None:
        self.held, self.key, self.since = held, held.key, since
        self.lost = False
        self._free: Callable[[Slot], Any] | None = free
        self._task: asyncio.Task[Any] | None = None

    async def release(self) -> None:
        """Free the slot; harmless if it is free already. What cannot be told the store now is told it later."""
        free, self._free = self._free, None
        if free is not None:
            await free(self)

    def guard(self) -> None:
        """Cancel the current task if the slot is lost while it is held."""
        self._task = asyncio.current_task()

    def lose(self) -> None:
        """Note that it is lost."""
        self.lost = True
        if self._task is not None and self._free is not None:
            self._task.cancel()

    def explained(self, error: BaseException | None) -> bool:
        """Tell whether a cancellation came of losing the slot, and take it back."""
        task = self._task
        return self.lost and isinstance(error, asyncio.CancelledError) and task is not None and task.uncancel() == 0

    async def __aenter__(self) -> Self:
        """Give the slot itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free it."""
        await self.release()


Hold = Callable[[Sequence[SlotAsk]], Awaitable[Sequence[SlotAnswer]]]
"""Asks for slots; a key that has none is a `ConfigError`."""


class SlotPlace(Place):
    """Somebody's place in a line for slots.

    Attributes:
        holder: Id of what will be held.
        held: Since when it is; None as long as it is not.
    """

    __slots__ = ("held", "holder")

    def __init__(self, caller: Caller, begun: float, max_wait: float) -> None:
        super().__init__(caller, begun, max_wait)
        self.holder = new_id()
        self.held: datetime | None = None


class SlotLine(Line):
    """Those who wait for one of so many slots; options as for `Line`.

    Args:
        key: Of the limit.
        n: How many slots there are; None for what was set.
        hold: Asks.
    """

    def __init__(self, key: str, n: int | None, hold: Hold, **options: Any) -> None:
        super().__init__(key, **options)
        self._hold = hold
        self._n = self._known = n

    async def take(self, caller: Caller, max_wait: float) -> SlotPlace:
        """Return once a slot is held, with the place at which it was waited for.

        Raises:
            SlotTimeout: None came free in time.
            ConfigError: The key has no slots.
        """
        place = self._join(SlotPlace(caller, self._clock.monotonic(), max_wait))
        try:
            if not self._is_first(place):
                await self._turn(place)
            while place.held is None:
                await self._step(place)
        except BaseException:
            if place.held is not None:
                await self._book.release([HeldSlot(self.key, place.holder)])
            raise
        finally:
            self._leave(place)
        return place

    async def _step(self, place: SlotPlace) -> None:
        """Ask for slots, and wait if there is none."""
        answer = await self._ask()
        if place.held is not None:
            return
        left = place.until - self._clock.monotonic()
        if left <= 0 or answer.blocked > left:
            raise refusals.slot_timeout(self.key, self._known, place.max_wait, answer.blocked)
        await self._wait(place, min(left, answer.blocked) if answer.blocked else left)

    async def _ask(self) -> SlotAnswer:
        count = min(len(self), self._known or 1, MOST) if self._book.remote else 1
        places = [each for each in islice(self._places, count) if isinstance(each, SlotPlace)]
        answers = await self._hold([self._wish(each) for each in places])
        unused: list[HeldSlot] = []
        for each, answer in zip(places, answers, strict=True):
            self._known = answer.n if answer.n is not None else self._known
            if answer.since is None or each.held is not None:
                continue
            if each.gone:
                unused.append(HeldSlot(self.key, each.holder))
            else:
                each.held = answer.since
                each.call()
        if unused:
            await self._book.release(unused)
        return answers[0]

    def _wish(self, place: SlotPlace) -> SlotAsk:
        caller = place.caller
        waited = max(0.0, self._clock.monotonic() - place.begun)
        return SlotAsk(self.key, self._n, place.holder, caller.run_id, caller.asset, line=self, waited=waited)

    @override
    def _late(self, place: Place) -> SlotTimeout:
        return refusals.slot_timeout(self.key, self._known, place.max_wait, 0.0)
