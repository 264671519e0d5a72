"""The lines of a scatter with a `rate`: items wait here for permits, and take no place of `max_concurrent` meanwhile.

Each key has a line, a scatter whose rate has no key a single one; lines that may go on take turns. One task asks for
permits, for all lines at once and ahead of those that are used, but for no more than can begin before they are too old:
what is not used by then is given back. In memory a permit is granted when it is used.

What waits here counts as read ahead, as any item that has not ended. So at most 4 pages (or 4 x `max_concurrent`
items) are in the lines, and keys that take turns are theirs: where all have one, pages are read as it lets them go.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Protocol

from typing_extensions import override

from flowstone_async._engine.scatter.chunks import LocalChunk, Todo, Withheld
from flowstone_async._engine.scatter.lines import Line
from flowstone_async._engine.scatter.packing import content_of, hash_of
from flowstone_async._engine.scatter.resting import Resting
from flowstone_async._engine.scatter.supply import Supply
from flowstone_async.clock import Clock, Timer
from flowstone_async.errors import StoreUnavailable
from flowstone_async.failures import ENDINGS
from flowstone_async.limits.book import Permits
from flowstone_async.limits.desk import Desk
from flowstone_async.limits.rate import Rate
from flowstone_async.limits.stock import Stock

# Lines asked for at once.
_LINES = 200
# Keys that are longer, as JSON, are told apart by their hash.
_LONGEST = 400
# Seconds between two looks at a key: the least, where rounding says "at once"; and the most, since what others give
# back, or a person sets, may let it go on earlier. Elsewhere a second, unless that were more than `_LINES` a second.
_LEAST, _MOST, _MOST_ELSEWHERE = 0.001, 30.0, 1.0
_logger = logging.getLogger("flowstone")

Refuse = Callable[[LocalChunk, Todo, BaseException | str], None]
"""Notes that an item cannot be run, and why."""


class Bodies(Protocol):
    """Those who call the body."""

    @property
    def running(self) -> int:
        """How many bodies run."""
        ...

    @property
    def free(self) -> int:
        """How many more may begin now."""
        ...

    @property
    def isolates(self) -> bool:
        """Whether an item that runs alone is to begin before any other."""
        ...

    def staff(self) -> None:
        """See whether there is something to begin with."""
        ...


class Rating(Supply):
    """Gives items as permits for them come.

    Args:
        desk: Where permits are asked for.
        clock: Where timers come from.
        name: Of the scatter, the same in all processes that run it.
        rate: How often items may begin.
        key: What gives an item its key; None where there is none.
        given: Makes of an item what `key` is called with; None for the item itself.
        refuse: Hears of items whose key cannot be told.
        poll: Seconds after which a store that could not be reached is asked again.
    """

    def __init__(
        self,
        desk: Desk,
        clock: Clock,
        name: str,
        rate: Rate,
        *,
        key: Callable[[Any], Any] | None,
        refuse: Refuse,
        poll: float,
        given: Callable[[LocalChunk, Todo], Todo] | None = None,
    ) -> None:
        self._desk, self._clock, self._name, self._pace = desk, clock, name, rate.pace
        self._key, self._given, self._refuse, self._poll = key, given, refuse, poll
        self._ahead_of_use = desk.book.remote
        self._bodies: Bodies | None = None
        self._lines: dict[bool, dict[str, Line]] = {alone: {} for alone in (False, True)}
        self._ready: dict[bool, deque[Line]] = {alone: deque() for alone in (False, True)}
        self._wanting: dict[bool, dict[Line, None]] = {alone: {} for alone in (False, True)}
        self._late: list[tuple[float, int, Line]] = []
        self._good: deque[tuple[float, Line, Stock]] = deque()
        self._order = itertools.count()
        self._timer: Timer | None = None
        self._timed = math.inf
        self._wake = asyncio.Event()
        self._stocked = self._begun = self._ahead = self._count = self._held_up = 0
        self._asked_at, self._span = -math.inf, 0.0

    # -- the lines ----------------------------------------------------------------------------------------------

    @override
    def add(self, chunk: LocalChunk, *, alone: bool = False) -> None:
        for key, todos in self._by_key(chunk):
            line = self._lines[alone].get(key)
            if line is None:
                line = self._lines[alone][key] = Line(key, alone=alone)
            line.add(chunk, todos)
            self._count += len(todos)
            if line.place == "late":
                self._held_up += len(todos)
            self._put(line)
        self.look()

    def _by_key(self, chunk: LocalChunk) -> Iterable[tuple[str, list[Todo]]]:
        if self._key is None:
            return [(self._name, chunk.todo)] if chunk.todo else []
        known: dict[object, str] = {}
        found: dict[str, list[Todo]] = {}
        for todo in reversed(chunk.apart()):
            try:
                key = self._key(todo.item if self._given is None else self._given(chunk, todo).item)
                if type(key) is not str:
                    name = self._named(key)
                elif (name := known.get(key, "")) == "":
                    name = known[key] = self._named(key)
            except ENDINGS:
                raise
            except Exception as error:  # anybody's code
                self._refuse(chunk, todo, error)
            else:
                found.setdefault(name, []).append(todo)
        for todos in found.values():
            todos.reverse()
        return found.items()

    def _named(self, key: object) -> str:
        if inspect.iscoroutine(key):
            key.close()
        content = content_of(key)
        text = content.decode()
        return f"{self._name}:{text if len(text) <= _LONGEST else f'#{hash_of(content)}'}"

    @property
    @override
    def waiting(self) -> int:
        return self._count - self._held_up

    @override
    def withhold(self, count: int) -> list[Withheld]:
        # Of a chunk whose items have several keys nobody knows which of the last ones have begun.
        line = self._lines[False].get(self._name) if self._key is None else None
        if line is None:
            return []
        before, found = line.count, line.withhold(count)
        self._count += line.count - before
        if line.place == "late":
            self._held_up += line.count - before
        return found

    @override
    def ready(self, *, alone: bool = False) -> bool:
        return bool(self._ready[alone])

    @override
    def take(self, *, alone: bool = False) -> tuple[LocalChunk, Todo] | None:
        ready = self._ready[alone]
        taken = None
        while ready and taken is None:
            line = ready.popleft()
            line.place = ""
            drawn = bool(line.count) and self._draws(line)
            if drawn:
                taken = line.pop()
                self._begun += 1
                self._count -= 1
            self._put(line, refused=not drawn)
        self.look()
        return taken

    @property
    @override
    def alone_next(self) -> bool:
        now = self._clock.monotonic()
        return any(line.count and (line.stocks or line.hope <= now) for line in self._lines[True].values())

    def _draws(self, line: Line) -> bool:
        """Use a permit for the first of a line."""
        stocks = line.stocks
        while stocks:
            before = stocks[0].count
            drawn = stocks[0].draw() == "drawn"
            self._stocked -= before - stocks[0].count
            if not stocks[0].count:
                stocks.popleft()
            if drawn:
                return True
        return self._desk.granted(line.key, self._pace)

    def _put(self, line: Line, *, refused: bool = False) -> None:
        """Put a line where it belongs: behind those that may go on, or that have to ask, or to wait."""
        if not line.count:
            self._wanting[line.alone].pop(line, None)
            if not (line.stocks or line.asked):
                self._lines[line.alone].pop(line.key, None)
            return
        late = line.due > self._clock.monotonic()
        if not (line.asked or late) and self._lacks(line, refused=refused):
            self._wanting[line.alone][line] = None
        else:
            self._wanting[line.alone].pop(line, None)
        if line.place:
            return
        if line.stocks or not (refused or self._ahead_of_use):
            line.place = "ready"
            self._ready[line.alone].append(line)
        elif late:
            line.place = "late"
            self._held_up += line.count
            heapq.heappush(self._late, (line.due, next(self._order), line))
            self._set_timer(line.due)

    def _lacks(self, line: Line, *, refused: bool) -> bool:
        """Tell whether a line has to ask: because it was refused, or soon would be."""
        if not self._ahead_of_use:
            return refused
        stocked = line.stocked
        return stocked < line.count and 2 * stocked <= line.lot

    # -- permits ------------------------------------------------------------------------------------------------

    async def run(self, bodies: Bodies, resting: Resting) -> None:
        """Ask for permits, until cancelled."""
        self._bodies = bodies
        try:
            while True:
                bodies.staff()
                while wants := self._wants():
                    await self._ask(wants)
                    bodies.staff()
                await resting.on(self._wake)
                self._wake.clear()
        finally:
            self._bodies = None
            if self._timer is not None:
                self._timer.cancel()
            for _, _, stock in self._good:
                stock.give_back()

    @override
    def look(self) -> None:
        if self._wanting[False] or self._wanting[True]:
            free = 0 if self._bodies is None else self._bodies.free
            if not self._ahead_of_use or 2 * self._stocked < free + self._ahead:
                self._wake.set()

    def _wants(self) -> list[tuple[Line, int]]:
        """Return the lines to ask for, and how many permits for each."""
        bodies = self._bodies
        assert bodies is not None  # noqa: S101 - it runs
        if not self._ahead_of_use:  # only when the next may come
            return [(line, 0) for line in islice((*self._wanting[False], *self._wanting[True]), _LINES)]
        isolating = bodies.isolates and self.alone_next
        others = () if isolating else self._wanting[False]
        lines = list(islice((*others, *(() if bodies.running else self._wanting[True])), _LINES))
        now = self._clock.monotonic()
        passed = now - self._asked_at
        self._ahead = int(self._begun * min(1.0, self._span / passed)) if passed > 0 else 0
        room = bodies.free + self._ahead - self._stocked
        if room <= 0 or not lines:
            return []
        share = max(1, room // len(lines))
        return [(line, min(line.count - line.stocked, 1 if line.alone else share)) for line in lines[:room]]

    async def _ask(self, wants: list[tuple[Line, int]]) -> None:
        stocks = [self._desk.stock(line.key, self._pace) for line, _ in wants]
        for line, _ in wants:
            line.asked = True
            del self._wanting[line.alone][line]
        self._asked_at, self._begun = self._clock.monotonic(), 0
        try:
            answers = await self._desk.fill([(stock, want) for stock, (_, want) in zip(stocks, wants, strict=True)])
        except StoreUnavailable as error:
            _logger.info("%s: permits are asked for again: %s", self._name, error.message)
            for line, _ in wants:
                line.asked, line.due = False, self._clock.monotonic() + self._poll
                line.hope = line.due
                self._put(line, refused=True)
            return
        except BaseException:
            for stock in stocks:
                stock.give_back()
            raise
        now = self._clock.monotonic()
        for stock, (line, _), permits in zip(stocks, wants, answers, strict=True):
            self._answered(line, stock, permits, now)

    def _answered(self, line: Line, stock: Stock, permits: Permits, now: float) -> None:
        line.asked = False
        if stock.count:
            self._stocked += stock.count
            self._span = stock.until - self._asked_at
            line.stocks.append(stock)
            line.lot = stock.count
            self._good.append((stock.until, line, stock))
            self._set_timer(stock.until)
        if permits.outlook is not None:
            most = max(_MOST_ELSEWHERE, len(self._late) / _LINES) if self._ahead_of_use else _MOST
            wait = max(permits.outlook.after(1), _LEAST)
            line.due, line.hope = now + min(wait, most), now + wait
        self._put(line, refused=not stock.count)

    # -- time ---------------------------------------------------------------------------------------------------

    def _set_timer(self, at: float) -> None:
        if at >= self._timed or at == math.inf:
            return
        if self._timer is not None:
            self._timer.cancel()
        now = self._clock.monotonic()
        wait = max(0.0, at - now)
        while now + wait < at:
            wait += math.ulp(at)
        self._timed = at
        self._timer = self._clock.call_later(wait, self._on_time)

    def _on_time(self) -> None:
        self._timer, self._timed = None, math.inf
        now = self._clock.monotonic()
        while self._late and self._late[0][0] <= now:
            _, _, line = heapq.heappop(self._late)
            self._held_up -= line.count
            line.place = ""
            self._put(line)
        while self._good and (self._good[0][0] < now or not self._good[0][2].count):
            _, line, stock = self._good.popleft()
            if stock.count:
                self._stocked -= stock.count
                stock.give_back()
                line.stocks.remove(stock)
                self._put(line)
        if self._late:
            self._set_timer(self._late[0][0])
        if self._good:
            self._set_timer(max(self._good[0][0], now + _LEAST))
        self._wake.set()
