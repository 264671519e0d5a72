"""Results of a scatter, read in bounded memory however large they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from flowstone_async._engine.scatter.results import Results
from flowstone_async.errors import StorageError
from flowstone_async.store.blocks import MOST_AT_ONCE, Block, Committed, weight
from flowstone_async.store.scatters import Scatters


async def contents(store: Scatters, scatter: str, of: Committed) -> Block:
    """Return a block with its contents, which may have been left out.

    Raises:
        StorageError: It is gone.
    """
    if of.whole:
        return of.block
    found = await store.committed(scatter, after=of.no - 1, limit=1)
    if not found or found[0].no != of.no:
        raise StorageError(
            "results of a scatter are gone from the store",
            hint="It was invalidated, or replaced and pruned, while it was read: get it again.",
            retryable=False,
        )
    return found[0].block


async def in_order(
    store: Scatters, scatter: str, page: int, results: Results, rank: Callable[[tuple[int, Any]], Any]
) -> AsyncGenerator[list[tuple[int, Any]]]:
    """Yield the results of a page with their positions, in order: all at once, or one by one if they are large.

    Args:
        store: Where the scatter is.
        scatter: Which one.
        page: Its number.
        results: Decodes them.
        rank: What orders them, of a position and its result, of which it does not look at the latter.
    """
    blocks = await store.blocks(scatter, page)
    if all(each.whole for each in blocks):
        yield sorted((pair for each in blocks for pair in _pairs(each.block, results)), key=rank)
        return
    places = [(position, number) for number, each in enumerate(blocks) for position in each.block.positions]
    places.sort(key=rank)
    window = _Window(store, scatter, results, blocks)
    del blocks
    for position, number in places:
        yield [(position, await window.take(number, position))]


class _Window:
    """Blocks of a page that are at hand, up to `MOST_AT_ONCE` bytes; those that were not asked for go first."""

    def __init__(self, store: Scatters, scatter: str, results: Results, blocks: Sequence[Committed]) -> None:
        self._store, self._scatter, self._results = store, scatter, results
        self._blocks = [each.without_contents() for each in blocks]
        self._left = [len(each.block.positions) for each in blocks]
        self._kept, self._sizes, self._size = OrderedDict[int, dict[int, Any]](), dict[int, int](), 0
        for number, each in enumerate(blocks):
            if each.whole:
                self._keep(number, each.block)

    async def take(self, number: int, position: int) -> Any:
        """Return a result, once."""
        if number not in self._kept:
            self._keep(number, await contents(self._store, self._scatter, self._blocks[number]))
        self._kept.move_to_end(number)
        value = self._kept[number].pop(position)
        self._left[number] -= 1
        if not self._left[number]:
            self._drop(number)
        return value

    def _keep(self, number: int, block: Block) -> None:
        self._kept[number], self._sizes[number] = dict(_pairs(block, self._results)), weight(block)
        self._size += self._sizes[number]
        while self._size > MOST_AT_ONCE and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def _drop(self, number: int) -> None:
        del self._kept[number]
        self._size -= self._sizes.pop(number)


def _pairs(block: Block, results: Results) -> list[tuple[int, Any]]:
    return list(zip(block.positions, results.unpack(block), strict=True))
