"""The value of a scatter in batches: one result for each batch, found by the key of any of its items."""

from __future__ import annotations

import dataclasses
from typing import Any

from typing_extensions import override

from flowstone_async._engine.scatter.contents import contents
from flowstone_async._engine.scatter.gathered import Labels, StoredResults
from flowstone_async._engine.scatter.key_forms import PLAIN, KeyForm, of_batches
from flowstone_async._engine.scatter.packing import Items
from flowstone_async.definition.batch import Batch
from flowstone_async.definition.gathered import ItemFailure
from flowstone_async.store.batches import split_from, split_off
from flowstone_async.store.scatters import Scatters, StoredFailure


class BatchLabels(Labels):
    """Batches and their keys by position.

    Args:
        store: Where the scatter lies.
        scatter: Which one.
        items: Decodes batches.
        key: The option `key`.
        form: How the keys of single items are stored; None for plain values.
    """

    def __init__(self, store: Scatters, scatter: str, items: Items, key: object, form: KeyForm | None = None) -> None:
        super().__init__(store, scatter, items, key, of_batches(form or PLAIN))

    @override
    def item(self, number: int, position: int) -> Any:
        read, place = split_from(position)
        items = super().item(number, read)
        return items if items is None or place is None else (items[place],)

    @override
    def key(self, number: int, position: int) -> tuple[Any, ...]:
        page, items, keys = self._kept[number]
        read, place = split_from(position)
        own = items.get(read - page.first, ()) if keys is None else keys[read - page.first]
        return tuple(own) if place is None else (own[place],)

    def place(self, number: int, key: object) -> tuple[int, int] | None:
        """Return the position of the batch that has the item with a key, in a page at hand, and its place in there."""
        page, _, keys = self._kept[number]
        for place, own in enumerate(keys or ()):
            if key in own:
                return page.first + place, own.index(key)
        return None


def _in_source_order(found: tuple[int, Any]) -> tuple[int, int]:
    """Return the rank of a result: one that was split off comes behind the batch that it was in."""
    position, place = split_from(found[0])
    return position, -1 if place is None else place


class BatchResults(StoredResults):
    """Reads the results of one scatter in batches."""

    _rank = staticmethod(_in_source_order)

    @override
    def _labels(self) -> BatchLabels:
        return BatchLabels(self._store, self._scatter, self._items, self._key, self._form)

    @override
    def _failure(self, labels: Labels, stored: StoredFailure) -> ItemFailure:
        index = labels.index(stored.page, stored.position) if stored.number is None else stored.number
        items, key = labels.item(stored.page, stored.position), labels.key(stored.page, stored.position)
        batch = None if items is None else Batch[Any](items, number=index, keys=key)
        failure = super()._failure(labels, stored)
        return dataclasses.replace(failure, index=index, item=batch)

    @override
    async def get(self, key: object) -> Any:
        labels = self._labels()
        found = await self._batch(key, labels)
        if found is None:
            raise await self._no_result(key, known=False)
        number, position, place = found
        alone = split_off(position, place)
        results: dict[int, Any] = {}
        for each in await self._store.blocks(self._scatter, number):
            if position in each.block.positions or alone in each.block.positions:
                results.update(self._pairs(await contents(self._store, self._scatter, each)))
        if alone in results:
            return results[alone]
        failed = await self._store.failures(self._scatter, after=alone - 1, limit=1)
        if position not in results or any(each.position == alone for each in failed):
            raise await self._no_result(key, known=True)
        return results[position]

    async def _batch(self, key: object, labels: BatchLabels) -> tuple[int, int, int] | None:
        """Return the batch that the item with a key was read into: number of its page, position, place of the item."""
        if self._key is False:
            return await self._batch_of_position(key, labels)
        content, position = self._content(key), await self._position(key)
        number = None if position is None else await self._store.page_at(self._scatter, position)
        if position is None or number is None:
            return None
        await labels.load(number)
        keys = labels.key(number, position)
        contents = self._contents(keys)
        return (number, position, contents.index(content)) if content in contents else (number, position, 0)

    def _contents(self, keys: tuple[Any, ...]) -> list[bytes]:
        if self._key is None and self._form is None:
            return self._items.contents(self._items.pack(list(keys)))
        return (self._form or PLAIN).contents(keys)

    async def _batch_of_position(self, key: object, labels: BatchLabels) -> tuple[int, int, int] | None:
        """Look for a position in the source, page by page: nothing else tells in which batch it is."""
        for number in range(self._pages):
            await labels.load(number)
            found = labels.place(number, key)
            if found is not None:
                return number, *found
        return None
