"""The form of an `Item`: an object of plain JSON, which becomes one again when it is loaded."""

from __future__ import annotations

from dataclasses import replace

from flowstone_async.definition.item import Item
from flowstone_async.io import fingerprint as forms
from flowstone_async.io.fingerprint import Form


def item_form() -> Form:
    """Return the form of exactly `Item`; a set in one has none, as in any value without a declared type."""
    plain = forms.anything()

    def pack(value: object) -> object:
        item: Item = forms.only(Item, value)
        return plain.pack(item.copy())

    def unpack(packed: object) -> Item:
        return Item(forms.only(dict, packed))

    return replace(plain, pack=pack, unpack=unpack, kinds=forms.DICT, accepts=Item)
