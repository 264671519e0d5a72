"""Holding what an engine asks of its store at a known point, so that a test says what comes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest

from flowstone_async import Engine, StoreUnavailable
from tests.support.gate import Gate


class Stops:
    """The calls of `store.gates` that an engine makes in some task.

    Args:
        patch: Undoes it all at the end of the test.
        task: Part of the name of the task whose calls are meant; `suspends` for who suspends a run.
    """

    def __init__(self, patch: pytest.MonkeyPatch, task: str = "suspends") -> None:
        self._patch, self._task = patch, task
        self._points: list[Gate] = []

    def close(self) -> None:
        """Let everybody through: a test that failed must not hold up the end of its engines."""
        for point in self._points:
            point.open()

    def hold(self, engine: Engine, name: str, when: Literal["before", "after"]) -> Gate:
        """Hold the next call of a method before it is made, or once it is answered and before its caller hears."""
        point = self._point()

        async def call(made: Callable[[], Any]) -> Any:
            if when == "before":
                await point()
            found = await made()
            if when == "after":
                await point()
            return found

        self._next(engine, name, call)
        return point

    def lose(self, engine: Engine, name: str) -> Gate:
        """Lose the reply to the next call of a method: it is held once it was done, and then nobody knows."""
        point = self._point()

        async def call(made: Callable[[], Any]) -> Any:
            await made()
            await point()
            raise StoreUnavailable("the reply was lost")

        self._next(engine, name, call)
        return point

    def _point(self) -> Gate:
        self._points.append(point := Gate())
        return point

    def _next(self, engine: Engine, name: str, call: Callable[[Callable[[], Any]], Any]) -> None:
        gates = engine._live().store.gates
        plain, left = getattr(gates, name), [1]

        async def replaced(*args: Any, **options: Any) -> Any:
            task = asyncio.current_task()
            if not left or task is None or self._task not in task.get_name():
                return await plain(*args, **options)
            left.clear()
            return await call(lambda: plain(*args, **options))

        self._patch.setattr(gates, name, replaced)
