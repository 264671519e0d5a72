"""What a body has on record: read before it is called, written under the fence of its run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID, uuid5

from flowstone_async._engine.replay.cuts import Cuts, Seen, gate_of, resolved_place, resolved_value
from flowstone_async._engine.replay.facts import BodyFacts
from flowstone_async._engine.replay.retelling import retell
from flowstone_async._engine.replay.scope import Place, Scope
from flowstone_async._engine.replay.script import Called, Script
from flowstone_async._engine.services import Services
from flowstone_async._engine.tokens import key_id, secret_for
from flowstone_async._engine.waits.body_waits import BodyWaits, Evicted
from flowstone_async._engine.waits.parked import Parked
from flowstone_async._engine.waits.places import Pauses, Places
from flowstone_async._engine.waits.seats import Seats
from flowstone_async._engine.waits.wait_journal import SilentJournal, WaitJournal
from flowstone_async.errors import (
    LeaseLost,
    ReplayMismatch,
    StepLimit,
    StoreUnavailable,
)
from flowstone_async.store.steps import StepRecord

_MANY, _MOST = 2_000, 20_000
_SECRET, _SEALED = Place("token/secret#0", "token", 0), Called(("secret", "", ""))
_SILENT = SilentJournal()
_logger = logging.getLogger("flowstone")


class Recording:
    """What one body has on record, and what it waits for.

    Args:
        services: Of the engine.
        facts: Of the body.
        attempt: Of the asset, or of the item.
        known: Whether it may have something on record.
        identity: Of the item; None for the body of an asset.
        key: Of the item, for people.
    """

    __slots__ = (
        *("_attempt", "_id", "_identity", "_known", "_places", "_root", "_script", "_sealed", "_task", "_unwritten"),
        *("_waits", "beside", "deadline", "facts", "key", "seats", "services"),
    )

    def __init__(
        self,
        services: Services,
        facts: BodyFacts,
        *,
        attempt: int,
        known: bool,
        identity: str | None = None,
        key: object = None,
    ) -> None:
        # One for each item: whatever most of them have no use for is made when somebody asks.
        self.services, self.facts, self._attempt, self._known = services, facts, attempt, known
        self._identity, self._id = identity, facts.id if identity is None else None
        self.key = key
        self._script: Script | None = None
        self._sealed = False
        self._root: Scope | None = None
        self._unwritten: list[StepRecord] = []
        self._waits: BodyWaits | None = None
        self._task: asyncio.Task[Any] | None = None
        self._places: Places | None = None
        self.seats: Seats = facts.seats
        self.deadline: Pauses | None = None
        self.beside: Callable[[], Iterable[asyncio.Future[Any]]] = tuple

    def lodge(self, places: Places | None) -> None:
        """Note where its place is: that of an item, which the present task calls."""
        self._task = asyncio.current_task()
        self._places = places

    async def load(self) -> None:
        """Read what is on record."""
        self._task = asyncio.current_task()
        if self._known:
            steps, facts = self.services.store.steps, self.facts
            found = await steps.recorded(facts.run_id, self.id)
            script = self._script = Script(found, self._attempt, facts.asset)
            cut = script.cuts.cut_off(found)
            if cut:
                await self._drop(cut)
                await self.load()
            elif found:
                await retell(self, found)

    async def _drop(self, keys: Sequence[str]) -> None:
        facts = self.facts
        try:
            dropped = await self.services.store.steps.drop(facts.run_id, facts.fence, self.id, keys)
        except StoreUnavailable as error:
            facts.away(error)
            raise
        if not dropped:
            facts.lost()
            raise self._lost("nothing is cut off its record")

    @property
    def journal(self) -> WaitJournal:
        """What takes what it tells; that of an item tells nothing."""
        return self.facts.journal if self._identity is None else _SILENT

    @property
    def mismatch(self) -> tuple[Seen, ReplayMismatch] | None:
        """Where the code does not fit what is on record; None as far as it does."""
        script = self._script
        return None if script is None or script.mismatch is None else script.mismatch

    def has_passed(self, *, ended: bool) -> bool:
        """Tell whether the code fits what it did not fit before, and that is not on record yet.

        Args:
            ended: Whether the body has come to an end.
        """
        script = self._script
        if script is None or script.cuts.open is None or script.mismatch is not None:
            return False
        return ended or script.passed

    async def pass_mismatch(self) -> None:
        """Ask nobody any more how to go on: the code fits again, or has changed once more."""
        facts, steps = self.facts, self.services.store.steps
        self.script.passed = False
        records = await steps.recorded(facts.run_id, self.id)
        cuts = Cuts(records)
        if cuts.open is not None:
            gate = gate_of(self.id, cuts.number)
            await facts.waits.withdraw([gate])
            self.journal.withdrawn([gate])
            value = resolved_value("passed", cuts.open, records)
            record = self.make_record(resolved_place(cuts.number), Called(("resolved", "", "")), value)
            await steps.record(facts.run_id, facts.fence, self.id, [record])

    def close(self) -> None:
        """Let go of it: the body has ended."""
        if self._script is not None:
            self._script.close()
        if self._waits is not None:
            self._waits.end()

    @property
    def waits(self) -> BodyWaits:
        """What it waits for."""
        if self._waits is None:
            facts, places = self.facts, self._places
            if places is not None and self._task is not None:
                self.seats, self.deadline = places.seats, places.deadline(self._task)
            self._waits = BodyWaits(
                facts.waits,
                self.seats,
                self.services.clock,
                task=self._task,
                grace=self.services.settings.cancel_grace,
                patience=facts.park_after,
                name=f"a body of asset {facts.asset!r}",
                deadline=self.deadline,
                beside=self.beside,
            )
        return self._waits

    @property
    def evicted(self) -> tuple[Parked, ...] | None:
        """What it waited for when it was evicted; None if it was not."""
        return None if self._waits is None else self._waits.evicted

    async def check(self) -> None:
        """Do nothing more if the body is being evicted, or its run goes on elsewhere.

        Raises:
            Evicted: So it is.
        """
        if self.evicted is not None or self.facts.waits.over:
            await asyncio.sleep(0)  # a body that calls again whatever comes must not hold the event loop
            raise Evicted

    @property
    def id(self) -> str:
        """What its records lie under: the same whenever the body is called in this run."""
        if self._id is None:
            self._id = str(uuid5(UUID(self.facts.id), self._identity or ""))
        return self._id

    @property
    def script(self) -> Script:
        """What is on record."""
        if self._script is None:
            self._script = Script(attempt=self._attempt, asset=self.facts.asset)
        return self._script

    @property
    def secret(self) -> bytes:
        """What tokens of its gates are made with: the same whenever the body is called in this run.

        Raises:
            ConfigError: The engine has none.
        """
        found = self.script.find(_SECRET, _SEALED)
        return secret_for(self.services.secrets, None if found is None else (found.value or b"").decode())

    def seal(self) -> bytes:
        """Return `secret`, for a token that is given away: which one it was is on record with what comes next.

        So engines that list another secret first make the same tokens, as long as they list this one too.
        """
        secret = self.secret
        if not self._sealed and self.script.find(_SECRET, _SEALED) is None:
            self._sealed = True
            self._unwritten.append(self.make_record(_SECRET, _SEALED, key_id(secret).encode()))
        return secret

    def count(self, place: Place) -> None:
        """Count one more durable call.

        Raises:
            StepLimit: There are too many.
        """
        self.script.count += 1
        if self.script.count > _MOST:
            raise StepLimit(
                f"asset {self.facts.asset!r} makes more than {_MOST:,} durable calls in one body",
                asset=self.facts.asset,
                details={"key": place.key},
                hint="Make the items of a scatter of what it loops over: each has a body, and a record, of its own.",
            )
        if self.script.count == _MANY + 1:
            text = "asset %r makes more than %d durable calls in one body: a scatter would be faster to go on with"
            _logger.warning(text, self.facts.asset, _MANY)

    def make_record(self, place: Place, called: Called, value: bytes | None) -> StepRecord:
        """Return the record of a result, which is seen now."""
        kind, function, arguments = called
        seen, self.script.seen = self.script.seen, self.script.seen + 1
        return StepRecord(place.key, place.path, place.number, seen, self._attempt, kind, function, arguments, value)

    async def keep(self, record: StepRecord) -> None:
        """Put a result on record, and the times that were told before it; return once all before it was handed out."""
        self._unwritten.append(record)
        await self.write()
        await self.script.drained()

    async def write(self) -> None:
        """Put on record what is not yet."""
        await self.check()
        facts = self.facts
        records, self._unwritten = self._unwritten, []
        if not records:
            return
        try:
            kept = await self.services.store.steps.record(facts.run_id, facts.fence, self.id, records)
        except StoreUnavailable as error:
            facts.away(error)
            raise
        except asyncio.CancelledError:
            self._unwritten[:0] = records  # whoever writes next repeats them: that is harmless
            raise
        if not kept:
            facts.lost()
            raise self._lost(f"nothing of step {records[-1].key!r} is on record")

    def _lost(self, what: str) -> LeaseLost:
        run_id = self.facts.run_id
        return LeaseLost(
            f"run {run_id} is owned by another worker now, or was ended by one: {what}",
            run_id=run_id,
            hint="Look at the run: the other worker continues it.",
        )
