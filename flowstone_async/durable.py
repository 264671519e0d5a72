"""Durable calls of a body, as it makes them: `await ctx.step(charge, order)`, `ctx.group()`, `ctx.tx(fn)`.

What they do is the engine's (`_engine/replay`); docs/adr/0010-waiting.md says what is on record of them, and why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload
from uuid import UUID

from flowstone_async.approvals import Asking, Decision
from flowstone_async.config import Duration, seconds
from flowstone_async.errors import ConfigError
from flowstone_async.retry import Retry
from flowstone_async.signals import SignalGate

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
LONGEST_KEY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """How one step is called.

    Attributes:
        name: What it is called; None for the name of its function.
        key: What tells it from the others of that name in its scope; None counts them.
        retry: How often it is tried; None is once.
        timeout: Seconds of each try; None is no limit.
        thread: Whether its function is a plain one, which runs in a thread.
    """

    name: str | None = None
    key: str | int | None = None
    retry: Retry | None = None
    timeout: float | None = None
    thread: bool = False


class Child(Protocol[R_co]):
    """A step that runs in a group."""

    def result(self) -> R_co:
        """Return what it has returned.

        Raises:
            ConfigError: It has not ended; leave the group first, or await it.
        """
        ...

    def __await__(self) -> Generator[Any, Any, R_co]:
        """Wait until it has ended, and return what it has returned."""
        ...


class Group(Protocol):
    """Steps that run beside each other: leaving it awaits them all; the first that fails cancels the rest."""

    def start(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Child[R]:
        """Start a step, as `ctx.step` would call it; what it calls itself has a scope of its own."""
        ...


class MapCall(Protocol):
    """One call of `ctx.map`, which has its place among the others.

    Attributes:
        key: What is on record of it lies under this.
        recorded: Whether it has a result on record.
    """

    key: str
    recorded: bool

    async def result(self) -> Any:
        """Make it and put its result on record, or wait until it is the turn of what is on record; once."""
        ...


class MapCalls(Protocol):
    """The calls of one `ctx.map`: steps in a scope of their own.

    Attributes:
        known: How many results on record were still to be handed out in them when they began.
    """

    known: int

    def begin(self, told: Callable[[], None]) -> None:
        """Begin, in the task that is going to read the items: what that calls is in a scope of its own.

        Args:
            told: Called whenever `sought` may have become true.
        """
        ...

    def take(self, item: Any) -> MapCall:
        """Take the place of a call.

        Raises:
            ConfigError: Another one has the same key, or the key cannot be stored.
            ReplayMismatch: Another call is on record in its place.
        """
        ...

    def sought(self, call: MapCall | None = None) -> bool:
        """Tell whether the next result on record, which nobody has asked for, is inside of a call.

        Args:
            call: Which one; None for any that was not taken yet, or what gives the items.
        """
        ...

    def all_taken(self) -> None:
        """Wait for no call any more that was not taken."""
        ...

    def close(self) -> None:
        """Let go of it: none of the calls goes on."""
        ...


class Durable(Protocol):
    """What a body has on record; the engine's side of the durable calls of `Context`."""

    @property
    def replaying(self) -> bool:
        """Whether results on record are still to be handed out."""
        ...

    @property
    def current(self) -> str | None:
        """Key of the step that the caller runs in; None in the body itself."""
        ...

    def step(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: StepOptions,
        *,
        connected: bool = False,
    ) -> Coroutine[Any, Any, Any]:
        """Take a step's place now, and return what calls it, or waits for what is on record; see `Context.step`."""
        ...

    def group(self) -> AbstractAsyncContextManager[Group]:
        """Return a group of steps; see `Context.group`."""
        ...

    def gate(self, gate: SignalGate[Any], key: str | int | None = None) -> None:
        """Make a gate one of the body's, at its place; see `Context.signal`."""
        ...

    def sleep(self, length: float | None, until: datetime | None) -> Coroutine[Any, Any, None]:
        """Take a sleep's place now, and return what waits for its end; see `Context.sleep`."""
        ...

    def mapped(self, fn: Callable[[Any], Awaitable[Any]], key: Callable[[Any], object] | None) -> MapCalls:
        """Take the place of a `ctx.map`, and return its calls; see `Context.map`.

        Raises:
            ReplayMismatch: Another call is on record in its place.
        """
        ...

    def first(self, waits: Sequence[Awaitable[Any]]) -> Coroutine[Any, Any, tuple[int, Any]]:
        """Take the place of a race of waits, and return what awaits it; see `Context.first`."""
        ...

    def patched(self, name: str) -> bool:
        """Tell whether a body comes to a change of its code first; see `Context.patched`."""
        ...

    def approval(self, asked: Asking, key: str | int | None) -> Coroutine[Any, Any, Decision[Any]]:
        """Take a request's place now, and return what waits for the decision; see `Context.approval`."""
        ...

    def ask(self, kind: Any, context: Any, arguments: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        """Ask people what an asset asks (`definition.approval.ApprovalKind`), and return its value."""
        ...

    def now(self) -> datetime:
        """Return the time; see `Context.now`."""
        ...

    def uuid(self) -> UUID:
        """Return a new UUID; see `Context.uuid`."""
        ...

    def random(self) -> float:
        """Return a random number; see `Context.random`."""
        ...

    def for_item(self, identity: str, key: object, attempt: int, *, known: bool) -> Durable:
        """Return that of the body of a scatter's item, which may have something on record."""
        ...

    async def load(self) -> None:
        """Read what is on record, before the body is called."""
        ...

    def close(self) -> None:
        """Let go of it: the body has ended."""
        ...


class Step:
    """Calls functions as durable steps; see `Context.step`."""

    __slots__ = ("_durable", "_options")

    def __init__(self, durable: Callable[[], Durable], options: StepOptions) -> None:
        self._durable, self._options = durable, options

    def __call__(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Return the result of `fn(*args, **kwargs)`: from the record if it is there, else by calling it."""
        return self._durable().step(fn, args, kwargs, self._options)

    @overload
    def using(
        self,
        *,
        name: str | None = None,
        key: str | int | None = None,
        retry: Retry | Literal[False] | None = None,
        timeout: Duration | Literal[False] | None = None,
    ) -> Step: ...
    @overload
    def using(
        self,
        *,
        run_in: Literal["thread"],
        name: str | None = None,
        key: str | int | None = None,
        retry: Retry | Literal[False] | None = None,
        timeout: Duration | Literal[False] | None = None,
    ) -> PlainStep: ...
    def using(
        self,
        *,
        run_in: Literal["thread"] | None = None,
        name: str | None = None,
        key: str | int | None = None,
        retry: Retry | Literal[False] | None = None,
        timeout: Duration | Literal[False] | None = None,
    ) -> Step | PlainStep:
        """Return the same with options, so that none collides with a keyword of the function's.

        Args:
            name: What the step is called instead of its function's name: it may then be renamed.
            key: What tells the step from others of that name, in a loop over data that may come in another order; text
                or a whole number, each once in its scope.
            retry: How often it is tried, False for once.
            timeout: The longest time of each try, False for no limit.
            run_in: `"thread"` for a plain function.

        Raises:
            ConfigError: An option is wrong.
        """
        options = self._options
        if name is not None:
            options = replace(options, name=_name(name))
        if key is not None:
            options = replace(options, key=key_of_call(key))
        if retry is not None:
            options = replace(options, retry=_retry(retry))
        if timeout is not None:
            options = replace(options, timeout=None if timeout is False else seconds(timeout, what="timeout"))
        if run_in is None:
            return Step(self._durable, options)
        if run_in != "thread":
            raise ConfigError(
                f"run_in={run_in!r}: a step's plain function runs in a thread", hint='Say run_in="thread".'
            )
        return PlainStep(self._durable, replace(options, thread=True))


class PlainStep:
    """Calls plain functions in a thread as durable steps; see `Context.step`."""

    __slots__ = ("_durable", "_options")

    def __init__(self, durable: Callable[[], Durable], options: StepOptions) -> None:
        self._durable, self._options = durable, options

    def __call__(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Return the result of `fn(*args, **kwargs)`: from the record if it is there, else by calling it."""
        return self._durable().step(fn, args, kwargs, self._options)


def elsewhere() -> ConfigError:
    """Return the error for a body that has nothing on record, since it runs in another process."""
    return ConfigError(
        "durable calls of `ctx` work only in bodies on the event loop of the engine",
        hint="Leave out run_in= for a body that makes them; a step's own function may use a thread.",
    )


def _name(name: object) -> str:
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > LONGEST_KEY:
        raise ConfigError(
            f"name={name!r}: a step is called by printable text of 1 to 200 characters",
            hint="Leave it out for the name of its function; key= tells steps of one name apart.",
        )
    return name


def key_of_call(key: object) -> str | int | None:
    """Return what tells a durable call from others of its name, if anything was given.

    Raises:
        ConfigError: It is neither text of up to 200 characters nor a whole number of as many digits.
    """
    if key is None or (isinstance(key, str) and len(key) <= LONGEST_KEY):
        return key
    if isinstance(key, int) and not isinstance(key, bool) and abs(key) < 10**LONGEST_KEY:
        return key
    shown = f"a {type(key).__name__}" if isinstance(key, int) else repr(key)[:LONGEST_KEY]
    raise ConfigError(
        f"key={shown}: a durable call is told from others by text of up to 200 characters or a whole number",
        hint="Give the id of what it is for, as text.",
    )


def _retry(retry: object) -> Retry | None:
    if retry is False:
        return None
    problems = list(retry.problems()) if isinstance(retry, Retry) else [f"retry={retry!r}: give Retry(...) or False"]
    if problems:
        raise ConfigError(
            "; ".join(problems), hint='Say retry=Retry(attempts=3, backoff="exponential"), or retry=False.'
        )
    return retry if isinstance(retry, Retry) else None
