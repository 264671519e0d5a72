"""The verbs of an engine for runs in the background, and for looking at the runs of all engines on a store."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from datetime import datetime
from typing import Any, TypeVar, overload

from typing_extensions import Unpack

from flowstone_async._engine.backfill import OnError, Only
from flowstone_async._engine.backfill_handle import BackfillHandle, submit_backfill
from flowstone_async._engine.following import follow
from flowstone_async._engine.handle import RunHandle
from flowstone_async._engine.listing import find_run, list_runs
from flowstone_async._engine.session import Session, Timeout
from flowstone_async._engine.submitting import SubmitOptions, retry, split, submit
from flowstone_async._engine.targets import Target
from flowstone_async._engine.verbs import Verbs
from flowstone_async.config import switch
from flowstone_async.definition.handle import AssetRef, OpenRef, PartitionedRef
from flowstone_async.events import Event
from flowstone_async.store.records import RunRecord, RunState

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
K = TypeVar("K")


class Background(Verbs):
    """What an engine does with runs that nobody need await."""

    @abstractmethod
    def _live(self) -> Session:
        """Return the session of the open engine."""

    @overload
    async def submit(
        self, target: PartitionedRef[T, K], /, *, partition: K, **options: Unpack[SubmitOptions]
    ) -> RunHandle[T]: ...
    @overload
    async def submit(
        self, target: OpenRef[T], /, *, partition: object = None, **options: Unpack[SubmitOptions]
    ) -> RunHandle[T]: ...
    @overload
    async def submit(
        self,
        target: AssetRef[T1],
        second: AssetRef[T2],
        /,
        *,
        partition: object = None,
        **options: Unpack[SubmitOptions],
    ) -> RunHandle[tuple[T1, T2]]: ...
    @overload
    async def submit(
        self, target: str, /, *, partition: object = None, **options: Unpack[SubmitOptions]
    ) -> RunHandle[Any]: ...
    @overload
    async def submit(
        self,
        target: Target,
        second: Target,
        /,
        *more: Target,
        partition: object = None,
        **options: Unpack[SubmitOptions],
    ) -> RunHandle[tuple[Any, ...]]: ...
    async def submit(self, *targets: Any, partition: Any = None, **options: Unpack[SubmitOptions]) -> RunHandle[Any]:
        """Store a run for any engine with free slots to claim, and return its handle at once.

        An equal run that is queued or running is joined, unless `force` or `run_id` is given.

        Args:
            targets: Handles or names.
            partition: The run's key.
            options: See `SubmitOptions`; the timeout has no default here, and counts from the run's start.

        Raises:
            KeyConflict: The key was used for another target, partition or params.
            DependencyNotReady: With `with_deps=False`, required upstreams are not stored.
            ConfigError: An option is wrong, or cannot be stored.
        """
        return await submit(self._live(), targets, partition, options)

    async def submit_backfill(
        self,
        asset: Target,
        *,
        partitions: Iterable[Any] | AsyncIterable[Any] | None = None,
        parallel: int = 1,
        force: bool = False,
        only: Only = "all",
        on_error: OnError = "continue",
        timeout: Timeout = None,
        params: object = None,
        key: str | None = None,
        priority: int = 0,
        at: datetime | None = None,
        conn: object = None,
    ) -> BackfillHandle:
        """Store a backfill for any engine with a free slot to carry out; after a crash it goes on where it was.

        Args:
            asset: Handle or name.
            partitions: As for `backfill`; at most 100,000 keys, or a range of the set.
            parallel: Partitions running at once, in the engine that carries it out; the backfill takes one slot.
            force: Compute also what is fresh.
            only: `"all"`, or only the partitions that are `"missing"`, `"failed"` or `"stale"` when their turn comes.
            on_error: `"continue"`, or `"halt"`: start no further partition after the first failure.
            timeout: For each partition; 30 minutes without it, False for no limit.
            params: Of the pipeline's params type.
            key: The same key gives the same backfill again, as long as it is on record.
            priority: 0 to 3, lower first.
            at: It does not start before this instant, on the store's clock.
            conn: An asyncpg connection, in whose transaction the backfill is stored.

        Raises:
            ConfigError: An option is wrong, or cannot be stored.
            KeyConflict: The key was used for another backfill.
        """
        switch(force, what="force")
        queueing, _ = split({"key": key, "priority": priority, "at": at, "conn": conn})
        return await submit_backfill(
            self._live(),
            asset,
            partitions,
            queueing,
            parallel=parallel,
            force=force,
            only=only,
            on_error=on_error,
            timeout=timeout,
            params=params,
        )

    async def retry(self, run_id: str) -> RunHandle[Any]:
        """Submit what an ended run was asked for once more; values that it committed are taken as they are.

        A scatter that became no value goes on where it was: at the recorded cursor, with the results that it has. Its
        failed items are run again where they were too many.

        Raises:
            RunNotFound: The store has no such run.
            AssetNotFound: It is of a pipeline, or an asset, that the engine does not have.
            ConfigError: It has not ended, or not all that it was asked for was stored.
        """
        return await retry(self._live(), run_id)

    async def find(self, run_id: str) -> RunHandle[Any]:
        """Return the handle of a run, from any process that shares the store.

        Raises:
            RunNotFound: The store has no such run.
        """
        session = self._live()
        record = await find_run(session, run_id)
        flight = session.flights.get(run_id)
        return RunHandle(session, record, None if flight is None else flight.driver)

    async def runs(
        self, *, state: RunState | None = None, asset: Target | None = None, limit: int = 50, after: str | None = None
    ) -> tuple[RunRecord, ...]:
        """Return runs, newest first.

        Args:
            state: Only runs in this state.
            asset: Only runs with this target.
            limit: At most so many.
            after: Id of the last run of the previous page.

        Raises:
            AssetNotFound: There is no such asset.
            RunNotFound: `after` is no run of this store (any more).
            ConfigError: Another option is wrong.
        """
        return await list_runs(self._live(), state=state, asset=asset, limit=limit, after=after)

    def events(
        self,
        *,
        asset: Target | None = None,
        pipeline: str | None = None,
        types: type[Event] | tuple[type[Event], ...] | None = None,
        after: int = 0,
    ) -> AsyncGenerator[Event]:
        """Yield events of all runs on the store, from any process, in order of commit, live and without end.

        Args:
            asset: Only of this asset.
            pipeline: Only of this pipeline of the engine.
            types: Only of these types and types below them.
            after: `Event.cursor` of the last event already seen.

        Raises:
            AssetNotFound: There is no such asset.
            ConfigError: There is no such pipeline, no such event type, or it is told to hooks only.

        Example:
            >>> async for event in engine.events(types=RunFailed):
            ...     await page(event.error)
        """
        return follow(self._live(), asset=asset, pipeline=pipeline, types=types, after=after)
