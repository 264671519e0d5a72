"""From a page of a source to a page of the store: what the body receives, its key, and what cannot be run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flowstone_async._engine.scatter.key_forms import PLAIN, KeyForm
from flowstone_async._engine.scatter.packing import Items, Packed, content_of, hash_of
from flowstone_async._engine.scatter.upstream import Arrived
from flowstone_async.errors import ConfigError, Failure, FlowstoneError, StorageError
from flowstone_async.failures import ENDINGS
from flowstone_async.sources.source import BadRow
from flowstone_async.store.scatters import ItemFailed

LARGEST_PAGE = 512 << 20
"""Bytes of the items of a page: a statement takes 1 GB."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Items as the source gave them, looked at.

    Attributes:
        packed: What can be run, encoded.
        contents: What identifies it, by place; None where positions are items.
        keys: What `key=` made of it, by place; None where it was not asked.
        refused: Why the rest cannot be run, by place.
    """

    packed: Packed
    contents: Mapping[int, bytes] | None
    keys: Mapping[int, Any] | None
    refused: Mapping[int, FlowstoneError]

    def hash(self, place: int, position: int) -> str:
        """Return the hash of the key of an item; of one without a key, that of its position in the source."""
        contents = self.contents or {}
        return hash_of(contents[place] if place in contents else f"!{position}".encode())


@dataclass(frozen=True, slots=True)
class Prepared:
    """Items of one page, ready to be recorded and run.

    Attributes:
        data: The page as it is stored.
        items: What can be run, by place.
        hashes: Of all keys; None if positions are items.
        keys: What `key=` made of each item, encoded; None where it was not asked.
        failed: What cannot be run.
    """

    data: bytes
    items: Mapping[int, Any]
    hashes: Sequence[str] | None
    keys: bytes | None
    failed: Sequence[ItemFailed]


@dataclass(slots=True)
class _Page:
    """A page under way: what is left of it, by place, and why the rest is not."""

    left: dict[int, Any]
    refused: dict[int, FlowstoneError] = field(default_factory=dict[int, FlowstoneError])


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Prepares pages.

    Attributes:
        items: Encodes items.
        select: Makes of an item what the body receives; None for the item itself.
        key: Gives an item its key; None for its content, False for its position.
        keys: How keys are stored.
        failure: Makes of what a function raised, or of a message, the error of an item.
        hide: Hides secrets in a text.
    """

    items: Items
    select: Callable[[Any], Any] | None
    key: Callable[[Any], Any] | Literal[False] | None
    failure: Callable[[BaseException | str], FlowstoneError]
    describe: Callable[[FlowstoneError], Failure]
    hide: Callable[[str], str]
    keys: KeyForm = PLAIN

    async def prepare(self, items: Sequence[Any], position: int) -> Prepared:
        """Prepare a page.

        Args:
            items: As the source gave them.
            position: Of the first one, in the source.

        Raises:
            StorageError: They are too large together.
        """
        accepted = await self.accept(items)
        data, hashes, keys = self.items.page(accepted.packed, len(items)), None, None
        if accepted.keys is not None:
            keys = self.keys.pack([accepted.keys.get(place) for place in range(len(items))])
        refuse_too_large(data, len(items), keys)
        if accepted.contents is not None:
            hashes = [accepted.hash(place, position + place) for place in range(len(items))]
        return Prepared(
            data=data,
            items=dict(zip(accepted.packed.places, accepted.packed.values, strict=True)),
            hashes=hashes,
            keys=keys,
            failed=[ItemFailed(place, 0, self.describe(accepted.refused[place])) for place in sorted(accepted.refused)],
        )

    async def accept(self, items: Sequence[Any]) -> Accepted:
        """Ask `select` and `key`, and encode what can be run."""
        arrived = {place: item.key for place, item in enumerate(items) if type(item) is Arrived}
        page = _Page({place: item.value if type(item) is Arrived else item for place, item in enumerate(items)})
        for place, item in enumerate(items):
            if isinstance(item, BadRow):
                self._refuse(page, place, item.message)
        if self.select is not None:
            for place, item in list(page.left.items()):
                await self._call(page, place, self.select, item)
        packed = self._pack(page)
        if self.key is False:
            return Accepted(packed, None, None, page.refused)
        contents, keys = await self._contents(page, packed, arrived)
        return Accepted(self._without(packed, page), contents, keys, page.refused)

    async def asked(
        self, function: Callable[[Any], Any], items: Mapping[int, Any], refused: dict[int, FlowstoneError]
    ) -> dict[int, Any]:
        """Return what a function of the user's makes of each item, by place; why it raised is added to `refused`."""
        page = _Page(dict(items))
        for place, item in items.items():
            await self._call(page, place, function, item)
        refused.update(page.refused)
        return page.left

    def _refuse(self, page: _Page, place: int, reason: BaseException | str) -> None:
        del page.left[place]
        page.refused[place] = self.failure(reason)

    async def _call(self, page: _Page, place: int, function: Callable[[Any], Any], item: Any) -> Any:
        """Call a function of the user's with one item and keep what it returns; if it raises, that item fails."""
        try:
            made = function(item)
            if inspect.isawaitable(made):
                made = await made
        except ENDINGS:
            raise
        except Exception as error:  # anybody's code
            self._refuse(page, place, error)
        else:
            page.left[place] = made

    def _pack(self, page: _Page) -> Packed:
        places = list(page.left)
        packed = self.items.pack(list(page.left.values()))
        for number, error in packed.refused.items():
            del page.left[places[number]]
            page.refused[places[number]] = error
        return packed._replace(places=[places[number] for number in packed.places], refused={})

    async def _contents(
        self, page: _Page, packed: Packed, arrived: Mapping[int, Any]
    ) -> tuple[dict[int, bytes], dict[int, Any] | None]:
        """Return what identifies each item, and what `key` made of them."""
        if not callable(self.key) and arrived:
            return dict(zip(arrived, self.keys.contents(list(arrived.values())), strict=True)), dict(arrived)
        if not callable(self.key):
            return dict(zip(packed.places, self.items.contents(packed), strict=True)), None
        keys = _Page(dict(zip(packed.places, packed.values, strict=True)))
        contents: dict[int, bytes] = {}
        for place, item in list(keys.left.items()):
            await self._call(keys, place, self.key, item)
            if place in keys.left:
                try:
                    contents[place] = content_of(keys.left[place])
                except ValueError as error:
                    self._refuse(keys, place, str(error))
        for place, error in keys.refused.items():
            self._refuse(page, place, error)
        return contents, {place: keys.left[place] for place in contents}

    def _without(self, packed: Packed, page: _Page) -> Packed:
        """Return the items without those that have been refused since they were encoded."""
        if len(page.left) == len(packed.places):
            return packed
        return self._pack(page)


def refuse_too_large(data: bytes, count: int, keys: bytes | None = None) -> None:
    """Refuse items that are too large together, with the keys that are stored beside them.

    Raises:
        StorageError: They are.
    """
    size = len(data) + len(keys or b"")
    if size > LARGEST_PAGE:
        together = "together with their keys" if keys else "together"
        raise StorageError(
            f"{count:,} items have {size:,} bytes {together}; a page of the store takes {LARGEST_PAGE:,}",
            hint="Lower page_size=, or let items say where their contents are.",
        )


def cursor_of(token: Mapping[str, object]) -> str:
    """Return a place in a source as it is stored.

    Raises:
        ConfigError: It cannot be.
    """
    try:
        return json.dumps(token)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the cursor {token!r} cannot be stored: {error}", hint="Give plain JSON values.") from error
