"""Items of a scatter, listed page by page; and its errors, in groups."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, get_args

from flowstone_async._engine.scatter.batch_results import BatchLabels
from flowstone_async._engine.scatter.batching import BatchItems
from flowstone_async._engine.scatter.finding import only_scatter
from flowstone_async._engine.scatter.gathered import Labels
from flowstone_async._engine.scatter.key_forms import key_form
from flowstone_async._engine.scatter.packing import Items
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target
from flowstone_async.config import whole, word
from flowstone_async.definition.batch import Batch
from flowstone_async.definition.keys import decode_key
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.definition.scatter_item import ErrorGroup, ItemState, ScatterItem
from flowstone_async.failures import rebuild
from flowstone_async.store.batches import SPLIT
from flowstone_async.store.records import RunRecord
from flowstone_async.store.scatters import ScatterRecord, StoredFailure

_AT_ONCE = 1000


async def list_items(
    session: Session,
    run: RunRecord,
    target: Target,
    *,
    state: ItemState,
    partition: object,
    limit: int,
    after: int | None,
) -> tuple[ScatterItem, ...]:
    """Return items of a scatter; see `RunHandle.items`."""
    word(state, get_args(ItemState), what="state")
    whole(limit, what="limit")
    last = -1 if after is None else whole(after, what="after", least=0)
    scatter = await only_scatter(session, run, target, partition)
    listing = _Listing(session, scatter, min(limit, _AT_ONCE))
    found: list[ScatterItem] = []
    async with aclosing(listing.failed(last) if state == "failed" else listing.others(last, state)) as items:
        async for each in items:
            found.append(each)
            if len(found) == limit:
                break
    return tuple(found)


async def list_errors(
    session: Session, run: RunRecord, target: Target, *, partition: object, limit: int
) -> tuple[ErrorGroup, ...]:
    """Return the errors of a scatter's failed items; see `RunHandle.item_errors`."""
    whole(limit, what="limit")
    scatter = await only_scatter(session, run, target, partition)
    key = decode_key(scatter.key.partition)
    groups = await session.store.scatters.errors(scatter.id, limit=min(limit, _AT_ONCE))
    return tuple(
        ErrorGroup(
            error_type=str(error.details.get("error_type", error.type)),
            count=count,
            example=rebuild(error, partition=key),
        )
        for count, error in groups
    )


class _Listing:
    """Lists the items of one scatter.

    Args:
        session: Of the engine.
        scatter: Which one.
        at_once: How many failures are read together.
    """

    def __init__(self, session: Session, scatter: ScatterRecord, at_once: int) -> None:
        catalog = session.catalogs[scatter.key.pipeline]
        node = catalog.node(scatter.key.asset)
        kind, bound = node.definition.kind, node.scatter
        assert isinstance(kind, ScatterKind)  # noqa: S101 - whoever found the scatter has asked
        assert bound is not None  # noqa: S101 - likewise
        self._store, self._scatter, self._at_once = session.store.scatters, scatter, at_once
        wanted, names = bound.item.wanted, node.definition.scope.names
        self._batched, form = kind.batch is not None, key_form(node, catalog.graph.nodes)
        if self._batched:
            self._labels: Labels = BatchLabels(self._store, scatter.id, BatchItems(wanted, names), kind.key, form)
        else:
            self._labels = Labels(self._store, scatter.id, Items(wanted, names), kind.key, form)
        self._partition = decode_key(scatter.key.partition)

    async def failed(self, last: int) -> AsyncGenerator[ScatterItem]:
        """Yield failed items behind a position."""
        while page := await self._store.failures(self._scatter.id, after=last, limit=self._at_once):
            for each in page:
                await self._labels.load(each.page)
                yield self._item(each.page, each.position, "failed", each, index=each.number)
            last = page[-1].position

    async def others(self, last: int, state: ItemState) -> AsyncGenerator[ScatterItem]:
        """Yield items behind a position that did not fail: page after page, and at last what left its batch."""
        first = await self._store.page_at(self._scatter.id, last + 1) if last < SPLIT else None
        for number in () if first is None else range(first, self._scatter.pages):
            await self._labels.load(number)
            blocks = await self._store.blocks(self._scatter.id, number, most=0)
            done = {position for each in blocks for position in each.block.positions}
            failed = await self._failed_of(number) if state == "pending" else ()
            for position in self._labels.positions(number):
                known = position <= last or self._labels.is_duplicate(number, position) or position in failed
                if not known and (position in done) is (state == "done"):
                    yield self._item(number, position, state)
        while self._batched and (splits := await self._store.splits(self._scatter.id, after=last, limit=self._at_once)):
            for each in splits:
                if not each.failed and bool(each.succeeded) is (state == "done"):
                    await self._labels.load(each.page)
                    yield self._item(each.page, each.first, state, index=each.number)
            last = splits[-1].first

    async def _failed_of(self, number: int) -> set[int]:
        """Return the positions in a page that is at hand of items that failed."""
        page = self._labels.positions(number)
        found, last = set[int](), page.start - 1
        while last < page.stop - 1:
            failures = await self._store.failures(self._scatter.id, after=last, limit=_AT_ONCE)
            if not failures:
                break
            found.update(each.position for each in failures)
            last = failures[-1].position
        return found

    def _item(
        self,
        page: int,
        position: int,
        state: ItemState,
        failure: StoredFailure | None = None,
        *,
        index: int | None = None,
    ) -> ScatterItem:
        labels = self._labels
        index = labels.index(page, position) if index is None else index
        item, key = labels.item(page, position), labels.key(page, position)
        return ScatterItem(
            key=key,
            index=index,
            state=state,
            item=Batch[Any](item, number=index, keys=key) if self._batched and item is not None else item,
            place=position,
            attempts=None if failure is None else failure.attempts,
            error=None if failure is None else rebuild(failure.error, partition=self._partition),
            worker=failure.worker if failure is not None and failure.attempts else None,
        )
