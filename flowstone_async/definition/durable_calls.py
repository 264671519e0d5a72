"""The durable calls of a body, as `Context` offers them: what they return is on record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload
from uuid import UUID

from typing_extensions import Unpack

from flowstone_async.approvals import (
    Asking,
    Decision,
    InlineOptions,
    check_inline,
    question,
    read_approval,
)
from flowstone_async.config import Duration, instant, seconds
from flowstone_async.durable import Durable, Group, Step, StepOptions, key_of_call
from flowstone_async.errors import ConfigError
from flowstone_async.signals import SignalGate, name_of_wait

F = TypeVar("F")
M = TypeVar("M")
P = ParamSpec("P")
R = TypeVar("R")


class DurableCalls:
    """Durable calls of one body."""

    __slots__ = ()

    def _durable(self) -> Durable:
        """Return what the body has on record."""
        raise NotImplementedError

    @property
    def step(self) -> Step:
        """Calls a function once for all: `receipt = await ctx.step(charge, order, amount=5)`.

        The result is put on record before it is returned. When the body is called again in the same run (after a
        retry, a crash, a restart), what is on record is returned, and the function is not called. A step is known by
        the name of its function and how often that occurred in the body: see `using` for options, and `group` for steps
        that run beside each other. A step that failed raises its error again when the attempt goes on after a crash;
        the asset's next attempt calls it again.

        Everything between steps runs each time: let it depend on nothing but inputs, params and results of steps.

        Raises:
            ConfigError: It is no async function (see `using(run_in="thread")`), or the body runs in another process.
            ReplayMismatch: The code has changed: another call is on record in this place.
            ExecutionError: The function raised.
            StorageError: Its result cannot be stored.
            StepLimit: The body makes more than 20,000 durable calls.
            LeaseLost: Another worker owns the run now.
        """
        return Step(self._durable, StepOptions())

    async def tx(self, fn: Callable[Concatenate[Any, P], Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function as a step in a transaction on the engine's own database: `await ctx.tx(move, 5)`.

        The function gets a connection of asyncpg first. What it writes with that and the record of the step commit
        together or not at all, so that it takes effect once. It is called in a transaction that is open meanwhile: let
        it be short, and await nothing else in it.

        Raises:
            ConfigError: The engine's store is in memory; or as `step`.
        """
        return await self._durable().step(fn, args, kwargs, StepOptions(), connected=True)

    def group(self) -> AbstractAsyncContextManager[Group]:
        """Run steps beside each other: `async with ctx.group() as g: a = g.start(fetch, x)`, then `a.result()`.

        Leaving it waits for all. The first that fails cancels the rest, and is raised. What had ended is on record.
        """
        return self._durable().group()

    def signal(
        self,
        model: type[M],
        *,
        timeout: Duration | Literal[False] | None = None,
        name: str | None = None,
        key: str | int | None = None,
        token: str | None = None,
    ) -> SignalGate[M]:
        """Make a gate that somebody else signals: `done = await ctx.signal(JobDone, timeout="1h")`.

        Its `token`, and its `url` where the engine has a `base_url`, exist at once, so that they can be passed on
        before it is awaited. Awaiting it returns the payload, of the type given. While the body waits it takes none of
        the run's places; after a while it is dropped from memory, and called again once the gate has ended.

        Args:
            model: Type of the payload: a pydantic model, a dataclass, anything that can be stored.
            timeout: How long it is open, from when it is first awaited: 1 hour without it, False for ever.
            name: What it is called; that of the type without it.
            key: What tells it from other gates of that name, as for `step`.
            token: What the other side calls it, where that chooses; see `SignalGate`.

        Raises:
            TimedOut: When it is awaited: nobody signalled in time.
            TokenInUse: When it is awaited: another open gate has the token.
            ConfigError: An option is wrong, or the body runs in another process.
        """
        gate = SignalGate(model, token=token, timeout=timeout, name=name)
        self._durable().gate(gate, key_of_call(key))
        return gate

    @overload
    def approval(
        self,
        text: str,
        *,
        form: type[F],
        initial: F | None = None,
        **options: Unpack[InlineOptions],
    ) -> Coroutine[Any, Any, Decision[F]]: ...
    @overload
    def approval(self, text: str, **options: Unpack[InlineOptions]) -> Coroutine[Any, Any, Decision[None]]: ...
    def approval(
        self, text: str, *, form: Any = None, initial: Any = None, **options: Unpack[InlineOptions]
    ) -> Coroutine[Any, Any, Decision[Any]]:
        """Ask people: `decision = await ctx.approval("Large trade", form=TradeEdit, show=trade, timeout="4h")`.

        It goes on once somebody has said yes, with `approve` of an engine or a pipeline. As with `signal`, the body
        takes no place meanwhile and need not stay in memory, and nobody is asked twice when it is called again.

        Args:
            text: The question.
            form: Type of a form that whoever approves fills.
            initial: The form as it is proposed.
            options: See `InlineOptions`.

        Raises:
            Rejected: When it is awaited: somebody said no.
            ApprovalTimedOut: When it is awaited: nobody decided in time. It is a `Rejected` and a `TimedOut`.
            ConfigError: An option is wrong, or the body runs in another process.
        """
        known = check_inline(options)
        read = read_approval({**known, "form": form})
        if initial is not None and form is None:
            raise ConfigError("initial= proposes a form, and there is none", hint="Say form=.")
        name = known.get("name")
        asking = Asking(
            text=question(text),
            show=known.get("show"),
            name="approval" if name is None else name_of_wait(name),
            initial=initial,
            options=read,
        )
        return self._durable().approval(asking, key_of_call(known.get("key")))

    def sleep(self, length: Duration | None = None, *, until: datetime | None = None) -> Coroutine[Any, Any, None]:
        """Wait: `await ctx.sleep("3d")`, or `await ctx.sleep(until=instant)`.

        It ends at or after its time on the store's clock, which is fixed when it is first awaited: a crash or a restart
        neither begins it anew nor shortens it. As with `signal`, the body takes no place meanwhile, and need not stay
        in memory.

        Args:
            length: How long.
            until: Or until when, aware.

        Raises:
            ConfigError: Neither or both are given, or one is wrong, or is beyond the year 9998.
        """
        return self._durable().sleep(*_sleep(length, until))

    def first(self, *waits: Awaitable[Any]) -> Coroutine[Any, Any, tuple[int, Any]]:
        """Wait for whichever ends first: `which, value = await ctx.first(gate, ctx.sleep("1h"))`.

        The others are cancelled: a gate among them stays open until its time has passed, or the run has ended. Which
        one it was is on record: when the body is called again it is the same, whatever has ended since.

        Args:
            waits: Gates, sleeps, steps, approvals; what else can be awaited is no durable wait, and refused.

        Returns:
            Which one it was, from 0, and its result. If it raised, that is raised.

        Raises:
            ConfigError: There are none, or something else is among them; coroutines among them are closed.
        """
        return self._durable().first(waits)

    def patched(self, name: str) -> bool:
        """Tell whether a body may go the way of code that was changed while it was under way.

        Say `if ctx.patched("checks first"): await ctx.step(check, order)`. It is True for bodies that come here before
        anything behind this has a result, and False for those that were past it when the code was changed; the same
        whenever the body is called again.

        Args:
            name: Of the change: printable text.
        """
        return self._durable().patched(name)

    def now(self) -> datetime:
        """Return the time on the store's clock, aware; when the body is called again, the same."""
        return self._durable().now()

    def uuid(self) -> UUID:
        """Return a new UUID; when the body is called again in this run, the same."""
        return self._durable().uuid()

    def random(self) -> float:
        """Return a number from 0 to 1 that nobody chose; when the body is called again in this run, the same."""
        return self._durable().random()

    @property
    def replaying(self) -> bool:
        """Whether results are on record that the body has not been given yet: it goes on after a crash or restart."""
        return self._durable().replaying


def _sleep(length: Duration | None, until: datetime | None) -> tuple[float | None, datetime | None]:
    if (length is None) == (until is None):
        raise ConfigError(
            "ctx.sleep takes a length, or until=", hint='Say ctx.sleep("3d") or ctx.sleep(until=instant).'
        )
    if length is not None:
        return seconds(length, what="ctx.sleep", zero=True), None
    return None, instant(until, what="until")
