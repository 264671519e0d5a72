"""Submitting a backfill, and its handle."""

from __future__ import annotations

from collections.abc import AsyncIterable, Generator, Iterable
from typing import Any, cast

from flowstone_async._engine.backfill import TIMEOUT, BackfillReport, OnError, Only, check, keys_of
from flowstone_async._engine.backfill_job import BackfillOptions
from flowstone_async._engine.backfill_progress import Progress
from flowstone_async._engine.handle import RunHandle
from flowstone_async._engine.listing import find_run
from flowstone_async._engine.request import BACKFILL, digest
from flowstone_async._engine.run_status import RunStatus
from flowstone_async._engine.session import Session, Timeout
from flowstone_async._engine.submitting import Queueing, refuse_unstorable, store_run
from flowstone_async._engine.targets import Target, find
from flowstone_async.definition.key_range import KeyRange
from flowstone_async.definition.keys import encode_key
from flowstone_async.definition.policy import Duration
from flowstone_async.errors import ConfigError
from flowstone_async.planning.units import partition_for
from flowstone_async.store.records import RunRecord
from flowstone_async.types import new_id

MOST_KEYS = 100_000


class BackfillHandle:
    """A backfill that was submitted. Cancelling a task that awaits it leaves the backfill alone."""

    def __init__(self, session: Session, run: RunHandle[BackfillReport]) -> None:
        self._session, self._run = session, run

    @property
    def id(self) -> str:
        """Id of the backfill's run; `Engine.find` takes it too."""
        return self._run.id

    async def status(self) -> RunStatus:
        """Return how the backfill is; its state is `failed` once it has ended with failed partitions."""
        return await self._run.status()

    async def progress(self) -> BackfillReport:
        """Return what has come of its partitions so far.

        Raises:
            RunNotFound: It is not on record any more.
        """
        self._session.check()
        return (await Progress.read(self._session, await find_run(self._session, self.id))).report

    def __await__(self) -> Generator[Any, None, BackfillReport]:
        return self.result().__await__()

    async def result(self, *, timeout: Duration | None = None) -> BackfillReport:
        """Await its end and return what came of its partitions; failed ones are in the report.

        Args:
            timeout: How long to wait; the backfill goes on if it passes.

        Raises:
            TimedOut: It did not end in time.
            Cancelled: It was cancelled.
            FlowstoneError: It could not be carried out at all.
        """
        return await self._run.result(timeout=timeout)

    async def cancel(self) -> None:
        """Start no further partition, and cancel those that are running.

        Raises:
            NothingToCancel: It has ended.
        """
        await self._run.cancel()


async def submit_backfill(
    session: Session,
    target: Target,
    partitions: Iterable[Any] | AsyncIterable[Any] | None,
    queueing: Queueing,
    *,
    parallel: int,
    force: bool,
    only: Only,
    on_error: OnError,
    timeout: Timeout,
    params: object,
) -> BackfillHandle:
    """Store a backfill for any engine to carry out; see `Engine.submit_backfill`."""
    session.check()
    check(parallel, only, on_error)
    catalog, name = find(session.catalogs, target)
    limit = TIMEOUT if timeout is None else timeout
    request = session.request(
        [f"{catalog.graph.pipeline}.{name}"], params=params, force=force, timeout=limit, submitted=True
    )
    refuse_unstorable(request)
    given = await keys_of(session, catalog, name, partitions)
    keys, ends = await _listed(given)
    node = catalog.node(name)
    for key in keys:
        partition_for(node, key)
    options = BackfillOptions(
        keys=tuple(dict.fromkeys(map(encode_key, keys))), ends=ends, parallel=parallel, only=only, on_error=on_error
    )
    record = RunRecord(
        id=new_id(),
        pipeline=request.pipeline,
        targets=request.targets,
        options={**request.options(), BACKFILL: options.stored()},
        params=request.params_json,
        state="queued",
        submitted=True,
        priority=queueing["priority"],
        at=queueing["at"],
    )
    subject = digest(request.subject(), record.options)
    handle = await store_run(session, record, subject, key=queueing["key"], conn=queueing["conn"])
    return BackfillHandle(session, cast("RunHandle[BackfillReport]", handle))


async def _listed(given: Iterable[Any] | AsyncIterable[Any]) -> tuple[list[Any], tuple[str, str] | None]:
    """Return the keys, or the ends of a long range.

    Raises:
        ConfigError: There are too many to be listed, and they are no range.
    """
    if isinstance(given, KeyRange) and given.count > MOST_KEYS and given.indexes.step == 1:
        return [], (encode_key(given.first), encode_key(given.last))
    keys: list[Any] = []
    if isinstance(given, AsyncIterable):
        async for key in given:
            _add(keys, key)
    else:
        for key in given:
            _add(keys, key)
    return keys, None


def _add(keys: list[Any], key: Any) -> None:
    if len(keys) >= MOST_KEYS:
        raise ConfigError(
            f"a submitted backfill lists at most {MOST_KEYS:,} keys",
            hint="Give a range of the partition set (.range(first, last)), or submit it in parts.",
        )
    keys.append(key)
