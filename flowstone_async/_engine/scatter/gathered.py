"""The value of a scatter, read from the store a page at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from operator import itemgetter
from typing import Any, Literal

from typing_extensions import override

from flowstone_async._engine.scatter.contents import contents, in_order
from flowstone_async._engine.scatter.facts import refuse_otherwise_stored
from flowstone_async._engine.scatter.key_forms import PLAIN, KeyForm
from flowstone_async._engine.scatter.packing import Items, hash_of
from flowstone_async._engine.scatter.results import Results
from flowstone_async.definition.gathered import Gathered, GatheredReader, ItemFailure
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.errors import NotFound, StorageError
from flowstone_async.failures import rebuild
from flowstone_async.io.base import IOManager, Stored, ValueRef
from flowstone_async.store.blocks import Block
from flowstone_async.store.scatters import Page, Scatters, StoredFailure

_PAGES_KEPT = 8
_BLOCKS = 50
_FAILURES = 200


class Labels:
    """Items and keys of a scatter by position, for those that ask for them; a few pages are kept.

    Args:
        store: Where it lies.
        scatter: Which one.
        items: Decodes items.
        key: The option `key`.
        form: How keys are stored; None for plain values.
    """

    def __init__(self, store: Scatters, scatter: str, items: Items, key: object, form: KeyForm | None = None) -> None:
        self._store, self._scatter, self._items, self._key = store, scatter, items, key
        self._form = form or PLAIN
        self._kept: OrderedDict[int, tuple[Page, Mapping[int, Any], list[Any] | None]] = OrderedDict()

    async def load(self, number: int) -> None:
        """Have a page at hand."""
        if number in self._kept:
            return
        pages = await self._store.pages(self._scatter, [number])
        if not pages:
            raise StorageError("the items of a scatter are gone from the store", retryable=False)
        [page] = pages
        keys = None if page.keys is None else self._form.unpack(page.keys)
        self._kept[number] = page, self._items.unpack(page.items), keys
        if len(self._kept) > _PAGES_KEPT:
            self._kept.popitem(last=False)

    def page(self, number: int) -> Page:
        """Return a page that is at hand."""
        return self._kept[number][0]

    def positions(self, number: int) -> range:
        """Return the positions of a page that is at hand, duplicates included."""
        page, _, _ = self._kept[number]
        return range(page.first, page.first + page.size)

    def is_duplicate(self, number: int, position: int) -> bool:
        """Tell whether the item at a position was known before."""
        page, _, _ = self._kept[number]
        return position - page.first in page.duplicates

    def item(self, number: int, position: int) -> Any:
        """Return an item of a page that is at hand; None if it could not be stored."""
        page, items, _ = self._kept[number]
        return items.get(position - page.first)

    def index(self, number: int, position: int) -> int:
        """Return the place of an item among the distinct ones."""
        page, _, _ = self._kept[number]
        place = position - page.first
        return page.before + place - sum(each < place for each in page.duplicates)

    def key(self, number: int, position: int) -> Any:
        """Return what identifies an item."""
        page, items, keys = self._kept[number]
        if self._key is False:
            return self.index(number, position)
        return items.get(position - page.first) if keys is None else keys[position - page.first]


class StoredResults(GatheredReader[Any]):
    """Reads the results of one scatter."""

    _rank: Callable[[tuple[int, Any]], Any] = staticmethod(itemgetter(0))

    def __init__(
        self,
        store: Scatters,
        scatter: str,
        pages: int,
        *,
        items: Items,
        results: Results,
        key: object,
        order: Literal["source", "completion"],
        partition: object,
        succeeded: int,
        failed: int,
        form: KeyForm | None = None,
    ) -> None:
        self._store, self._scatter, self._pages = store, scatter, pages
        self._succeeded, self._failed = succeeded, failed
        self._items, self._results, self._key, self._order = items, results, key, order
        self._partition, self._form = partition, form
        self._held = store.pin(scatter)

    def _labels(self) -> Labels:
        return Labels(self._store, self._scatter, self._items, self._key, self._form)

    @override
    async def values(self) -> AsyncGenerator[Any]:
        async for _, found in self._found():
            for _, value in found:
                yield value

    @override
    async def items(self) -> AsyncGenerator[tuple[Any, Any]]:
        labels = self._labels()
        async for page, found in self._found():
            await labels.load(page)
            for position, value in found:
                yield labels.key(page, position), value

    async def _found(self) -> AsyncGenerator[tuple[int, list[tuple[int, Any]]]]:
        """Yield results with their positions, some at a time, with the number of their page."""
        count = 0
        async for page, found in self._stored():
            count += len(found)
            yield page, found
        _expect(self._succeeded, count, "results")

    async def _stored(self) -> AsyncGenerator[tuple[int, list[tuple[int, Any]]]]:
        if self._order == "source":
            for page in range(self._pages):
                async with aclosing(in_order(self._store, self._scatter, page, self._results, self._rank)) as parts:
                    async for found in parts:
                        yield page, found
            return
        last = -1
        while blocks := await self._store.committed(self._scatter, after=last, limit=_BLOCKS):
            for each in blocks:
                yield each.page, self._pairs(each.block)
            last = blocks[-1].no

    def _pairs(self, block: Block) -> list[tuple[int, Any]]:
        return list(zip(block.positions, self._results.unpack(block), strict=True))

    @override
    async def failures(self) -> AsyncGenerator[ItemFailure]:
        labels, last, count = self._labels(), -1, 0
        while page := await self._store.failures(self._scatter, after=last, limit=_FAILURES):
            for each in page:
                await labels.load(each.page)
                yield self._failure(labels, each)
            last = page[-1].position
            count += len(page)
        _expect(self._failed, count, "failures")

    def _failure(self, labels: Labels, stored: StoredFailure) -> ItemFailure:
        return ItemFailure(
            key=labels.key(stored.page, stored.position),
            index=labels.index(stored.page, stored.position),
            item=labels.item(stored.page, stored.position),
            error=rebuild(stored.error, partition=self._partition),
            attempts=stored.attempts,
            worker=stored.worker if stored.attempts else None,
        )

    @override
    async def get(self, key: object) -> Any:
        position = await self._position(key)
        number = None if position is None else await self._store.page_at(self._scatter, position)
        if position is not None and number is not None:
            for each in await self._store.blocks(self._scatter, number):
                if position in each.block.positions:
                    return dict(self._pairs(await contents(self._store, self._scatter, each)))[position]
        raise await self._no_result(key, known=number is not None)

    async def _no_result(self, key: object, *, known: bool) -> NotFound:
        """Return the error for a key without a result.

        Raises:
            StorageError: There may have been one: the scatter is gone.
        """
        if await self._store.scatter(self._scatter) is None:
            _expect(self._succeeded, 0, "results")
        reason = "it did not succeed: see .failures()" if known else "no item has that key"
        return NotFound(f"the scatter has no result for key {key!r}: {reason}")

    async def _position(self, key: object) -> int | None:
        if self._key is False:
            return key if isinstance(key, int) and key >= 0 else None
        content = self._content(key)
        return None if content is None else await self._store.find(self._scatter, hash_of(content))

    def _content(self, key: object) -> bytes | None:
        """Return what identifies an item with that key; None if there cannot be one."""
        if self._key is None and self._form is None:
            packed = self._items.pack([key])
            return self._items.contents(packed)[0] if packed.places else None
        try:
            return (self._form or PLAIN).contents([key])[0]
        except ValueError:
            return None


def _expect(expected: int, found: int, what: str) -> None:
    """Refuse to end early, as if that had been all: somebody deleted the rest meanwhile.

    Raises:
        StorageError: There are fewer than there were.
    """
    if found < expected:
        raise StorageError(
            f"{expected - found} of {expected} {what} of a scatter are gone from the store",
            hint="It was invalidated, or replaced and pruned, while it was read: get it again.",
            retryable=False,
        )


class ScatterValues(IOManager):
    """Where the results of scatters live: in the store itself, whatever `io=` says.

    Args:
        store: The store's scatters.
        kind: The scatter's options.
        items: Decodes its items.
        reader: Reads its results.
        form: How its keys are stored; None where they are not stored beside the items, or are plain values.
    """

    def __init__(
        self,
        store: Scatters,
        kind: ScatterKind,
        items: Items,
        reader: type[StoredResults] = StoredResults,
        *,
        form: KeyForm | None = None,
    ) -> None:
        self._store, self._kind, self._items, self._reader = store, kind, items, reader
        self._form = form

    @property
    @override
    def name(self) -> str:
        return "scatter"

    @override
    async def store(self, ref: ValueRef, value: Any) -> Stored:
        raise StorageError(f"the results of {ref.key} are stored by its scatter, as they come", asset=ref.key.asset)

    @override
    async def load(self, ref: ValueRef, want: object) -> Gathered[Any]:
        scatter, totals = await self._store.scatter(ref.location), await self._store.totals(ref.location)
        if scatter is None or totals is None:
            raise StorageError(
                f"the results of {ref.key} are gone from the store",
                asset=ref.key.asset,
                hint="Run the asset with force=True to compute them again.",
            )
        refuse_otherwise_stored(scatter, f"scatter {ref.key}", batches=self._kind.batch is not None)
        reader = self._reader(
            self._store,
            scatter.id,
            scatter.pages,
            items=self._items,
            results=Results(ref.type, ref.names, self._kind.results),
            key=self._kind.key,
            form=self._form,
            order=self._kind.order,
            partition=ref.partition,
            succeeded=totals.succeeded,
            failed=totals.failed,
        )
        return Gathered(
            reader, total=totals.total, succeeded=totals.succeeded, failed=totals.failed, order=self._kind.order
        )

    def pin(self, materialization: str) -> object | None:
        """Return what keeps a value loadable, also once it is deleted, for as long as the caller has it."""
        return self._store.pin(materialization)

    @override
    async def delete(self, ref: ValueRef) -> None:
        await self._store.delete([ref.location or ref.materialization])

    @override
    def supports(self, type_: object) -> bool:
        return True
