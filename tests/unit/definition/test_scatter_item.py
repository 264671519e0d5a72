"""What an item is that has no declared model (SCAT-03), and what is known of the item of a call (SCAT-06)."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async import ConfigError, Context, Item, StorageError
from flowstone_async.definition.context import Call, ItemFacts
from flowstone_async.definition.item import frozen, thawed
from flowstone_async.io.codec import codec_for
from tests.unit.definition.reading import untyped

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
PLAIN = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
MAPPINGS = st.dictionaries(st.text(), PLAIN, max_size=5)
RUN = "0198c0de-0000-7000-8000-000000000001"


@given(plain=MAPPINGS)
def test_it_equals_the_plain_dict(plain: dict[str, Any]) -> None:
    """SCAT-03: both ways, at any depth, and so do its copies."""
    item = Item(plain)
    assert item == plain
    assert plain == item
    assert (item != plain) is False
    assert {**item} == plain
    assert item != {**plain, "one more": 1}
    assert copy.copy(item) is item
    assert copy.deepcopy(item) is item
    for other in (pickle.loads(pickle.dumps(item)), Item(plain.items()), Item(item)):
        assert other == item
        assert type(other) is Item
        assert hash(other) == hash(item)


@given(plain=MAPPINGS)
def test_order_of_keys_makes_no_difference(plain: dict[str, Any]) -> None:
    """SCAT-05: mappings that differ in it are equal, and have one hash."""
    turned = Item(reversed(plain.items()))
    assert turned == Item(plain)
    assert hash(turned) == hash(Item(plain))
    assert len({turned, Item(plain)}) == 1


@given(plain=MAPPINGS)
def test_the_plain_dict_comes_back(plain: dict[str, Any]) -> None:
    """SCAT-03: `copy` gives dicts and lists again, which may be changed and stored."""
    made = Item(plain).copy()
    assert repr(made) == repr(plain)
    assert json.loads(json.dumps(Item(plain))) == json.loads(json.dumps(plain))


def test_keys_are_attributes() -> None:
    """SCAT-03: at any depth; what a dict has by itself stays."""
    item = Item({"url": "http://x", "size": {"width": 3}, "tags": [{"id": 7}], "items": 1, "two words": 2})
    assert (item.url, item["url"]) == ("http://x", "http://x")
    assert item.size.width == 3
    assert item.tags[0].id == 7
    assert item["items"] == 1
    assert next(iter(item.items())) == ("url", "http://x")
    assert {"url", "size", "tags"} < set(dir(item))
    assert "two words" not in dir(item)
    assert Item({"a": 1}, b=2) == Item(a=1, b=2)


def test_an_attribute_that_is_no_key() -> None:
    """SCAT-03: the keys there are are named; `getattr` and `hasattr` work as ever."""
    item = Item({"url": "x", "n": 1})
    with pytest.raises(AttributeError, match="this item has no 'ulr'; its keys are: url, n"):
        item.ulr  # noqa: B018
    with pytest.raises(AttributeError, match="its keys are: none"):
        Item().x  # noqa: B018
    assert not hasattr(item, "ulr")
    assert getattr(item, "ulr", 3) == 3


def _changes(item: Any) -> list[Callable[[], object]]:
    return [
        lambda: item.__setitem__("a", 2),
        lambda: item.__delitem__("a"),
        lambda: item.update(a=2),
        lambda: item.pop("a"),
        item.popitem,
        item.clear,
        lambda: item.setdefault("b", 1),
        lambda: item.__ior__({"b": 1}),
        lambda: setattr(item, "a", 2),
        lambda: delattr(item, "a"),
        lambda: setattr(item, "new", 2),
        lambda: item.nested.update(x=1),
        lambda: item.list.append(1),
        lambda: item.set.add(1),
    ]


def test_it_cannot_be_changed() -> None:
    """SCAT-03: nor what is in it, nor by what it was made from."""
    given_: dict[str, Any] = {"a": 1, "nested": {"x": 0}, "list": [[1]], "set": {1}, "raw": bytearray(b"x")}
    item = Item(given_)
    before = hash(item)
    for change in _changes(item):
        with pytest.raises((TypeError, AttributeError)):
            change()
    with pytest.raises(TypeError, match=r"an item is immutable; item.copy\(\) is a plain dict"):
        item["a"] = 2
    given_["list"][0].append(2)
    given_["nested"]["x"] = 1
    given_["raw"][:] = b"y"
    assert item == {"a": 1, "nested": {"x": 0}, "list": [[1]], "set": {1}, "raw": b"x"}
    assert hash(item) == before


def test_lists_in_it_equal_lists() -> None:
    """SCAT-03: they are tuples that show, and compare, as the lists they were."""
    tags = Item(tags=["a", ["b"]]).tags
    assert tags == ["a", ["b"]]
    assert tags == ["a", ["b"]]
    assert tags != ["a"]
    assert tags != "ab"
    assert (tags != ["a", ["b"]]) is False
    assert repr(tags) == "['a', ['b']]"
    assert isinstance(tags, tuple)
    assert pickle.loads(pickle.dumps(tags)) == ["a", ["b"]]
    assert repr(Item(tags=["a"])) == "Item({'tags': ['a']})"


def test_what_is_not_plain_stays_as_it_is() -> None:
    """SCAT-03: an object of the user's is not taken apart; a tuple stays one."""
    thing = object()
    assert frozen(thing) is thing
    assert Item(x=thing).x is thing
    assert thawed(frozen((1, [2], {"a": {3}}))) == (1, [2], {"a": frozenset({3})})
    with pytest.raises(TypeError):
        hash(Item(x=untyped(type("Unhashable", (), {"__hash__": None}))()))


