"""Going on with a coroutine that was begun by hand and has suspended."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Suspended(Generic[T]):
    """What is left of a coroutine after its first step. Await it in the task that made the step.

    A body that never waits so costs neither a timer nor a thought about who goes on meanwhile.

    Args:
        coroutine: The coroutine.
        waiting: What its first step yielded.
    """

    __slots__ = ("_coroutine", "_waiting")

    def __init__(self, coroutine: Coroutine[Any, Any, T], waiting: object) -> None:
        self._coroutine, self._waiting = coroutine, waiting

    def _flowstone_inner(self) -> Coroutine[Any, Any, T]:
        return self._coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine, waiting = self._coroutine, self._waiting
        try:
            while True:
                try:
                    sent = yield waiting
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:  # whatever is thrown in is the coroutine's to handle
                    waiting = coroutine.throw(error)
                else:
                    waiting = coroutine.send(sent)
        except StopIteration as stop:
            return stop.value
