"""A backfill as a durable job: a run whose steps are the outcomes of its partitions, each of which is a run of its own.

A partition's run has an id that follows from the job's and the key's, so that whoever continues the job after a crash
finds what was begun: what ended counts as it ended, what goes on is awaited, or taken over if its owner is dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast
from uuid import UUID, uuid5

import anyio
from anyio.abc import TaskGroup

from flowstone_async._engine import stopped
from flowstone_async._engine.awaiting import complete
from flowstone_async._engine.backfill import (
    BackfillReport,
    OnError,
    Only,
    Outcome,
    SharedKeys,
    is_selected,
    outcome_in,
)
from flowstone_async._engine.backfill_progress import Progress, count
from flowstone_async._engine.journal import Journal, error_body
from flowstone_async._engine.reading import Reader
from flowstone_async._engine.request import BACKFILL, Request
from flowstone_async._engine.run import RunDriver
from flowstone_async._engine.session import Session
from flowstone_async.definition.keys import decode_key, encode_key
from flowstone_async.errors import ConfigError, ExecutionError, FlowstoneError, StoreUnavailable
from flowstone_async.events import (
    BackfillProgress,
    Event,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunStarted,
    RunSucceeded,
)
from flowstone_async.failures import describe
from flowstone_async.store.records import FINAL_RUN_STATES, Advance, RunDone, RunRecord

Stop = Literal["cancelled", "shutdown", "lease_lost", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillOptions:
    """What a backfill was asked for, as it is stored with its run.

    Attributes:
        keys: Encoded keys.
        ends: First and last key of a range that is too long to be listed, encoded.
    """

    keys: tuple[str, ...] = ()
    ends: tuple[str, str] | None = None
    parallel: int = 1
    only: Only = "all"
    on_error: OnError = "continue"

    def stored(self) -> dict[str, object]:
        """Return them JSON-compatible."""
        return {
            "keys": list(self.keys),
            "ends": None if self.ends is None else list(self.ends),
            "parallel": self.parallel,
            "only": self.only,
            "on_error": self.on_error,
        }

    @staticmethod
    def read(stored: Mapping[str, Any]) -> BackfillOptions:
        """Return those that were stored."""
        ends = stored["ends"]
        return BackfillOptions(
            keys=tuple(stored["keys"]),
            ends=None if ends is None else (ends[0], ends[1]),
            parallel=int(stored["parallel"]),
            only=stored["only"],
            on_error=stored["on_error"],
        )


class BackfillJob:
    """Drives one backfill.

    Attributes:
        state: How it ended, as far as this process knows.
        stopping: Why nothing new starts.
        done: Set at its end here.
    """

    def __init__(self, session: Session, record: RunRecord, progress: Progress, *, begun: bool) -> None:
        self.id, self.record = record.id, record
        self.state: Literal["running", "succeeded", "failed", "cancelled"] = "running"
        self.error: FlowstoneError | None = None
        self.stopping: Stop | None = None
        self.done = asyncio.Event()
        self._session, self._progress, self._begun = session, progress, begun
        self._options = BackfillOptions.read(cast("Mapping[str, Any]", record.options[BACKFILL]))
        catalog = session.catalogs[record.pipeline]
        catalog.node(record.targets[0])  # refuses one that is gone
        self._catalog = catalog
        self._params = catalog.params.load(record.params)
        self._hooks = session.hooks_of(catalog)
        self._journal = Journal(record.pipeline, record.id, self._hooks, last=progress.last_event)
        self._told: list[list[object]] = []
        self._commits = anyio.Lock()
        self._group: TaskGroup | None = None
        self._since = session.services.clock.monotonic()

    # -- the way of a backfill ------------------------------------------------------------------------------------

    async def drive(self) -> None:
        """Run the partitions that have not ended yet, and end the job."""
        try:
            if not self._progress.started:
                self._journal.add(RunStarted, self._now(), self._facts())
                await self._commit()
            await self._work_through()
            await self._conclude()
        except FlowstoneError as error:
            self._break_off(error)
        finally:
            if isinstance(self.error, StoreUnavailable) and self.state == "running":
                self._session.to_hand_back[self.id] = self.record.fence
            self.done.set()

    async def _work_through(self) -> None:
        source = SharedKeys(self._keys())
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                if self.stopping is not None:
                    return
                for number in range(self._options.parallel):
                    group.start_soon(self._work, source, name=f"backfill {self.id} {number}")
        finally:
            self._group = None
            await source.close()

    def _keys(self) -> Iterable[Any]:
        options = self._options
        if options.ends is None:
            return [decode_key(key) for key in options.keys]
        first, last = (decode_key(key) for key in options.ends)
        partitions: Any = self._catalog.node(self.record.targets[0]).definition.partitions
        if partitions is None:
            raise ConfigError(
                f"asset {self.record.targets[0]!r} declares no partitions any more", hint="Submit the backfill anew."
            )
        return partitions.range(first, last)

    async def _work(self, keys: AsyncIterator[Any]) -> None:
        try:
            async for key in keys:
                if self.stopping is not None:
                    return
                encoded = encode_key(key)
                if encoded in self._progress.ended:
                    continue
                if self._options.on_error == "halt" and self._progress.report.failed:
                    self._progress.report.not_started += 1
                    continue
                found = await self._one(key, encoded)
                if found is not None:
                    await self._tell(encoded, *found)
        except FlowstoneError as error:
            self._break_off(error)

    async def _one(self, key: Any, encoded: str) -> tuple[Outcome, FlowstoneError | None] | None:
        """Run one partition; None if it did not come to its end here."""
        session, child = self._session, str(uuid5(UUID(self.id), encoded))
        if self._begun:
            record = await session.store.run(child)
            if record is not None:
                return await self._continued(record)
        try:
            request = self._request(key, child)
            if not is_selected(self._options.only, await self._status(request)):
                return "skipped", None
            driver = await complete(session, request, leaves=lambda: self.stopping is not None)
        except StoreUnavailable:
            raise
        except FlowstoneError as error:
            return None if self.stopping is not None else ("failed", error)
        if isinstance(driver, RunDriver) and driver.state == "running":
            if self.stopping is None and driver.error is not None:
                raise driver.error
            return None
        return await outcome_in(session, driver)

    async def _status(self, request: Request) -> Any:
        return None if self._options.only == "all" else await Reader(self._session).status_for(request)

    def _request(self, key: Any, child: str) -> Request:
        options: Mapping[str, Any] = self.record.options
        timeout = options.get("timeout")
        return self._session.request(
            [f"{self.record.pipeline}.{self.record.targets[0]}"],
            partition=key,
            params=self._params,
            force=options.get("force") is True,
            timeout=False if timeout is None else timeout,
            run_id=child,
            on_wait="wait",
            parent=self.id,
        )

    async def _continued(self, record: RunRecord) -> tuple[Outcome, FlowstoneError | None] | None:
        """Wait for a partition's run that was begun before; take it over if its owner is dead."""
        session, topic = self._session, f"run:{record.id}"
        try:
            while record.state not in FINAL_RUN_STATES:
                if session.services.adopt is not None:
                    await session.services.adopt(record.id)
                if self.stopping is not None:
                    break
                await session.changed(topic, within=session.services.settings.poll, run_id=record.id)
                record = await session.store.run(record.id) or record
        except asyncio.CancelledError:
            if self.stopping == "cancelled":
                with anyio.CancelScope(shield=True):
                    await session.cancel(record.id, actor="engine")
            raise
        if record.state not in FINAL_RUN_STATES:
            return None
        return await outcome_in(session, record)

    # -- commits ------------------------------------------------------------------------------------------------

    async def _tell(self, key: str, outcome: Outcome, error: FlowstoneError | None) -> None:
        """Record how a partition ended; those that end meanwhile share the next commit."""
        count(self._progress.report, self.record, key, outcome, error)
        self._told.append([key, outcome, None if error is None else error_body(error, key)])
        async with self._commits:
            if self._told:
                self._note()
                await self._commit()

    def _note(self, not_started: int = 0) -> None:
        report, told = self._progress.report, self._told
        self._told = []
        body = {**self._facts(), "outcomes": told, "not_started": not_started}
        totals = {"succeeded": report.succeeded, "failed": report.failed, "skipped": report.skipped}
        self._journal.add(BackfillProgress, self._now(), {**body, **totals})

    async def _commit(self, finish: RunDone | None = None) -> None:
        records, events = self._journal.take()
        step = Advance(run_id=self.id, fence=self.record.fence, events=records, finish=finish)
        advanced = await self._session.store.advance(step)
        if not advanced.accepted:
            self.lose()
            return
        if finish is not None:
            self.state = finish.state
        await self._hooks.emit_all(events)

    async def _conclude(self) -> None:
        match self.stopping:
            case "cancelled":
                self.state = "cancelled"
                await self._tell_cancelled()
            case "shutdown":
                await self._session.store.hand_back(self.id, self.record.fence)
                self.error = stopped.closed(self.id)
            case "lease_lost" | "broken":
                self.error = self.error or stopped.lease_lost(self.id, self._session.store.unreachable)
            case None:
                await self._end()

    async def _end(self) -> None:
        report, body = self._progress.report, {**self._facts(), "seconds": self.seconds}
        if report.not_started or self._told:
            self._note(report.not_started)
        failed = None
        if report.failed or report.not_started:
            first = next(iter(report.errors.values()), None)
            failed = ExecutionError(
                _failed(report, self.record.targets[0], first),
                asset=self.record.targets[0],
                run_id=self.id,
                hint='Mend the cause, then backfill again with only="failed".',
            )
            failed.__cause__ = first
            self._journal.add(RunFailed, self._now(), dict(body), failed)
        else:
            self._journal.add(RunSucceeded, self._now(), dict(body))
        state: Literal["failed", "succeeded"] = "succeeded" if failed is None else "failed"
        self._journal.add(RunFinished, self._now(), {**body, "state": state}, failed)
        self.error = failed
        await self._commit(RunDone(state=state, error=None if failed is None else describe(failed)))

    async def _tell_cancelled(self) -> None:
        body = {**self._facts(), "seconds": self.seconds}
        self._journal.take()
        self._journal.add(RunCancelled, self._now(), dict(body))
        self._journal.add(RunFinished, self._now(), {**body, "state": "cancelled"})
        events: list[Event] = self._journal.take()[1]
        await self._hooks.emit_all(events)

    # -- stopping -----------------------------------------------------------------------------------------------

    def stop(self, reason: Stop) -> None:
        """Start no further partition; the runs of those that go on are cancelled with the job, else end as any run."""
        if self.stopping is not None or self.state != "running":
            return
        self.stopping = reason
        self._session.look_again()  # partitions whose runs are suspended are nobody's here: they are not waited for
        if reason == "cancelled" and self._group is not None:
            self._group.cancel_scope.cancel()

    def lose(self) -> None:
        """Somebody else owns the job now, or ended it."""
        self.stop("lease_lost")

    def _break_off(self, error: FlowstoneError) -> None:
        self.error = self.error or stopped.broken_off(self.id, error)
        self.stop("broken")

    @property
    def seconds(self) -> float:
        """Seconds since this process began to drive it."""
        return self._session.services.clock.monotonic() - self._since

    def _now(self) -> Any:
        return self._session.store.now()

    def _facts(self) -> dict[str, object]:
        return {"targets": list(self.record.targets), "partition": ""}


def _failed(report: BackfillReport, asset: str, first: FlowstoneError | None) -> str:
    text = f"{report.failed} partition{'' if report.failed == 1 else 's'} of {asset!r} failed"
    if report.not_started:
        text += f", {report.not_started} {'was' if report.not_started == 1 else 'were'} not started"
    if first is not None:
        text += f"; the {'cause' if report.failed == 1 else 'first'}: {first.message}"
    return text


async def drive_backfill(session: Session, record: RunRecord, *, begun: bool) -> None:
    """Drive a backfill that was claimed, to its end.

    Raises:
        FlowstoneError: It cannot be continued here.
    """
    progress = await Progress.read(session, record) if begun else Progress(BackfillReport(_session=session))
    job = BackfillJob(session, record, progress, begun=begun)
    if session.closing or session.lost:
        raise stopped.closed(record.id)
    session.jobs[record.id] = job
    session.to_hand_back.pop(record.id, None)
    try:
        await job.drive()
    finally:
        del session.jobs[record.id]
