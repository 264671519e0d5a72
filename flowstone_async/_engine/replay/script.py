"""What is on record of a body, found by key and handed out in the order in which the body had seen it."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

from flowstone_async._engine.replay.cuts import Cuts, Seen
from flowstone_async._engine.replay.prints import same_prints
from flowstone_async._engine.replay.scope import Place
from flowstone_async.errors import Failure, ReplayMismatch
from flowstone_async.store.steps import StepRecord

_PATIENCE = 5.0
_AT_ONCE = ("now", "patched", "notify", "returned", "rearmed", "mismatch", "resolved", "secret")
"""Kinds of records that nobody awaits: they are told at once, or the body sees nothing of them."""
_TURNS = 5
"""Of the event loop, after which a body has seen a result: `asyncio.wait` takes three, a task around it one more."""
_logger = logging.getLogger("flowstone")


class Called(tuple[str, str, str]):
    """What is called: its kind, the name of its function, and a hash of its arguments."""

    __slots__ = ()

    def describe(self) -> str:
        """Say so, for people."""
        kind, function, _ = self
        return f"ctx.{kind}({function.rpartition(':')[2]})" if function else f"ctx.{kind}()"


def called_of(record: StepRecord) -> Called:
    """Return what a record is of."""
    return Called((record.kind, record.function, record.arguments))


class Script:
    """Results on record of one body.

    Results of this attempt are handed out one at a time in the order in which they were seen, a later one only after
    those before it: so whichever of several concurrent calls was first is first again. Those of earlier attempts were
    there from the beginning of this one, and are handed out at once. What failed in an earlier attempt is not there.
    A result that nobody asks for, while others wait, is passed over after some seconds: a call that was cancelled when
    the body had what it wanted may not come again. Whoever asks for it later gets it at once.

    What was called inside a call that has a result itself is not called again, and is waited for by nobody.

    Args:
        records: All of the body.
        attempt: The present one, of the asset.
        asset: Its name, for messages.

    Attributes:
        watchers: Called whenever the next result is one that nobody has asked for yet.
        cuts: Earlier mismatches.
        mismatch: Where the code does not fit the record: whatever it does from then on, it makes no durable call.
        passed: Whether a mismatch that was not resolved is none any more.
    """

    def __init__(self, records: Sequence[StepRecord] = (), attempt: int = 1, asset: str = "") -> None:
        known = [each for each in records if each.error is None or each.attempt == attempt]
        self._failed = {each.key: each.error for each in records if each.error is not None and each.attempt < attempt}
        self._asset, self._attempt = asset, attempt
        self.cuts = Cuts(records)
        self.mismatch: tuple[Seen, ReplayMismatch] | None = None
        self.passed = False
        self._records = {each.key: each for each in known}
        ours = [each for each in known if each.attempt == attempt]
        self._at = {(each.path, each.place): each for each in ours}
        handed = (each for each in sorted(ours, key=lambda each: each.seen) if each.kind not in _AT_ONCE)
        self._order = OrderedDict((each.key, each.path) for each in handed if not self._is_inside(each.path))
        self._asked: dict[str, asyncio.Future[None]] = {}
        self._behind: list[asyncio.Future[None]] = []
        self.watchers: set[Callable[[], None]] = set()
        self._handing = False
        self._stalled: asyncio.TimerHandle | None = None
        self.seen = 1 + max((each.seen for each in records), default=-1)
        self.count = len(records)

    def _is_inside(self, path: str) -> bool:
        """Tell whether a scope is that of a call that has a result on record."""
        return any(each in self._records for each in scopes(path))

    @property
    def replaying(self) -> bool:
        """Whether results of this attempt are still to be handed out."""
        return bool(self._order)

    def find(self, place: Place, called: Called) -> StepRecord | None:
        """Return what is on record of a call; None if it has no result yet.

        Raises:
            ReplayMismatch: Another call is on record in its place.
        """
        if self.mismatch is not None:
            raise self.mismatch[1]
        found = self._records.get(place.key)
        if found is None:
            there = self._at.get((place.path, place.number))
            if there is not None:
                raise self._mismatch(place, there, called)
            return None
        if not _same(called_of(found), called):
            raise self._mismatch(place, found, called)
        if self.cuts.open is not None and self.cuts.open.record == place.key:
            self.passed = True
        return found

    def has(self, key: str) -> bool:
        """Tell whether a call has a result on record."""
        return key in self._records

    def went_past(self, place: Place) -> bool:
        """Tell whether this attempt had a result of a call at a place, or behind it in its scope."""
        return any(path == place.path and number >= place.number for path, number in self._at)

    def at(self, path: str) -> list[StepRecord]:
        """Return what is on record in a scope, in the order of the calls."""
        return sorted((each for each in self._records.values() if each.path == path), key=lambda each: each.place)

    def failed_before(self, place: Place) -> Failure | None:
        """Return what a call failed with in an earlier attempt, if it did."""
        return self._failed.get(place.key)

    async def turn(self, record: StepRecord) -> None:
        """Wait until it is the turn of a result that is on record."""
        key = record.key
        if key not in self._order:
            return
        loop = asyncio.get_running_loop()
        turn = self._asked[key] = loop.create_future()
        if not self._handing:  # not at once: what the body begins beside it takes its places first, as it did before
            self._handing = True
            loop.call_soon(self._go_on, _TURNS)
        try:
            await turn
        except asyncio.CancelledError:
            self._skip(key)
            self._hand_out()
            raise

    def reach(self, record: StepRecord) -> None:
        """Wait no more for results that come before one on record, as far as nobody has asked for them."""
        if record.key in self._order:
            keys = list(self._order)
            self.pass_over(keys[: keys.index(record.key)])

    async def drained(self) -> None:
        """Wait until all was handed out: what is new comes after what was seen before."""
        if self._order:
            turn = asyncio.get_running_loop().create_future()
            self._behind.append(turn)
            self._hand_out()
            await turn

    @property
    def missing(self) -> str | None:
        """Key of the next result, if nobody has asked for it yet."""
        head = next(iter(self._order), None)
        return None if head in self._asked else head

    def below(self, path: str) -> tuple[str, ...]:
        """Return the keys of what is still to be handed out in a scope, and inside of its calls."""
        return tuple(key for key, of in self._order.items() if of == path or of.startswith(f"{path}/"))

    def pass_over(self, keys: Iterable[str]) -> None:
        """Wait no more for some results, as far as nobody has asked for them."""
        for key in keys:
            if key not in self._asked:
                self._skip(key)
        self._hand_out()

    def forgo(self) -> None:
        """Wait for no result on record: the body is not called again."""
        self.pass_over(list(self._order))

    def _skip(self, key: str) -> None:
        self._order.pop(key, None)
        self._asked.pop(key, None)

    def _hand_out(self) -> None:
        if self._handing:
            return
        if not self._order:
            self._go_past()
            return
        if self.missing is not None:
            for told in tuple(self.watchers):
                told()
            if (self._asked or self._behind) and self._stalled is None:
                self._stalled = asyncio.get_running_loop().call_later(_PATIENCE, self._lose_patience)
            return
        self.close()
        self._handing = True
        key, _ = self._order.popitem(last=False)
        turn = self._asked.pop(key)
        if not turn.done():
            turn.set_result(None)
        # The body runs before the next one: it may ask for more, or end what waits.
        asyncio.get_running_loop().call_soon(self._go_on, _TURNS)

    def _go_past(self) -> None:
        """Let go on what has waited for the last result."""
        self.close()
        behind, self._behind = self._behind, []
        for turn in behind:
            if not turn.done():
                turn.set_result(None)

    def _lose_patience(self) -> None:
        self._stalled = None
        if not self._asked and all(turn.done() for turn in self._behind):
            return
        while (key := self.missing) is not None:
            text = "asset %r: the result of step %r is on record, and nobody asks for it: those behind it are given now"
            _logger.info(text, self._asset, key)
            self._skip(key)
        self._hand_out()

    def close(self) -> None:
        """Watch for nothing any more."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _go_on(self, turns: int) -> None:
        if turns > 1:
            asyncio.get_running_loop().call_soon(self._go_on, turns - 1)
            return
        self._handing = False
        self._hand_out()

    def _mismatch(self, place: Place, record: StepRecord, found: Called) -> ReplayMismatch:
        expected = called_of(record)
        error = self._told(place, record.key, expected, found)
        seen = Seen(place.key, place.path, place.number, record.key, record.seen, expected, found)
        self.mismatch = seen, error
        return error

    def _told(self, place: Place, key: str, expected: Called, found: Called) -> ReplayMismatch:
        what = "other arguments" if expected[:2] == found[:2] else "another call"
        return ReplayMismatch(
            f"asset {self._asset!r} has changed under a body that is under way: {expected.describe()} is on record as "
            f"{key!r}, and the code makes {what} there: {found.describe()}",
            asset=self._asset,
            details={"key": place.key, "expected": list(expected), "found": list(found)},
            hint="Bring the code back, or say how to go on: engine.resolve(run, asset, how=...), with resume_at, "
            "restart or discard. What steps are given must come from steps, inputs or params: nothing else is the same "
            "when a body is called again.",
        )


def scopes(path: str) -> Iterator[str]:
    """Yield a path, or a key, and all that it may lie in, the innermost first."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def _same(expected: Called, found: Called) -> bool:
    (kind, function, arguments), (other_kind, other_function, others) = expected, found
    names = function.rpartition(".")[2].rpartition(":")[2], other_function.rpartition(".")[2].rpartition(":")[2]
    return kind == other_kind and names[0] == names[1] and ("" in (arguments, others) or same_prints(arguments, others))
