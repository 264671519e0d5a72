"""Many partitions of one asset: a bounded number at a time, one run each."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import anyio

from flowstone_async._engine import stopped
from flowstone_async._engine.awaiting import complete
from flowstone_async._engine.backfill_report import BackfillReport, Outcome
from flowstone_async._engine.catalog import Catalog
from flowstone_async._engine.dynamic import known_keys
from flowstone_async._engine.reading import Reader
from flowstone_async._engine.results import problem_of
from flowstone_async._engine.run import RunDriver
from flowstone_async._engine.session import Session, Timeout
from flowstone_async._engine.status import AssetStatus
from flowstone_async._engine.stored_results import stored_report
from flowstone_async._engine.targets import Target, find
from flowstone_async.config import whole, word
from flowstone_async.definition.key_range import KeyRange
from flowstone_async.definition.keys import encode_key
from flowstone_async.errors import ConfigError, FlowstoneError, PartitionError
from flowstone_async.failures import ENDINGS
from flowstone_async.planning.units import partition_for
from flowstone_async.store.records import RunRecord
from flowstone_async.types import AssetKey

Only: TypeAlias = Literal["all", "missing", "failed", "stale"]
OnError: TypeAlias = Literal["continue", "halt"]
TIMEOUT = 1800.0
_logger = logging.getLogger("flowstone")


@dataclass(slots=True, kw_only=True)
class _Backfill:
    session: Session
    name: str
    parallel: int
    force: bool
    only: Only
    on_error: OnError
    timeout: Timeout
    options: Mapping[str, Any]
    report: BackfillReport
    on_progress: Callable[[BackfillReport], None] | None = None
    halted: bool = False

    async def work(self, keys: AsyncIterator[Any]) -> None:
        async for key in keys:
            if self.halted:
                self.report.not_started += 1
                continue
            try:
                await self.one(key)
            except FlowstoneError as error:
                self.fail(key, error)
            self.tell()

    async def one(self, key: Any) -> None:
        limit = TIMEOUT if self.timeout is None else self.timeout
        request = self.session.request(
            [self.name], partition=key, force=self.force, timeout=limit, on_wait="wait", **self.options
        )
        if self.only != "all" and not is_selected(self.only, await Reader(self.session).status_for(request)):
            self.report.skipped += 1
            return
        self.count(key, *await outcome_in(self.session, await complete(self.session, request)))

    def count(self, key: Any, outcome: Outcome, error: FlowstoneError | None) -> None:
        match outcome:
            case "succeeded":
                self.report.succeeded += 1
            case "skipped":
                self.report.skipped += 1
            case "failed":
                assert error is not None  # noqa: S101 - what has failed says why
                self.fail(key, error)

    def fail(self, key: Any, error: FlowstoneError) -> None:
        pipeline, name = self.name.split(".", 1)
        try:
            encoded = encode_key(key)
        except FlowstoneError:  # the key itself is what was wrong
            encoded = ""
        self.report.add_failure(key, error, AssetKey(pipeline, name, encoded))
        self.halted |= self.on_error == "halt"

    def tell(self) -> None:
        if self.on_progress is None:
            return
        try:
            self.on_progress(self.report)
        except ENDINGS:
            raise
        except BaseException:  # it is only told
            _logger.exception("on_progress of a backfill of %s failed; the backfill goes on", self.name)


async def outcome_in(session: Session, ended: RunDriver | RunRecord) -> tuple[Outcome, FlowstoneError | None]:
    """Return how the partition of a run counts that has ended, here or elsewhere, and its failure."""
    if isinstance(ended, RunDriver):
        return outcome_of(ended)
    report = await stored_report(session, ended)
    entry = next((each for each in report.entries if each.asset == ended.targets[0]), None)
    if not report.ok:
        return "failed", report.error or stopped.closed(ended.id)
    return ("succeeded" if entry is not None and entry.state == "ok" else "skipped"), None


def outcome_of(driver: RunDriver) -> tuple[Outcome, FlowstoneError | None]:
    """Return how the partition of an ended run counts, and its failure."""
    target = driver.units.targets[0]
    settled = driver.board.settled[target]
    problem = None if settled is not None and settled.state == "skipped" else problem_of(driver, target)
    if problem is not None:
        return "failed", problem
    return ("succeeded" if settled is not None and settled.state == "ok" else "skipped"), None


def is_selected(only: Only, status: AssetStatus | None) -> bool:
    """Tell whether `only` lets a partition of a status run; it needs none to let all run."""
    match only:
        case "missing":
            return status is None or not status.has_value
        case "failed":
            return status is not None and status.state == "failed"
        case "stale":
            return status is not None and status.has_value and not status.fresh
        case "all":
            return True


async def backfill(
    session: Session,
    target: Target,
    partitions: Iterable[Any] | AsyncIterable[Any] | None,
    *,
    parallel: int = 1,
    force: bool = False,
    only: Only = "all",
    on_error: OnError = "continue",
    timeout: Timeout = None,
    on_progress: Callable[[BackfillReport], None] | None = None,
    **options: Any,
) -> BackfillReport:
    """Run an asset for many partitions; see `Verbs.backfill`."""
    check(parallel, only, on_error, on_progress)
    catalog, name = find(session.catalogs, target)
    session.request([f"{catalog.graph.pipeline}.{name}"], force=force, timeout=timeout, **options)  # refuses bad ones
    given = await keys_of(session, catalog, name, partitions)
    report = BackfillReport(_session=session)
    job = _Backfill(
        session=session,
        name=f"{catalog.graph.pipeline}.{name}",
        parallel=parallel,
        force=force,
        only=only,
        on_error=on_error,
        timeout=timeout,
        options=options,
        report=report,
        on_progress=on_progress,
    )
    shared = SharedKeys(given)
    try:
        async with anyio.create_task_group() as group:
            for number in range(parallel):
                group.start_soon(job.work, shared, name=f"backfill {job.name} {number}")
    finally:
        await shared.close()
    if shared.error is not None:
        raise shared.error
    return report


def check(parallel: int, only: str, on_error: str, on_progress: object = None) -> None:
    """Refuse options of a backfill that are none."""
    whole(parallel, what="parallel")
    word(only, get_args(Only), what="only")
    word(on_error, get_args(OnError), what="on_error")
    if on_progress is not None and (not callable(on_progress) or inspect.iscoroutinefunction(on_progress)):
        raise ConfigError(
            f"on_progress={on_progress!r}", hint="Give a plain function of the report: nobody would await another."
        )


async def keys_of(
    session: Session, catalog: Catalog, name: str, given: Iterable[Any] | AsyncIterable[Any] | None
) -> Iterable[Any] | AsyncIterable[Any]:
    """Return the partitions to run; where they are all at hand, none of them is wrong."""
    node = catalog.node(name)
    known = await known_keys(session.store, catalog)
    declared = node.definition.partitions
    if given is None and (declared is None or not declared.dimensions):
        raise ConfigError(
            f"asset {name!r} declares no partitions, so that it cannot be said which to run",
            asset=name,
            hint="Pass partitions=[...], or declare a set on the asset.",
        )
    if given is None:
        assert declared is not None  # noqa: S101 - refused above, for the type checker
        return declared.whole(known) if declared.finite else declared.keys(session.store.now(), known)
    if isinstance(given, str | bytes) or not isinstance(given, Iterable | AsyncIterable):
        raise ConfigError(
            f"partitions={given!r} is no series of keys", asset=name, hint="Pass a list, also for one key."
        )
    for key in (given.first, given.last) if isinstance(given, KeyRange) and given else ():
        partition_for(node, key, known)
    if isinstance(given, Collection) and not isinstance(given, KeyRange):
        for key in given:
            encode_key(partition_for(node, key, known))
    return given


class SharedKeys(AsyncIterator[Any]):
    """One iteration of the partitions that several workers pull from; each key once, nothing read ahead.

    Attributes:
        error: What the caller's iterable raised; it is taken to end there.
    """

    def __init__(self, given: Iterable[Any] | AsyncIterable[Any]) -> None:
        self.error: BaseException | None = None
        self._distinct = isinstance(given, KeyRange)
        self._seen: set[str] = set()
        self._lock = anyio.Lock()
        self._sync = None if isinstance(given, AsyncIterable) else iter(given)
        self._async = aiter(given) if isinstance(given, AsyncIterable) else None

    async def __anext__(self) -> Any:
        while self.error is None:
            key = await self._pull()
            if self._distinct or self._is_new(key):
                return key
        raise StopAsyncIteration

    async def _pull(self) -> Any:
        try:
            if self._async is None:
                return _next(self._sync)
            async with self._lock:
                return await anext(self._async)
        except (StopAsyncIteration, asyncio.CancelledError, *ENDINGS):
            raise
        except BaseException as error:  # the caller's own code
            self.error = error
            raise StopAsyncIteration from error

    def _is_new(self, key: Any) -> bool:
        try:
            encoded = encode_key(key)
        except PartitionError:
            return True
        if encoded in self._seen:
            return False
        self._seen.add(encoded)
        return True

    async def close(self) -> None:
        """Close an async generator of the caller's."""
        closing = getattr(self._async, "aclose", None)
        if closing is not None:
            await closing()


def _next(keys: Iterator[Any] | None) -> Any:
    for key in keys or ():
        return key
    raise StopAsyncIteration
