"""A run that was submitted: awaited, watched, cancelled, from any process that shares the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from flowstone_async._engine.deadline import Deadline
from flowstone_async._engine.journal import event_of
from flowstone_async._engine.redriving import Only, redrive
from flowstone_async._engine.report import RunReport
from flowstone_async._engine.results import report_of, values_of
from flowstone_async._engine.run import RunDriver
from flowstone_async._engine.run_status import RunStatus, run_status
from flowstone_async._engine.scatter.listing import list_errors, list_items
from flowstone_async._engine.session import Session
from flowstone_async._engine.stored_results import stored_report, stored_values
from flowstone_async._engine.targets import Target
from flowstone_async.config import seconds, whole
from flowstone_async.definition.policy import Duration
from flowstone_async.definition.scatter_item import ErrorGroup, ItemState, ScatterItem
from flowstone_async.errors import NothingToCancel, RunNotFound, TimedOut
from flowstone_async.events import Event
from flowstone_async.store.records import FINAL_RUN_STATES, RunRecord

T_co = TypeVar("T_co", covariant=True)
_LAST = 2**63 - 1
"""No event has a higher number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRef:
    """What names a run across processes: JSON-compatible."""

    run_id: str
    pipeline: str
    targets: tuple[str, ...]
    partition: str = ""


