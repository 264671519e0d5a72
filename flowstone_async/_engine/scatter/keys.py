"""The keys of items that run, for the bodies that ask."""

from __future__ import annotations

from typing import Any

from flowstone_async._engine.scatter.chunks import UNTOLD, LocalChunk, Todo
from flowstone_async._engine.scatter.key_forms import PLAIN, KeyForm
from flowstone_async._engine.scatter.packing import Items, as_key, hash_of
from flowstone_async.io.bulk import bulk
from flowstone_async.io.pieces import PIECE
from flowstone_async.store.scatters import Page

_TOGETHER = 99


class Keys:
    """The keys of items that run, for the bodies that ask.

    Args:
        items: Encodes items.
        key: The option `key`.
        form: How keys are stored; None for plain values.
    """

    def __init__(self, items: Items, key: object, form: KeyForm | None = None) -> None:
        self._items, self._key, self._form = items, key, form or PLAIN
        self._stored = self._form
        self._of: tuple[int, list[Any]] = -1, []

    def stored(self, page: Page, keys: bytes) -> list[Any]:
        """Return the keys of a page."""
        if self._of[0] != page.no:
            self._of = page.no, self._stored.unpack(keys)
        return self._of[1]

    def of(self, chunk: LocalChunk, todo: Todo) -> tuple[Any, str]:
        """Return the key of an item, and the text that stands for it."""
        page = chunk.page
        if self._key is False:
            return todo.number, str(todo.number)
        if todo.key is not UNTOLD:
            key = as_key(todo.key)
            return key, hash_of(PLAIN.contents([key])[0])
        if page.keys is None:
            return todo.item, self._identity(chunk, todo)
        key = self.stored(page, page.keys)[todo.position - page.first]
        return key, hash_of(self._form.contents([key])[0])

    def _identity(self, chunk: LocalChunk, todo: Todo) -> str:
        """Return the hash of an item's content, taken together with those that come next, before any body has them."""
        found = chunk.identities.pop(todo.position, None)
        if found is None:
            todos = _together(todo, chunk.todo)
            packed = self._items.pack([each.item for each in todos])
            contents = zip(packed.places, self._items.contents(packed), strict=True)
            chunk.identities = {todos[place].position: hash_of(content) for place, content in contents}
            if 0 in packed.refused:
                raise packed.refused[0]
            found = chunk.identities.pop(todo.position)
        return found


def _together(todo: Todo, behind: list[Todo]) -> list[Todo]:
    """Return an item with those that come next, the last of a list first: only as many as are small together."""
    found, size = [todo], bulk(todo.item)
    for each in reversed(behind[-_TOGETHER:]):
        size += bulk(each.item)
        if size > PIECE:
            break
        found.append(each)
    return found
