"""The calls of `ctx.map`: each is a step, known by its position among the items, or by the key of its item."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections import abc
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from flowstone_async._engine.replay.contents import content_of, print_of_item
from flowstone_async._engine.replay.prints import function_name
from flowstone_async._engine.replay.scope import ENTERED, Entered, Place, Scope
from flowstone_async._engine.replay.script import Called, Script, scopes
from flowstone_async.definition.annotations import resolve
from flowstone_async.definition.asset import Scope as Names
from flowstone_async.definition.body import function_of, name_of
from flowstone_async.durable import LONGEST_KEY, MapCall, MapCalls
from flowstone_async.errors import ConfigError
from flowstone_async.mapped.fan import not_async
from flowstone_async.store.steps import StepRecord

_WRAPPERS = (abc.Awaitable, abc.Coroutine, asyncio.Future, asyncio.Task)
Make = Callable[[Place, Called, Callable[[], Awaitable[Any]]], Coroutine[Any, Any, Any]]
Recall = Callable[[StepRecord], Coroutine[Any, Any, Any]]


class MappedCalls(MapCalls):
    """The calls of one `ctx.map`.

    Args:
        body: Which they belong to.
        path: Key of the `ctx.map`.
        script: What is on record of the body.
        fn: What is called.
        key: Gives each item a key of its own; None counts them.
        make: Makes a call, and puts its result on record.
        recall: Waits for the turn of a result on record, and returns it.
    """

    def __init__(
        self,
        body: object,
        path: str,
        script: Script,
        *,
        fn: Callable[[Any], Awaitable[Any]],
        key: Callable[[Any], object] | None,
        make: Make,
        recall: Recall,
    ) -> None:
        self._body, self._path, self._script, self._fn, self._key = body, path, script, fn, key
        self._name, self._function = name_of(fn), function_name(fn)
        self._make, self._recall = make, recall
        self._told: Callable[[], None] | None = None
        self._number = 0
        self._keys: set[str | int] = set()
        self._taken: set[str] = set()
        self.known = len(script.below(path)) if script.replaying else 0

    def begin(self, told: Callable[[], None]) -> None:
        """Begin, in the task that is going to read the items."""
        # What gives the items may make durable calls too, beside those of the loop: they are not counted together.
        ENTERED.set(Entered(self._body, Scope(f"{self._path}/items")))
        if self.known:
            self._told = told
            self._script.watchers.add(told)

    def take(self, item: Any) -> MappedCall:
        """Take the place of a call."""
        place = self._place(item)
        called = Called(("map", self._function, print_of_item(item)))
        found = self._script.find(place, called)
        if self.known:
            self._taken.add(place.key)
        if found is not None:
            return MappedCall(place.key, partial(self._recall, found), recorded=True)
        return MappedCall(place.key, partial(self._make, place, called, partial(self._called, item)), recorded=False)

    def _place(self, item: Any) -> Place:
        number, self._number = self._number, self._number + 1
        if self._key is None:
            return Place(f"{self._path}/{self._name}#{number}", self._path, number)
        given = self._key(item)
        key = _identity(given)
        if key in self._keys:
            raise ConfigError(f"ctx.map: two calls have the key {given!r}", hint="Give each item a key of its own.")
        self._keys.add(key)
        # Items may come in another order: each key is a place by itself.
        return Place(f"{self._path}/{self._name}[{key!r}]", f"{self._path}/[{key!r}]", 0)

    async def _called(self, item: Any) -> Any:
        made: object = self._fn(item)
        if not inspect.isawaitable(made):
            raise not_async(self._fn)
        return await made

    def sought(self, call: MapCall | None = None) -> bool:
        """Tell where the next result on record is that nobody has asked for."""
        missing = self._script.missing if self.known else None
        if missing is None:
            return False
        around = set(scopes(missing))
        return call.key in around if call is not None else self._path in around and around.isdisjoint(self._taken)

    def all_taken(self) -> None:
        """Wait for no call any more that was not taken."""
        if not self.known:
            return
        script, taken = self._script, self._taken
        script.pass_over(key for key in script.below(self._path) if taken.isdisjoint(scopes(key)))

    def close(self) -> None:
        """Let go of it: none of the calls goes on."""
        if self._told is not None:
            self._script.watchers.discard(self._told)
        if self.known:
            self._script.pass_over(self._script.below(self._path))


class MappedCall(MapCall):
    """One call of `ctx.map`."""

    __slots__ = ("_result", "key", "recorded")

    def __init__(self, key: str, result: Callable[[], Coroutine[Any, Any, Any]], *, recorded: bool) -> None:
        self.key, self._result, self.recorded = key, result, recorded

    async def result(self) -> Any:
        """Make it, or wait for what is on record."""
        return await self._result()


def _identity(key: object) -> str | int:
    """Return what stands for a key in every process: itself, or a hash of it."""
    if (type(key) is str or type(key) is int) and len(str(key)) <= LONGEST_KEY:
        return key
    content = content_of(key)
    if content is None:
        raise ConfigError(
            f"ctx.map: a key is of type {type(key).__name__}, which cannot be stored",
            hint="Let key= give text or a number, or something made of these.",
        )
    return f"{type(key).__name__} {content}"


def returned(fn: Callable[..., Any], names: Names) -> object:
    """Return the declared type of what is there once the result of a function was awaited; None if there is none."""
    returns: object = resolve(fn, names).types.get("return")
    if not inspect.iscoroutinefunction(function_of(fn)) and typing.get_origin(returns) in _WRAPPERS:
        return typing.get_args(returns)[-1]
    return returns
