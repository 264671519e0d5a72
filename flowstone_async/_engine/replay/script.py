"""What is on record of a body, found by key and handed out in the order in which the body had seen it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from flowstone_async._engine.replay.scope import Place
from flowstone_async.errors import ReplayMismatch
from flowstone_async.store.steps import StepRecord

_PATIENCE = 5.0
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
    the body had what it wanted may not come again.

    Args:
        records: All of the body.
        attempt: The present one, of the asset.
        asset: Its name, for messages.
    """

    def __init__(self, records: Sequence[StepRecord] = (), attempt: int = 1, asset: str = "") -> None:
        known = [each for each in records if each.error is None or each.attempt == attempt]
        self._asset, self._attempt = asset, attempt
        self._records = {each.key: each for each in known}
        ours = [each for each in known if each.attempt == attempt]
        self._at = {(each.path, each.place): each for each in ours}
        self._order = deque(each.key for each in sorted(ours, key=lambda each: each.seen) if each.kind != "now")
        self._asked: dict[str, asyncio.Future[None]] = {}
        self._handing = False
        self._stalled: asyncio.TimerHandle | None = None
        self.seen = 1 + max((each.seen for each in records), default=-1)
        self.count = len(records)

    @property
    def replaying(self) -> bool:
        """Whether results of this attempt are still to be handed out."""
        return bool(self._order)

    def find(self, place: Place, called: Called) -> StepRecord | None:
        """Return what is on record of a call; None if it has no result yet.

        Raises:
            ReplayMismatch: Another call is on record in its place.
        """
        found = self._records.get(place.key)
        if found is None:
            there = self._at.get((place.path, place.number))
            if there is not None:
                raise self._mismatch(place, called_of(there), called)
            return None
        expected = called_of(found)
        if not _same(expected, called):
            raise self._mismatch(place, expected, called)
        return found

    async def turn(self, record: StepRecord) -> None:
        """Wait until it is the turn of a result that is on record."""
        if record.attempt != self._attempt:
            return
        turn = self._asked[record.key] = asyncio.get_running_loop().create_future()
        self._hand_out()
        await turn

    def _hand_out(self) -> None:
        if self._handing or not self._order:
            return
        if self._order[0] not in self._asked:
            if self._asked and self._stalled is None:
                self._stalled = asyncio.get_running_loop().call_later(_PATIENCE, self._pass_over)
            return
        self.close()
        self._handing = True
        turn = self._asked.pop(self._order.popleft())
        if not turn.done():
            turn.set_result(None)
        # The body runs before the next one: it may ask for more, or end what waits.
        asyncio.get_running_loop().call_soon(self._go_on)

    def _pass_over(self) -> None:
        self._stalled = None
        while self._order and self._order[0] not in self._asked:
            text = "asset %r: the result of step %r is on record, and nobody asks for it: those behind it are given now"
            _logger.info(text, self._asset, self._order.popleft())
        self._hand_out()

    def close(self) -> None:
        """Watch for nothing any more."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _go_on(self) -> None:
        self._handing = False
        self._hand_out()

    def _mismatch(self, place: Place, expected: Called, found: Called) -> ReplayMismatch:
        what = "other arguments" if expected[:2] == found[:2] else "another call"
        return ReplayMismatch(
            f"asset {self._asset!r} has changed under a body that is under way: {expected.describe()} is on record as "
            f"{place.key!r}, and the code makes {what} there: {found.describe()}",
            asset=self._asset,
            details={"key": place.key, "expected": list(expected), "found": list(found)},
            hint="Bring the code back for what is under way, or cancel the run and begin a new one. What steps are "
            "given must come from steps, inputs or params: nothing else is the same when a body is called again.",
        )


def _same(expected: Called, found: Called) -> bool:
    (kind, function, arguments), (other_kind, other_function, others) = expected, found
    names = function.rpartition(".")[2].rpartition(":")[2], other_function.rpartition(".")[2].rpartition(":")[2]
    return kind == other_kind and names[0] == names[1] and ("" in (arguments, others) or arguments == others)
