"""Between a source and the store: items become batches, and a page of the store has those that are closed.

What is read and in no batch yet goes with each page as its carry, so that whoever continues has the same batches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast

from pydantic_core import from_json, to_json
from typing_extensions import override

from flowstone_async._engine.scatter.composing import Composer, Entry, Limits, OpenBatch
from flowstone_async._engine.scatter.intake import Accepted, Intake, Prepared, refuse_too_large
from flowstone_async._engine.scatter.key_forms import PLAIN, KeyForm, of_batches
from flowstone_async._engine.scatter.packing import LONGEST_KEY, Items, as_key, content_of, hash_of
from flowstone_async._engine.scatter.upstream import Arrived
from flowstone_async._engine.user_error import fresh, shown_value
from flowstone_async.config import seconds
from flowstone_async.definition.batching import OPEN_GROUPS, Batching
from flowstone_async.errors import FlowstoneError, StorageError
from flowstone_async.sources.source import BadRow
from flowstone_async.store.scatters import ItemFailed, NewPage, Scatters


class BatchItems(Items):
    """Items of a scatter in batches: alone as ever, and in pages whose items are batches, as tuples."""

    def batches(self, batches: Sequence[Sequence[Any]]) -> bytes:
        """Return the bytes of a page of batches; one without items stands for what cannot be run."""
        data = self.certain([item for batch in batches for item in batch])
        return json.dumps([len(batch) for batch in batches]).encode() + b"\n" + data

    def certain(self, items: Sequence[Any]) -> bytes:
        """Return the bytes of items that could be encoded before.

        Raises:
            StorageError: One of them was changed meanwhile.
        """
        packed = self.pack(items)
        for error in packed.refused.values():
            raise StorageError(f"an item was changed after it was read: {error.message}", retryable=False) from error
        refuse_too_large(packed.data, len(items))
        return packed.data

    @override
    def unpack(self, page: bytes) -> dict[int, Any]:
        head, data = page.split(b"\n", 1)
        items = iter(self.values(data))
        sizes = cast("list[int]", json.loads(head))
        found = {place: tuple(next(items) for _ in range(size)) for place, size in enumerate(sizes)}
        return {place: batch for place, batch in found.items() if batch}


class BatchPrepared(NamedTuple):
    """A page of batches, ready to be recorded and run; see `NewPage`."""

    page: Prepared
    size: int
    places: Sequence[int] | None
    carry: bytes | None
    distinct: int

    def recorded(
        self, scatter: str, fence: int, no: int, cursor: str | None, *, last: bool, chunks: Sequence[int], owned: int
    ) -> NewPage:
        """Return it as the store takes it."""
        page, size = self.page, self.size
        return NewPage(
            scatter,
            fence,
            no,
            size,
            page.data,
            page.hashes,
            page.keys,
            cursor,
            last,
            page.failed,
            chunks,
            owned=owned,
            places=self.places,
            carry=self.carry,
            distinct=self.distinct,
        )


class Refused(NamedTuple):
    """An item that cannot be run: a failed batch of one.

    Attributes:
        keys: Its key, if that is known.
    """

    error: FlowstoneError
    hash: str | None
    keys: Sequence[Any] = ()


class Batcher:
    """Makes batches of what is read.

    Args:
        batching: The option.
        intake: Looks at items; it encodes them as `BatchItems`.
        size: `Batching.size`, its dependencies given.
        group: `Batching.group_by`, likewise.
        store: Where it lies.
        scatter: Which scatter it is.
        carry: What was read before and is in no page.
        now: The store's clock.
        keyed: Whether items come with keys, as those of another scatter do.
    """

    def __init__(
        self,
        batching: Batching[Any],
        intake: Intake,
        *,
        size: Callable[[Any], Any] | None,
        group: Callable[[Any], Any] | None,
        store: Scatters,
        scatter: str,
        carry: bytes | None,
        now: Callable[[], datetime],
        keyed: bool = False,
    ) -> None:
        assert isinstance(intake.items, BatchItems)  # noqa: S101 - for the type checker
        self._intake, self._items, self._size, self._group = intake, intake.items, size, group
        self._store, self._scatter, self._now = store, scatter, now
        wait = batching.max_wait
        limits = Limits(
            batching.max_items,
            batching.max_bytes or None,
            None if wait is False else timedelta(seconds=seconds(wait, what="max_wait")),
            OPEN_GROUPS,
        )
        self._measures = limits.max_bytes is not None
        # None where items are their own keys.
        self._keys = of_batches(intake.keys) if keyed or intake.key is not None else None
        self._composer = Composer(limits, restored(carry, self._items, self._keys))
        self._unrecorded, self._distinct, self._carried = 0, 0, self._composer.count

    @property
    def due(self) -> datetime | None:
        """When the next batch is to be closed although it is short."""
        return self._composer.due

    async def accept(self, items: Sequence[Any], position: int) -> list[Entry | Refused]:
        """Look at items as the source gave them; this calls the user's functions.

        Args:
            items: The items.
            position: Of the first one, in the source.
        """
        intake = self._intake
        accepted = await intake.accept(items)
        packed, refused = accepted.packed, dict(accepted.refused)
        values = dict(zip(packed.places, packed.values, strict=True))
        sizes = await self._sizes(accepted, values, refused)
        groups = await self._groups(values, refused)
        keys = accepted.keys or {}
        if intake.key is False:
            keys = {place: position + place for place in range(len(items))}
        found: list[Entry | Refused] = []
        for place in range(len(items)):
            hash_ = None if accepted.contents is None else accepted.hash(place, position + place)
            if place in refused:
                item, told = items[place], refused[place]
                if not isinstance(item, BadRow):  # which says itself what it is
                    shown = intake.hide(shown_value(item.value if type(item) is Arrived else item))
                    told = _named(told, position + place, shown)
                found.append(Refused(told, hash_, [keys[place]] if place in keys else ()))
            else:
                entry = Entry(values[place], keys.get(place), hash_, sizes.get(place, 0), groups.get(place, ""))
                found.append(entry)
        return found

    async def _sizes(
        self, accepted: Accepted, values: Mapping[int, Any], refused: dict[int, FlowstoneError]
    ) -> Mapping[int, float]:
        if not self._measures:
            return {}
        if self._size is None:
            contents = self._items.contents(accepted.packed)
            return dict(zip(accepted.packed.places, map(len, contents), strict=True))
        sizes = await self._intake.asked(self._size, values, refused)
        for place, size in list(sizes.items()):
            if not isinstance(size, int | float) or not size >= 0:
                refused[place] = self._intake.failure(f"its size= is {size!r}: give a number of 0 or more")
        return sizes

    async def _groups(self, values: Mapping[int, Any], refused: dict[int, FlowstoneError]) -> Mapping[int, str]:
        if self._group is None:
            return {}
        left = {place: value for place, value in values.items() if place not in refused}
        groups: dict[int, str] = {}
        for place, group in (await self._intake.asked(self._group, left, refused)).items():
            try:
                groups[place] = hash_of(content_of(group))
            except ValueError:
                kind = type(group).__name__
                text = f"its group is {kind}: give text, a number, or a tuple of them, of {LONGEST_KEY:,} bytes at most"
                refused[place] = self._intake.failure(text)
        return groups

    async def compose(self, accepted: Sequence[Entry | Refused], *, last: bool) -> BatchPrepared | None:
        """Put in batches what is new; those that are closed by it make a page.

        Returns:
            None if nothing was closed and the next page may be recorded with this one: the carry is written again
            only once it has doubled, so that large batches do not cost more than their items.
        """
        composer, now = self._composer, self._now()
        known = await self._known(accepted)
        closed: list[Sequence[Entry] | Refused] = []
        for each in accepted:
            if each.hash is not None:
                if each.hash in known:
                    continue
                known.add(each.hash)
            self._distinct += 1
            if isinstance(each, Refused):
                closed.append(each)
            else:
                closed += composer.add(each, now)
        closed += composer.end() if last else composer.expire(now)
        self._unrecorded += len(accepted)
        if not closed and not last and self._unrecorded < self._carried:
            return None
        return self._prepared(closed)

    async def _known(self, accepted: Sequence[Entry | Refused]) -> set[str]:
        """Return hashes of items that were read before: in pages, or waiting for others."""
        opened = self._composer.hashes
        hashes = {each.hash for each in accepted if each.hash is not None}
        waiting = {hash_ for hash_ in hashes if hash_ in opened}
        return waiting | (await self._store.known(self._scatter, hashes - waiting))

    def expire(self) -> BatchPrepared | None:
        """Close what has waited long enough; None if nothing has."""
        closed = list(self._composer.expire(self._now()))
        return self._prepared(closed) if closed else None

    def _prepared(self, closed: Sequence[Sequence[Entry] | Refused]) -> BatchPrepared:
        intake, distinct = self._intake, self._distinct
        self._unrecorded, self._distinct, self._carried = 0, 0, self._composer.count
        batches = [() if isinstance(each, Refused) else each for each in closed]
        values = [tuple(entry.item for entry in batch) for batch in batches]
        hashes: list[str] = []
        places: list[int] = []
        for place, each in enumerate(closed):
            own = [each.hash] if isinstance(each, Refused) else [entry.hash for entry in each]
            known = [hash_ for hash_ in own if hash_ is not None]
            hashes += known
            places += [place] * len(known)
        keyed = intake.key is not False
        data, keys = self._items.batches(values), None
        if self._keys is not None:
            keys = self._keys.pack([_keys_of(each) for each in closed])
            refuse_too_large(data, sum(map(len, batches)), keys)
        page = Prepared(
            data=data,
            items={place: batch for place, batch in enumerate(values) if batch},
            hashes=hashes if keyed else None,
            keys=keys,
            failed=[
                ItemFailed(place, 0, intake.describe(each.error))
                for place, each in enumerate(closed)
                if isinstance(each, Refused)
            ],
        )
        carry = carried(self._composer.opened, self._items, self._keys)
        return BatchPrepared(page, len(closed), places if keyed else None, carry, distinct)


def _named(error: FlowstoneError, position: int, item: str) -> FlowstoneError:
    """Return the error of an item that is in no batch: which one it was is said nowhere else."""
    told = fresh(error)
    told.message = f"item {position} of the source, {item}: {error.message}"
    told.details = {**error.details, "position": position, "item": item}
    return told


def _keys_of(closed: Sequence[Entry] | Refused) -> tuple[Any, ...]:
    return tuple(closed.keys if isinstance(closed, Refused) else (entry.key for entry in closed))


def carried(opened: Sequence[OpenBatch], items: BatchItems, keys: KeyForm | None = None) -> bytes | None:
    """Return open batches as bytes, for `restored`.

    Args:
        opened: The batches.
        items: Encodes their items.
        keys: Encodes the keys of a batch; None where items are their own keys.
    """
    if not opened:
        return None
    apart = keys if keys is not PLAIN else None
    head = [
        [
            *(batch.group, batch.since.isoformat(), batch.size),
            [[entry.key if apart is None else None, entry.hash] for entry in batch.entries],
        ]
        for batch in opened
    ]
    data = items.certain([entry.item for batch in opened for entry in batch.entries])
    if apart is None:
        return to_json(head) + b"\n" + data
    packed = apart.pack([_keys_of(batch.entries) for batch in opened])
    refuse_too_large(data, sum(len(batch.entries) for batch in opened), packed)
    return to_json([len(packed), head]) + b"\n" + packed + data


def restored(carry: bytes | None, items: BatchItems, keys: KeyForm | None = None) -> list[OpenBatch]:
    """Return open batches from their bytes."""
    if carry is None:
        return []
    text, data = carry.split(b"\n", 1)
    head: list[Any] = from_json(text)
    apart = list[Any]()
    if keys is not None and keys is not PLAIN:
        size, head = head
        apart, data = [key for own in keys.unpack(data[:size]) for key in own], data[size:]
    values, own_keys = iter(items.values(data)), iter(apart)
    return [
        OpenBatch(
            group,
            datetime.fromisoformat(since),
            [Entry(next(values), next(own_keys, None) if key is None else as_key(key), hash_) for key, hash_ in own],
            size,
        )
        for group, since, size, own in head
    ]
