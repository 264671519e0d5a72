"""Steps that run beside each other: `async with ctx.group() as g: g.start(fn, x)`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio
from anyio.abc import TaskGroup

from flowstone_async.errors import ConfigError
from flowstone_async.failures import ENDINGS

R = TypeVar("R")
Started = Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any]], Coroutine[Any, Any, Any]]


class StepChild(Generic[R]):
    """A step of a group."""

    __slots__ = ("_ended", "_error", "_name", "_task", "_value")

    def __init__(self, name: str) -> None:
        self._name, self._ended = name, asyncio.Event()
        self._value: Any = None
        self._task: asyncio.Task[Any] | None = None
        self._error: BaseException | None = None

    def result(self) -> R:
        """Return what the step has returned."""
        if not self._ended.is_set():
            raise ConfigError(
                f"step {self._name!r} of a group has not ended yet",
                hint="Ask for its result behind the group, or await it.",
            )
        if self._error is not None:
            raise self._error
        return self._value

    def _flowstone_tasks(self) -> tuple[asyncio.Future[Any], ...]:
        """Return what somebody waits for who awaits it."""
        return (asyncio.get_running_loop().create_future(),) if self._task is None else (self._task,)

    def __await__(self) -> Generator[Any, Any, R]:
        """Wait until the step has ended, and return what it has returned."""
        yield from self._ended.wait().__await__()
        return self.result()

    async def run(self, call: Coroutine[Any, Any, R]) -> None:
        """Run it, and keep what comes of it."""
        self._task = asyncio.current_task()
        try:
            self._value = await call
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._ended.set()


class StepGroup:
    """A group of steps; see `durable.Group`.

    Args:
        started: Takes the place of a step, and returns what calls it.
    """

    def __init__(self, started: Started) -> None:
        self._started = started
        self._group: TaskGroup | None = None
        self._stack = AsyncExitStack()
        self._first: BaseException | None = None
        self._entered = False

    def start(self, fn: Callable[..., Awaitable[R]], /, *args: Any, **kwargs: Any) -> StepChild[R]:
        """Start a step beside the others."""
        if self._group is None:
            raise ConfigError("the group of steps is not open", hint="Say `async with ctx.group() as g: g.start(...)`.")
        child = StepChild[R](getattr(fn, "__name__", type(fn).__name__))
        self._group.start_soon(self._run, child, self._started(fn, args, kwargs), name=f"step {fn!r}")
        return child

    def _flowstone_tasks(self) -> tuple[asyncio.Future[Any], ...]:
        """Return what goes on in it."""
        return tuple(getattr(self._group, "_tasks", ()))

    async def _run(self, child: StepChild[Any], call: Coroutine[Any, Any, Any]) -> None:
        try:
            await child.run(call)
        except BaseException as error:
            if self._first is None and not isinstance(error, asyncio.CancelledError):
                self._first = error
            raise

    async def __aenter__(self) -> Self:
        """Open it."""
        if self._entered:
            raise ConfigError("a group of steps is entered once", hint="Make another one with ctx.group().")
        self._entered = True
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Wait for all; raise what failed first, or what the block raised, after the rest was cancelled."""
        try:
            return await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            endings, _ = group.split(ENDINGS)
            if endings is not None:
                raise
            if error is not None and not isinstance(error, asyncio.CancelledError):
                return False  # what was raised in the block itself goes on as it is
            if self._first is None:
                raise
            raise self._first from self._first.__cause__
        finally:
            self._group = None