class RunHandle(Generic[T_co]):
    """A run that was submitted. Cancelling a task that awaits it leaves the run alone."""

    def __init__(self, session: Session, record: RunRecord, driver: RunDriver | None = None) -> None:
        self._session, self._record, self._driver = session, record, driver

    @property
    def id(self) -> str:
        """Id of the run."""
        return self._record.id

    @property
    def ref(self) -> RunRef:
        """What names the run across processes."""
        record = self._record
        return RunRef(run_id=record.id, pipeline=record.pipeline, targets=record.targets, partition=record.partition)

    async def status(self) -> RunStatus:
        """Return how the run is: its state, when it began and ended, who drives it, what it waits for."""
        return await run_status(self._session.store, await self._look())

    async def _look(self) -> RunRecord:
        self._session.check()
        found = await self._session.services.store.run(self.id)
        if found is None:
            raise RunNotFound(
                f"run {self.id} is not in this store, or not any more",
                run_id=self.id,
                hint="If it was submitted with conn=, commit that transaction first; ended runs are pruned in time.",
            )
        return found

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.result().__await__()

    async def result(self, *, timeout: Duration | None = None) -> T_co:
        """Await the run's end and return its value; from another process the one that is current then.

        Args:
            timeout: How long to wait; the run goes on if it passes.

        Raises:
            TimedOut: It did not end in time.
            FlowstoneError: The run failed, was cancelled, or its target was skipped.
        """
        record = await self._ended(None if timeout is None else seconds(timeout, what="timeout"))
        if record is None and self._driver is not None:
            values = await values_of(self._driver)
        else:
            values = await stored_values(self._session, record or await self._look())
        return cast("T_co", values[0] if len(values) == 1 else values)

    async def report(self) -> RunReport:
        """Await the run's end and return what came of it, asset by asset; from any process."""
        record = await self._ended(None)
        if record is None and self._driver is not None:
            return await report_of(self._driver)
        return await stored_report(self._session, record or await self._look())

    async def _ended(self, limit: float | None) -> RunRecord | None:
        """Wait for the end of the run; None if it was driven here, where the end of its hooks is waited for too."""
        services = self._session.services
        begun = services.clock.monotonic()
        while True:
            left = None if limit is None else limit - (services.clock.monotonic() - begun)
            if await self._driven(left):
                return None
            self._session.check(self.id)
            record = await self._look()
            if record.state in FINAL_RUN_STATES:
                return record
            left = None if limit is None else limit - (services.clock.monotonic() - begun)
            if left is not None and left <= 0:
                raise TimedOut(f"run {self.id} did not end within {limit:g} s; it goes on", run_id=self.id)
            within = services.settings.poll if left is None else min(left, services.settings.poll)
            await self._session.changed(f"run:{self.id}", within=within, run_id=self.id)

    async def _driven(self, limit: float | None) -> bool:
        """Wait while the run is driven here; returns whether it came to its end here."""
        flight = self._session.flights.get(self.id)
        if flight is not None:
            self._driver = flight.driver
        driver = self._driver
        if driver is None:
            return False
        services = self._session.services
        if not driver.done.is_set() and (limit is None or limit > 0):
            with Deadline(services.clock, limit, services.settings.cancel_grace):
                await driver.done.wait()
        if driver.done.is_set() and driver.state in ("running", "waiting"):
            self._driver = None  # another engine goes on with it, or this one does again
            return False
        return driver.done.is_set()

    async def events(self, *, after: int = 0) -> AsyncIterator[Event]:
        """Yield the run's events in order, live, and end after `RunFinished`.

        Args:
            after: Number (`Event.no`) of the last event already seen.

        Raises:
            ConfigError: `after` is no such number, or the engine was left.
        """
        self._session.check()
        whole(after, what="after", least=0)
        after = min(after, _LAST)
        store, poll = self._session.services.store, self._session.services.settings.poll
        while True:
            page = await store.events(self.id, after=after)
            for record in page:
                after = record.no
                yield event_of(self._record.pipeline, self.id, record)
                if record.type == "run.finished":
                    return
            if not page:
                if (await self._look()).state in FINAL_RUN_STATES and not await store.events(self.id, after=after):
                    return
                await self._session.changed(f"run:{self.id}", within=poll, run_id=self.id)

    async def redrive(self, asset: Target, *, only: Only = "failed", partition: object = None) -> RunHandle[T_co]:
        """Submit a run that runs items of an ended scatter of this one again, with fresh attempts, then all that
        depends on it; everything else is taken as it is stored. The same redrive, while it goes on, is the same run.

        Results of the other items are kept, and what this run has stays as it is: its value is the current one until
        the new run has another. How many items may fail is judged anew.

        Args:
            asset: The scatter, by handle or name.
            only: `"failed"` for items that failed for good, and what never came to its end; `"all"` for all items. Of
                batches, what failed runs as it was, whole or alone; with `"all"` they run as they were read.
            partition: Only of this key; without it, whatever keys the run has.

        Returns:
            The handle of the new run, whose result is what this run was asked for.

        Raises:
            RunNotFound: The store has not this run any more.
            AssetNotFound: There is no such asset.
            ConfigError: The scatter has not ended, or has no item to be run; it was redriven already (the message names
                the run), or a later run has computed the asset, or the scatter that it follows, since; its items were
                stored in batches and are taken one by one now, or the reverse; or the run cannot be repeated from its
                record.
        """
        return RunHandle(
            self._session, await redrive(self._session, await self._look(), asset, only=only, partition=partition)
        )

    async def items(
        self,
        asset: Target,
        *,
        state: ItemState = "failed",
        partition: object = None,
        limit: int = 100,
        after: int | None = None,
    ) -> tuple[ScatterItem, ...]:
        """Return items of a scatter of this run in the order of its source, whether or not it has ended.

        Of a scatter in batches these are its batches, first as they were read, then those that single items made which
        left them.

        Args:
            asset: The scatter, by handle or name.
            state: Only `"failed"`, `"done"` or `"pending"` ones.
            partition: Of this key; needed where the run has several.
            limit: At most so many.
            after: `ScatterItem.place` of the last item of the previous page.

        Raises:
            RunNotFound: The store has not this run any more.
            AssetNotFound: There is no such asset.
            ConfigError: An option is wrong, or the run has no items of that asset on record.
        """
        run = await self._look()
        return await list_items(self._session, run, asset, state=state, partition=partition, limit=limit, after=after)

    async def item_errors(self, asset: Target, *, partition: object = None, limit: int = 100) -> tuple[ErrorGroup, ...]:
        """Return what failed items of a scatter of this run raised, by type, the most frequent first.

        Args:
            asset: The scatter, by handle or name.
            partition: Of this key; needed where the run has several.
            limit: At most so many types.

        Raises:
            RunNotFound, AssetNotFound, ConfigError: As `items`.
        """
        return await list_errors(self._session, await self._look(), asset, partition=partition, limit=limit)

    async def cancel(self) -> None:
        """Record that the run is cancelled: its bodies get the event loop's cancellation; a queued one never starts.

        Raises:
            NothingToCancel: It has ended.
        """
        before = await self._look()
        after = before if before.state in FINAL_RUN_STATES else await self._session.cancel(self.id)
        if after is not None and (after is before or after.state != "cancelled"):  # it may have ended meanwhile
            raise NothingToCancel(f"run {self.id} has ended: {after.state}", run_id=self.id)