@given(plain=MAPPINGS)
def test_it_is_stored_as_what_it_is(plain: dict[str, Any]) -> None:
    """SCAT-03: as a value of the declared type `Item`, alone or in a collection."""
    for annotation, value in ((Item, Item(plain)), (list[Item], [Item(plain)])):
        prepared = codec_for(annotation).prepare(value)
        assert prepared.value == value
        assert codec_for(annotation).decode(prepared.data) == value
        turned = Item(reversed(plain.items()))
        again = codec_for(annotation).prepare(turned if annotation is Item else [turned])
        assert again.fingerprint == prepared.fingerprint
    assert type(codec_for(Item).decode(codec_for(Item).encode(Item(plain)))) is Item


def test_an_item_is_no_plain_value() -> None:
    """VAL: what comes back must be what was stored, so the way out is named."""
    with pytest.raises(StorageError, match=r"return value\.copy\(\)"):
        codec_for(dict[str, Any]).encode(Item(a=1))
    with pytest.raises(StorageError, match="expected Item, found dict"):
        codec_for(Item).encode({"a": 1})
    with pytest.raises(StorageError, match="tuple is not plain JSON"):
        codec_for(Item).encode(Item(a=(1,)))


# -- the item of a call ---------------------------------------------------------------------------------------------


def _context(item: ItemFacts | None) -> Context:
    return Context(
        Call(pipeline="p", asset="a", partition="us", run_id=RUN, attempt=1, started_at=datetime.now(UTC), item=item)
    )


def _facts(key: object, index: int = 0, attempt: int = 1) -> ItemFacts:
    return ItemFacts(key=key, index=index, attempt=attempt, identity=str(key))


def test_what_a_context_tells_of_the_item() -> None:
    """SCAT-06."""
    item = _context(_facts("k", 3, 2)).item
    assert (item.key, item.index, item.attempt) == ("k", 3, 2)
    assert repr(item) == "ItemFacts(key='k', index=3, attempt=2)"


def test_there_is_no_item_elsewhere() -> None:
    """SCAT-06: outside of a scatter's body."""
    with pytest.raises(ConfigError, match=r"asset 'a' has no items: ctx\.item is for the body of a scatter") as caught:
        _context(None).item  # noqa: B018
    assert (caught.value.asset, caught.value.run_id) == ("a", RUN)


def test_idempotency_keys_of_items() -> None:
    """SCAT-06: the same on every attempt, different for every item, and for the asset as a whole."""
    keys = {(k, i, n): _context(_facts(k, i, n)).idempotency_key for k in "ab" for i in (0, 1) for n in (1, 2)}
    by_key = {k: {key for (known, _, _), key in keys.items() if known == k} for k in "ab"}
    assert all(len(found) == 1 for found in by_key.values())
    assert by_key["a"] != by_key["b"]
    assert _context(None).idempotency_key not in keys.values()
    assert keys["a", 0, 1] == "e565697f-3042-5cf5-9bce-8e0f37200638"
