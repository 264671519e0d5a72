"""Which of several waits was first, and which way a body went when its code was changed: on record, always the same."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Collection, Sequence
from types import CodeType
from typing import Any, Protocol, cast

import anyio

from flowstone_async._engine.replay.grouping import StepChild
from flowstone_async._engine.replay.scope import Place, Scope
from flowstone_async._engine.replay.script import Called, Script
from flowstone_async.errors import ConfigError
from flowstone_async.failures import ENDINGS
from flowstone_async.signals import SignalGate
from flowstone_async.store.steps import StepRecord

_WAITS = 'Give it gates, sleeps, steps and approvals: ctx.first(gate, ctx.sleep("1h")).'
_MOST_SHOWN = 200
_FIRST = Called(("first", "", ""))


class Host(Protocol):
    """The body that chooses."""

    @property
    def script(self) -> Script:
        """What is on record of it."""
        ...

    async def check(self) -> None:
        """Do nothing more if the body is being evicted."""
        ...

    def make_record(self, place: Place, called: Called, value: bytes | None) -> StepRecord:
        """Return the record of a result, which is seen now."""
        ...

    async def keep(self, record: StepRecord) -> None:
        """Put it on record."""
        ...


async def first(host: Host, place: Place, waits: Sequence[Awaitable[Any]]) -> tuple[int, Any]:
    """Await several, and return which one ended first and its result; the others are cancelled. See `Context.first`."""
    try:
        return await _first(host, place, waits)
    finally:
        _close(waits, but=-1)


def require_durable(waits: Sequence[Any], calls: Collection[CodeType]) -> None:
    """Refuse what is no durable wait: which one came first would be on record, and nothing of what it gave.

    Args:
        waits: What was given.
        calls: The code of coroutines that durable calls return.

    Raises:
        ConfigError: Something else is among them, or nothing is; their coroutines are closed.
    """
    if not waits:
        raise ConfigError("ctx.first() has nothing to wait for", hint=_WAITS)
    for each in waits:
        if isinstance(each, SignalGate | StepChild) or (inspect.iscoroutine(each) and each.cr_code in calls):
            continue
        inside = cast("Sequence[object]", each) if isinstance(each, list | tuple) else ()
        _close((*waits, *inside), but=-1)
        raise _no_wait(each)


def _no_wait(given: Any) -> ConfigError:
    kind = type(given).__name__
    if kind in ("list", "tuple"):
        return ConfigError(f"ctx.first() takes its waits one by one, not a {kind}", hint="Say ctx.first(*waits).")
    if inspect.isawaitable(given):
        name = getattr(given, "__qualname__", kind)
        return ConfigError(
            f"ctx.first() was given {name!r}, which is no durable wait: nothing of it would be on record",
            hint="Give ctx.sleep(...) for time, and ctx.step(fn, ...) for what is called.",
        )
    return ConfigError(f"ctx.first() was given {given!r}"[:_MOST_SHOWN] + ", which cannot be awaited", hint=_WAITS)


async def _first(host: Host, place: Place, waits: Sequence[Awaitable[Any]]) -> tuple[int, Any]:
    await host.check()
    found = host.script.find(place, _FIRST)
    if found is not None:
        index = int((found.value or b"0").decode())
        _close(waits, but=index)
        try:
            return index, await waits[index]
        finally:
            host.script.reach(found)  # whoever came second may be on record too, and is asked for by nobody
            await host.script.turn(found)
    race = _Race()
    async with anyio.create_task_group() as group:
        for index, wait in enumerate(waits):
            group.start_soon(race.run, index, wait, group.cancel_scope, name=f"wait {index} of {place.key}")
    await host.keep(host.make_record(place, _FIRST, str(race.winner).encode()))
    if race.error is not None:
        raise race.error
    return race.winner, race.value


class _Race:
    """Several waits, of which the first counts."""

    def __init__(self) -> None:
        self.winner = -1
        self.value: Any = None
        self.error: BaseException | None = None

    async def run(self, index: int, wait: Awaitable[Any], scope: anyio.CancelScope) -> None:
        value, failed = None, None
        try:
            value = await wait
        except (*ENDINGS, asyncio.CancelledError):
            raise
        except BaseException as error:  # user code may raise anything
            failed = error
        if self.winner < 0:
            self.winner, self.value, self.error = index, value, failed
            scope.cancel()


def _close(waits: Sequence[object], *, but: int) -> None:
    """Let go of coroutines that nobody awaits."""
    for index, wait in enumerate(waits):
        if index != but and inspect.iscoroutine(wait):
            wait.close()


def patched(host: Host, scope: Scope, name: str) -> tuple[bool, StepRecord | None]:
    """Tell whether a body comes to a change of its code before anything behind that has a result.

    Returns:
        Whether it does, and what is to be put on record of it.

    Raises:
        ConfigError: `name` is no name.
    """
    if not isinstance(name, str) or not name.isprintable() or not name:
        raise ConfigError(
            f"ctx.patched({name!r})"[:_MOST_SHOWN] + " takes a name of the change",
            hint='Give printable text: ctx.patched("checks first").',
        )
    called = Called(("patched", name, ""))
    ahead = scope.next(f"patched {name}")
    if host.script.has(ahead.key):
        host.script.find(scope.take(f"patched {name}"), called)
        return True, None
    if host.script.went_past(ahead):
        return False, None
    return True, host.make_record(scope.take(f"patched {name}"), called, b"")
