"""The verbs that a pipeline (in memory) and an engine (on its store) share, typed by their targets."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any, TypeVar, overload

from typing_extensions import TypedDict, Unpack

from flowstone_async._engine import awaiting
from flowstone_async._engine.approving.verbs import ApprovalVerbs
from flowstone_async._engine.backfill import BackfillReport, OnError, Only, backfill
from flowstone_async._engine.dynamic import DynamicKeys
from flowstone_async._engine.gates.listing import GateList
from flowstone_async._engine.gates.sender import Sender
from flowstone_async._engine.gates.signalling import Message, Signalled, deliver
from flowstone_async._engine.plans import check_plan, plan
from flowstone_async._engine.reading import Reader
from flowstone_async._engine.report import RunReport
from flowstone_async._engine.request import OnWait
from flowstone_async._engine.resolving import ResolveVerbs
from flowstone_async._engine.session import Timeout
from flowstone_async._engine.status import AssetStatus, Why
from flowstone_async._engine.targets import Target, find
from flowstone_async.config import seconds, switch
from flowstone_async.definition.dynamic import Dynamic
from flowstone_async.definition.handle import AssetRef, OpenRef, PartitionedRef
from flowstone_async.definition.keys import PartitionKey
from flowstone_async.definition.policy import Duration
from flowstone_async.errors import NothingToCancel
from flowstone_async.planning.plan import Plan
from flowstone_async.planning.verdicts import Force
from flowstone_async.types import All

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
K = TypeVar("K")
D = TypeVar("D", bound=PartitionKey)


class RunOptions(TypedDict, total=False):
    """Options of a run, beside its partition.

    Attributes:
        params: Of the pipeline's params type, or a mapping.
        force: True computes the targets whatever is stored, `"all"` everything above them too.
        with_deps: False takes upstreams as they are stored.
        io: Read, judge and write through this I/O manager.
        timeout: For the whole run; False is no limit.
        concurrency: Bodies at once.
        run_id: The run's id; one already used is refused.
        on_wait: What happens once nothing of the run can go on without a person or another system: `"raise"`, which is
            what it does without this, suspends it and raises `Waiting`; `"wait"` waits as well.
    """

    params: object
    force: Force
    with_deps: bool
    io: object
    timeout: Timeout
    concurrency: int | None
    run_id: str | None
    on_wait: OnWait


def checked(verb: str, options: RunOptions) -> RunOptions:
    """Return the options of a run.

    Raises:
        TypeError: There is none of that name.
    """
    unknown = set(options) - set(RunOptions.__annotations__)
    if unknown:
        raise TypeError(f"{verb}() got an unexpected keyword argument {min(unknown)!r}")
    return options


class Verbs(ApprovalVerbs, ResolveVerbs):
    """The verbs of a pipeline and of an engine."""

    @overload
    async def run(self, target: PartitionedRef[T, K], /, *, partition: K, **options: Unpack[RunOptions]) -> T: ...
    @overload
    async def run(self, target: OpenRef[T], /, *, partition: object = None, **options: Unpack[RunOptions]) -> T: ...
    @overload
    async def run(
        self, target: AssetRef[T1], second: AssetRef[T2], /, *, partition: object = None, **options: Unpack[RunOptions]
    ) -> tuple[T1, T2]: ...
    @overload
    async def run(
        self,
        target: AssetRef[T1],
        second: AssetRef[T2],
        third: AssetRef[T3],
        /,
        *,
        partition: object = None,
        **options: Unpack[RunOptions],
    ) -> tuple[T1, T2, T3]: ...
    @overload
    async def run(self, target: str, /, *, partition: object = None, **options: Unpack[RunOptions]) -> Any: ...
    @overload
    async def run(
        self, target: Target, second: Target, /, *more: Target, partition: object = None, **options: Unpack[RunOptions]
    ) -> tuple[Any, ...]: ...
    async def run(self, *targets: Any, partition: Any = None, **options: Unpack[RunOptions]) -> Any:
        """Bring assets up to date and return their values: one value, or a tuple for several.

        Args:
            targets: Handles or names.
            partition: The run's key, as a real object.
            options: See `RunOptions`.

        Raises:
            ExecutionError: The target's body raised; the cause is the original exception.
            DependencyFailed: An upstream failed; it is named.
            TargetSkipped: The target was skipped in this run.
            TimedOut: The run took longer than its timeout.
            Cancelled: The run was cancelled.
            Waiting: It waits for signals or people, and is suspended; the same call joins it later. `report` returns.
            AssetNotFound: There is no such asset.
            ConfigError: An option is wrong; nothing has run.
        """
        async with self._session() as session:
            request = session.request(targets, partition=partition, **checked("run", options))
            values = await awaiting.values(session, request)
        return values[0] if len(values) == 1 else values

    async def report(self, *targets: Target, partition: Any = None, **options: Unpack[RunOptions]) -> RunReport:
        """Run and return what came of it, asset by asset, instead of raising when assets fail.

        Args:
            targets: Handles or names; without any, every asset.
            partition: The run's key.
            options: See `RunOptions`.

        Raises:
            AssetNotFound: There is no such asset.
            ConfigError: An option is wrong.
        """
        async with self._session() as session:
            wanted = targets or [f"{p}.{name}" for p, each in session.catalogs.items() for name in each.graph.nodes]
            if not wanted:
                return RunReport(run_id="", ok=True, state="succeeded", seconds=0.0)
            request = session.request(wanted, partition=partition, **checked("report", options))
            return await awaiting.report(session, request)

    async def plan(self, *targets: Target, partition: Any = None, **options: Unpack[RunOptions]) -> Plan:
        """Return what a run would do and why; nothing runs and nothing is written.

        Args:
            targets: Handles or names.
            partition: The run's key.
            options: See `RunOptions`.
        """
        async with self._session() as session:
            return await plan(session, targets, partition, checked("plan", options), self._apply)

    async def _apply(self, planned: Plan, targets: tuple[Target, ...], partition: object, options: RunOptions) -> Any:
        async with self._session() as session:
            await check_plan(session, planned, targets, partition, options)
            values = await awaiting.values(session, session.request(targets, partition=partition, **options))
        return values[0] if len(values) == 1 else values

    @overload
    async def get(self, asset: PartitionedRef[T, K], /, *, partition: K, io: object = None) -> T: ...
    @overload
    async def get(self, asset: OpenRef[T], /, *, partition: object = None, io: object = None) -> T: ...
    @overload
    async def get(self, asset: str, /, *, partition: object = None, io: object = None) -> Any: ...
    async def get(self, asset: Target, /, *, partition: object = None, io: object = None) -> Any:
        """Return the current value; nothing is executed, and a stale value is returned all the same.

        Args:
            asset: Handle or name.
            partition: Its key.
            io: The manager that `run` was given.

        Raises:
            NotMaterialized: Nothing is stored.
            StorageError: Its bytes are missing or damaged.
        """
        async with self._session() as session:
            return await Reader(session).get(asset, partition, io)

    async def exists(self, asset: Target, *, partition: object = None, io: object = None) -> bool:
        """Tell from the record, without loading it, whether a value is stored."""
        async with self._session() as session:
            return await Reader(session).exists(asset, partition, io)

    async def status(self, asset: Target, *, partition: object = None, io: object = None) -> AssetStatus:
        """Return the newest attempt to compute an asset and partition, and whether a fresh value is stored."""
        async with self._session() as session:
            return await Reader(session).status(asset, partition, io)

    async def why(self, asset: Target, *, partition: object = None, io: object = None) -> Why:
        """Explain the state of an asset and partition in one causal answer, as text and as data."""
        async with self._session() as session:
            return await Reader(session).why(asset, partition, io)

    @overload
    async def wait(self, asset: PartitionedRef[T, K], /, *, partition: K, timeout: Duration | None = None) -> T: ...
    @overload
    async def wait(self, asset: OpenRef[T], /, *, partition: object = None, timeout: Duration | None = None) -> T: ...
    @overload
    async def wait(self, asset: str, /, *, partition: object = None, timeout: Duration | None = None) -> Any: ...
    async def wait(self, asset: Target, /, *, partition: object = None, timeout: Duration | None = None) -> Any:
        """Await the active run of an asset and partition; without one return the current value or raise its failure.

        Args:
            asset: Handle or name.
            partition: Its key.
            timeout: How long to wait; the run goes on if it passes.

        Raises:
            TimedOut: It did not end in time.
            NotMaterialized: Nothing is stored and nothing runs.
        """
        limit = None if timeout is None else seconds(timeout, what="timeout")
        async with self._session() as session:
            return await Reader(session).wait(asset, partition, limit)

    async def cancel(self, asset: Target, *, partition: object = None) -> int:
        """Cancel the active runs that compute an asset and partition; return how many.

        Raises:
            NothingToCancel: None is active.
        """
        async with self._session() as session:
            catalog, name = find(session.catalogs, asset)
            cancelled = 0
            for run_id in await Reader(session).active(asset, partition):
                after = await session.cancel(run_id)
                cancelled += after is not None and after.state == "cancelled"  # it may have ended meanwhile
            if not cancelled:
                raise NothingToCancel(
                    f"no active run computes {catalog.graph.pipeline}.{name}", asset=name, partition=partition
                )
            return cancelled

    async def invalidate(
        self, asset: Target, *, partition: object | All = None, cascade: bool = False, io: object = None
    ) -> int:
        """Take stored values away, bytes and record, and return how many there really were.

        Args:
            asset: Handle or name.
            partition: Its key; `ALL` for every partition.
            cascade: Also what was computed from it, transitively, each once.
            io: The manager that `run` was given.
        """
        switch(cascade, what="cascade")
        async with self._session() as session:
            return await Reader(session).invalidate(asset, partition, io, cascade=cascade)

    def partitions(self, partition_set: Dynamic[D], /) -> DynamicKeys[D]:
        """Return the keys of a dynamic partition set, to add to, remove from and list.

        Args:
            partition_set: A `Dynamic` that an asset declares.
        """
        return DynamicKeys(partition_set, self._session)

    async def signal(
        self,
        token: str,
        payload: object = None,
        *,
        id: str | None = None,  # noqa: A002 - what senders call it
        conn: object = None,
        by: str | None = None,
    ) -> Signalled:
        """Send a signal to the gate that a token belongs to, and wake the run that waits for it.

        The first signal counts. The same again (the same `id`, or an equal payload) succeeds with `duplicate=True`, so
        that sending may always be repeated; any other changes nothing. One that comes before its gate is on record is
        kept for it.

        Args:
            token: `gate.token`, or the one that the other side chose.
            payload: Of the gate's type, or the plain data of one.
            id: What the sender calls this signal.
            conn: An asyncpg connection, in whose transaction the signal takes effect.
            by: Who sends it, for the record.

        Raises:
            MalformedToken: It is no token.
            ForgedToken: It was not made with a secret of this engine.
            PayloadInvalid: The payload does not fit the gate's type; the gate is as open as before.
            GateNotFound: There is no such gate.
            GateExpired: Its deadline has passed.
            GateClosed: Its run was cancelled, or has ended.
            AlreadySignalled: Another signal came first.
            StoreUnavailable: Nobody knows whether it was taken: send it again.
            ConfigError: Another argument is wrong, or the payload's type cannot be imported here.

        Example:
            >>> await engine.signal(token, {"url": "s3://results/7"}, by="job 7")
        """
        sender = Sender(actor=by)
        async with self._session() as session:
            return await deliver(session, token, Message(payload=payload), sender=sender, signal_id=id, connection=conn)

    @property
    def gates(self) -> GateList:
        """The gates that runs wait for, to look at."""
        return GateList(self._session)

    @overload
    async def backfill(
        self,
        asset: PartitionedRef[Any, K],
        *,
        partitions: Iterable[K] | AsyncIterable[K] | None = None,
        parallel: int = 1,
        force: bool = False,
        only: Only = "all",
        on_error: OnError = "continue",
        timeout: Timeout = None,
        params: object = None,
        on_progress: Callable[[BackfillReport], None] | None = None,
    ) -> BackfillReport: ...
    @overload
    async def backfill(
        self,
        asset: OpenRef[Any] | str,
        *,
        partitions: Iterable[Any] | AsyncIterable[Any] | None = None,
        parallel: int = 1,
        force: bool = False,
        only: Only = "all",
        on_error: OnError = "continue",
        timeout: Timeout = None,
        params: object = None,
        on_progress: Callable[[BackfillReport], None] | None = None,
    ) -> BackfillReport: ...
    async def backfill(
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
        on_progress: Callable[[BackfillReport], None] | None = None,
    ) -> BackfillReport:
        """Run an asset for many partitions, a run each, with whatever is missing or stale above it.

        Args:
            asset: Handle or name.
            partitions: Keys, from any iterable, sync or async, or a range of the set; duplicates count once. Without
                it the declared set in full, an open one up to its last closed window.
            parallel: Partitions running at once.
            force: Compute also what is fresh.
            only: `"all"`, or only the partitions that are `"missing"`, `"failed"` or `"stale"`.
            on_error: `"continue"`, or `"halt"`: start no further partition after the first failure.
            timeout: For each partition; 30 minutes without it, False for no limit.
            params: Of the pipeline's params type.
            on_progress: Called with the counts so far after each partition.

        Raises:
            ConfigError: An option is wrong, or the asset declares no partitions and none were given.
        """
        async with self._session() as session:
            return await backfill(
                session,
                asset,
                partitions,
                parallel=parallel,
                force=force,
                only=only,
                on_error=on_error,
                timeout=timeout,
                params=params,
                on_progress=on_progress,
            )
