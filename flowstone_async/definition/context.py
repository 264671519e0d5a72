"""What a body may ask about the run that calls it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, cast
from uuid import UUID, uuid5

from typing_extensions import override

from flowstone_async.config import Duration
from flowstone_async.definition.body_log import BodyLog
from flowstone_async.definition.durable_calls import DurableCalls
from flowstone_async.definition.keys import PartitionKey, encode_key
from flowstone_async.durable import Durable
from flowstone_async.durable import elsewhere as durable_elsewhere
from flowstone_async.errors import ConfigError
from flowstone_async.limits import refusals
from flowstone_async.limits.limits import Limits
from flowstone_async.limits.rate import Rate
from flowstone_async.limits.slot_line import Slot
from flowstone_async.mapped.fan import Fan, Mapped, elsewhere
from flowstone_async.redaction import Redactor

M = TypeVar("M")
I = TypeVar("I")  # noqa: E741 - an item
P = ParamSpec("P")
R = TypeVar("R")
DepStatus: TypeAlias = Literal["ok", "skipped", "failed", "missing"]
_logger = logging.getLogger("flowstone")


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFacts:
    """Which item of a scatter a body is called with.

    Attributes:
        key: What identifies it: what `key=` gave for it, else what its content does; of a batch, those of its items.
        index: Its position among the distinct items in the order of the source, from 0; the same after a restart. Of a
            batch its number.
        attempt: Number of this attempt at it, from 1.
        identity: Text that stands for the key, the same in every process.
    """

    key: Any
    index: int
    attempt: int
    identity: str = field(repr=False)


@dataclass(slots=True, kw_only=True)
class Call:
    """The facts of one call of a body, which its `Context` shows; the engine's side of it.

    Attributes:
        item: The item of a scatter, or None.
        open: Whether the body is still running.
        params_read: Whether `ctx.params` was read, which makes all params an input.
        notes: What was noted with `ctx.metadata`.
        redactor: Hides secrets in what is logged; one that knows names only where none is given.
        limits: Those of the engine; None in a process of the body's own.
        fan: What `ctx.map` has going; likewise.
        durable: What the body has on record; likewise.
    """

    pipeline: str
    asset: str
    partition: object
    run_id: str
    attempt: int
    started_at: datetime
    scheduled_at: datetime | None = None
    params: object = field(default=None, repr=False)
    resources: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    dep_status: Mapping[str, DepStatus] = field(default_factory=dict[str, DepStatus])
    item: ItemFacts | None = None
    open: bool = True
    params_read: bool = False
    notes: dict[str, object] = field(default_factory=dict[str, object])
    redactor: Redactor | None = field(default=None, repr=False)
    limits: Limits | None = field(default=None, repr=False)
    fan: Fan | None = field(default=None, repr=False)
    durable: Durable | None = field(default=None, repr=False)

    def for_item(self, item: ItemFacts, started_at: datetime, *, known: bool) -> Call:
        """Return the facts of a call for an item of this scatter; what it notes is its own.

        Args:
            item: Which one.
            started_at: Start of this attempt.
            known: Whether it may have something on record of an earlier call.
        """
        durable = self.durable
        return Call(
            pipeline=self.pipeline,
            asset=self.asset,
            partition=self.partition,
            run_id=self.run_id,
            attempt=item.attempt,
            started_at=started_at,
            scheduled_at=self.scheduled_at,
            params=self.params,
            resources=self.resources,
            dep_status=self.dep_status,
            item=item,
            redactor=self.redactor,
            limits=self.limits,
            fan=None if self.fan is None else self.fan.another(),
            durable=None if durable is None else durable.for_item(item.identity, item.key, item.attempt, known=known),
        )

    def for_handler(self, durable: Durable) -> Call:
        """Return the facts of a call of what handles the end of the gate that this one has returned."""
        fan = None if self.fan is None else self.fan.another()
        return replace(self, open=True, notes={}, fan=fan, durable=durable)


class Context(DurableCalls):
    """What a body may ask about the run that calls it; take it as `ctx: Context`.

    Using it after the body has ended is a `ConfigError`.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def _live(self) -> Call:
        call = self._call
        if not call.open:
            raise ConfigError(
                f"the context of asset {call.asset!r} was used after its body had ended",
                asset=call.asset,
                run_id=call.run_id,
                hint="Await everything that needs `ctx` inside the body.",
            )
        return call

    @property
    def pipeline(self) -> str:
        """Name of the pipeline."""
        return self._live().pipeline

    @property
    def asset(self) -> str:
        """Name of the asset."""
        return self._live().asset

    @property
    def partition(self) -> Any:
        """Partition key, as a real object; None for an asset with one value."""
        return self._live().partition

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self._live().run_id

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self._live().attempt

    @property
    def item(self) -> ItemFacts:
        """The item that the body of a scatter is called with: `.key`, `.index` and `.attempt`.

        Raises:
            ConfigError: The body is not that of a scatter.
        """
        call = self._live()
        if call.item is None:
            raise ConfigError(
                f"asset {call.asset!r} has no items: ctx.item is for the body of a scatter",
                asset=call.asset,
                run_id=call.run_id,
                hint="Use ctx.partition for the key of the asset.",
            )
        return call.item

    @property
    def idempotency_key(self) -> str:
        """What tells a service that a request is the same one again: a UUID, as text.

        It is the same on every attempt at this asset and partition in this run, also after a crash and in another
        process, and different for every other run, asset and partition, and in a scatter for every other item. Inside
        a step it is the step's own. A run that is retried is another run.
        """
        call = self._live()
        # It outlives any version of this library: the services that were given it remember it. So it never changes.
        partition = encode_key(cast("PartitionKey | None", call.partition))
        item = "" if call.item is None else f"\0{call.item.identity}"
        inside = None if call.durable is None else call.durable.current
        step = "" if inside is None else f"\0step {inside}"
        return str(uuid5(UUID(call.run_id), f"{call.asset}\0{partition}{item}{step}"))

    @property
    def started_at(self) -> datetime:
        """Start of this attempt, aware, on the store's clock."""
        return self._live().started_at

    @property
    def scheduled_at(self) -> datetime | None:
        """The tick that asked for the run, or None."""
        return self._live().scheduled_at

    @property
    def params(self) -> Any:
        """The run's params, of the pipeline's params type. Reading them makes all of them an input."""
        call = self._live()
        call.params_read = True
        return call.params

    @property
    def resources(self) -> Mapping[str, Any]:
        """The resources that the body declares, by name."""
        return self._live().resources

    @property
    def dep_status(self) -> Mapping[str, DepStatus]:
        """By a dependency's parameter, and by its asset: `"ok"`, `"skipped"`, `"failed"` or `"missing"`."""
        return self._live().dep_status

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger bound to run, asset and partition; secrets are hidden in all that goes through it."""
        call = self._live()
        facts = {"run_id": call.run_id, "asset": call.asset, "partition": call.partition}
        return BodyLog(_logger, facts, call.redactor)

    @property
    def limits(self) -> Limits:
        """Limits by key or name, over all workers and processes on the store; see `Limits`.

        Raises:
            ConfigError: The body runs in another process.
        """
        limits = self._live().limits
        if limits is None:
            raise refusals.elsewhere()
        return limits

    def limit(
        self, key: str, rate: Rate | None = None, *, max_wait: Duration | Literal[False] | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Wait for a permit: `async with ctx.limit("openai", Rate(60, per="1m")): ...`; see `Limits.limit`.

        Args:
            key: What is limited; any text.
            rate: How often; may be left out for a name that the engine declares or that was set.
            max_wait: The longest wait, 60 s without it; False is no limit.
        """
        return self.limits.limit(key, rate, max_wait=max_wait)

    def slots(
        self, key: str, n: int | None = None, *, max_wait: Duration | Literal[False] | None = None
    ) -> AbstractAsyncContextManager[Slot]:
        """Hold one of n slots: `async with ctx.slots("gpu", 4): ...`; see `Limits.slots`.

        Args:
            key: What is limited; any text.
            n: How many may hold one at once; may be left out for a name that the engine declares or that was set.
            max_wait: The longest wait, 30 s without it; False is no limit.
        """
        return self.limits.slots(key, n, max_wait=max_wait)

    def map(
        self,
        fn: Callable[[I], Awaitable[R]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        max_concurrent: int | None = None,
        key: Callable[[I], object] | None = None,
    ) -> Mapped[R]:
        """Call an async function for many items, some at once: `async for result in ctx.map(fetch, urls): ...`.

        Results come in the order in which the calls end. Each call is a step, with a scope of its own: its result is on
        record before the loop gets it, and when the body is called again, results on record come first, in the order
        in which they came before, and only what has none is called. What an item is called with must be the same
        then. The first error is raised in the loop, as that of a step is, after the other calls were cancelled and have
        ended. Leaving the loop cancels what still runs; it has ended before the body does, or where `async with
        ctx.map(...) as results:` ends. Items are taken as there is room.

        Args:
            fn: Takes an item and returns, when awaited, its result: a value that can be stored, of the type that `fn`
                declares. It may make durable calls itself, `ctx.map` among them.
            items: What can be iterated, or iterated with `async for`; it may make durable calls, too.
            max_concurrent: Most calls at once, 20 without it.
            key: Gives each item a key of its own, by which its result is known then, in whatever order the items come;
                without it, they are known by their positions. The same key twice is an error.

        Raises:
            ConfigError: An argument cannot be used, two items have the same key, or the body does not run on the
                event loop of its engine.
            ReplayMismatch: The code has changed: another call is on record in this place.
            ExecutionError: In the loop: the function raised.
            StorageError: In the loop: a result cannot be stored.
            StepLimit: In the loop: the body makes more than 20,000 durable calls.
            LeaseLost: In the loop: another worker owns the run now.
        """
        durable, fan = self._durable(), self._live().fan
        if fan is None:
            raise elsewhere()
        return fan.map(fn, items, max_concurrent=max_concurrent, key=key, durable=durable)

    @override
    def _durable(self) -> Durable:
        durable = self._live().durable
        if durable is None:
            raise durable_elsewhere()
        return durable

    def metadata(self, **values: object) -> None:
        """Note facts about the value (row counts, previews): kept with the record, shown beside it.

        Args:
            values: JSON-compatible values; a later call adds to or replaces earlier ones.
        """
        self._live().notes.update(values)


def call_of(context: Context) -> Call:
    """Return the call that a context shows, for whoever makes it."""
    return context._call  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of this module
