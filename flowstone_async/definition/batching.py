"""How the items of a scatter are put together in batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, Literal

from typing_extensions import TypeVar

from flowstone_async.definition.body import way_of
from flowstone_async.retry import Duration, duration_problem

T = TypeVar("T", default=Any)
MOST_ITEMS = 1_000_000
OPEN_GROUPS = 1000


@dataclass(frozen=True, kw_only=True, eq=False)  # without slots: see test_public_names
class Batching(Generic[T]):
    """Calls the body of a scatter once for several items together, with a `Batch` of them.

    A batch is closed, numbered and recorded before it runs, whichever limit it reaches first; what is left when the
    source ends makes a short one.

    Attributes:
        max_items: The most items in a batch [10], at most a million.
        max_bytes: Closes a batch before its items together are larger; False for no limit. An item that is larger alone
            is a batch by itself.
        size: Measures an item for `max_bytes`, as a number of 0 or more; None for its encoded length in bytes.
        max_wait: Closes a short batch when its first item has waited that long; False for never.
        group_by: Gives an item its group (text, a number, or a tuple of them); a batch has items of one group only, and
            at most 1,000 groups stay open: beyond that the oldest is closed short. False for no groups.
        shared: What every batch has as `.shared`: a value, or a function of dependencies that is called once for each
            scatter and whose result is recorded.

    `size` and `group_by` receive the item as the body does; all three functions may take dependencies, by name.

    Example:
        >>> @pipe.scatter(image_urls, batch=Batching(max_items=10, max_bytes=5_000_000, max_wait="2s"))
        ... async def sizes(urls: Batch[str]) -> list[int]: ...
    """

    max_items: int = 10
    max_bytes: int | Literal[False] = False
    size: Callable[Concatenate[T, ...], float] | None = None
    max_wait: Duration | Literal[False] = False
    group_by: Callable[Concatenate[T, ...], object] | Literal[False] = False
    shared: object = None

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values, one sentence each."""
        if not _is_whole(self.max_items) or self.max_items > MOST_ITEMS:
            yield f"Batching(max_items={self.max_items!r}): give a whole number from 1 to {MOST_ITEMS:,}"
        if self.max_bytes is not False and not _is_whole(self.max_bytes):
            yield f"Batching(max_bytes={self.max_bytes!r}): give a whole number of 1 or more, or False for no limit"
        if self.size is not None:
            yield from _function_problem("size", self.size)
            if self.max_bytes is False:
                yield "Batching(size=...) measures items for max_bytes=, which is not given"
        if self.max_wait is not False:
            yield from duration_problem("Batching", "max_wait", self.max_wait)
        if self.group_by is not False:
            yield from _function_problem("group_by", self.group_by)
        if callable(self.shared) and way_of(self.shared) not in ("plain", "coroutine"):
            yield f"Batching(shared={self.shared!r}): give a value, or a function that returns it"


def _function_problem(name: str, value: object) -> Iterator[str]:
    if not callable(value) or way_of(value) != "plain" or inspect.iscoroutinefunction(value):
        yield f"Batching({name}={value!r}): give a plain function of an item"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
