"""Large values: the same bytes but for marks, the same values, and no call into C that gets a large one whole."""

from __future__ import annotations

import binascii
import json
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_core import to_json

from flowstone_async.errors import StorageError
from flowstone_async.io import fingerprint, pieces
from flowstone_async.io.codec import codec_for
from flowstone_async.io.files import Files
from flowstone_async.io.memory import Memory
from tests.unit.io.refs import ref_of


@dataclass
class Row:
    no: int
    text: str


class Model(BaseModel):
    no: int
    text: str


@dataclass
class Nested:
    title: str
    rows: dict[str, list[Row]]


ROWS = [Row(no, f'row {no} é \\ " \n') for no in range(60_000)]
LARGE: dict[str, tuple[Any, Any]] = {
    "text": (str, 'a"\\\n\té😀' * 300_000),
    "backslashes": (str, "\\" * 2_000_000),
    "controls": (str, "\x00\x1f" * 600_000),
    "bytes": (bytes, bytes(range(256)) * 20_000),
    "numbers": (list[int], list(range(400_000))),
    "tuple": (tuple[float, ...], tuple(no / 7 for no in range(200_000))),
    "set of text": (set[str], {f"item {no}" for no in range(150_000)}),
    "set of numbers": (frozenset[int], frozenset(range(300_000))),
    "dataclasses": (list[Row], ROWS),
    "models": (list[Model], [Model(no=row.no, text=row.text) for row in ROWS]),
    "nested": (Nested, Nested("title", {"empty": [], "many": ROWS, "one": ROWS[:1]})),
    "mapping": (dict[int, str], {no: f"item {no}" for no in range(100_000)}),
    "undeclared": (None, {"rows": [{"no": row.no, "text": row.text} for row in ROWS], "large": "x" * 3_000_000}),
    "one large among small": (list[str], ["small"] * 100 + ["x" * 3_000_000] + ["small"] * 100),
}


@pytest.fixture(params=LARGE)
def large(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return LARGE[request.param]


def test_a_large_value_comes_back(large: tuple[Any, Any]) -> None:
    declared, value = large
    codec = codec_for(declared)

    encoded = codec.prepare(value)

    assert encoded.value == value
    assert codec.decode(encoded.data) == value
    assert codec.fingerprint(encoded.data) == encoded.fingerprint


def test_its_bytes_are_json_and_without_marks_what_they_would_be_at_once(large: tuple[Any, Any]) -> None:
    declared, value = large
    codec = codec_for(declared)
    packed = codec._form.pack(value)

    data = codec.encode(value)

    assert pieces.unmarked(data) == b" " + to_json(packed)
    assert json.loads(data) == packed


def test_its_fingerprint_is_that_of_the_json_at_once(large: tuple[Any, Any]) -> None:
    declared, value = large
    codec = codec_for(declared)
    packed = codec._form.pack(value)
    order = codec._form.order

    assert codec.prepare(value).fingerprint == fingerprint.digest(to_json(order(packed) if order else packed))


def test_what_was_written_at_once_is_still_read(large: tuple[Any, Any]) -> None:
    declared, value = large
    codec = codec_for(declared)

    assert codec.decode(b" " + to_json(codec._form.pack(value))) == value


def test_no_call_gets_more_than_a_few_pieces(large: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    declared, value = large
    codec = codec_for(declared)
    sizes: list[int] = []
    to_text, from_text = pieces.to_json, pieces.from_json

    def writing(plain: Any) -> bytes:
        data = to_text(plain)
        sizes.append(len(data))
        return data

    def reading(data: bytes) -> Any:
        sizes.append(len(data))
        return from_text(data)

    class Binary:
        def b2a_base64(self, data: bytes, *, newline: bool) -> bytes:
            sizes.append(len(data))
            return binascii.b2a_base64(data, newline=newline)

        def a2b_base64(self, text: str) -> bytes:
            sizes.append(len(text))
            return binascii.a2b_base64(text)

    monkeypatch.setattr(pieces, "to_json", writing)
    monkeypatch.setattr(pieces, "from_json", reading)
    monkeypatch.setattr(pieces, "binascii", Binary())

    data = codec.prepare(value).data
    codec.decode(data)

    assert len(data) > pieces.LARGE
    assert len(sizes) >= 2 * len(data) / (8 * pieces.PIECE)
    assert max(sizes) <= 8 * pieces.PIECE


@pytest.mark.parametrize("manager", ["files", "memory"])
async def test_a_large_value_is_encoded_and_decoded_off_the_event_loop(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, manager: str
) -> None:
    place = Files(tmp_path) if manager == "files" else Memory()
    threads: set[int] = set()
    for name in ("to_json", "from_json"):
        real = getattr(pieces, name)

        def noted(data: Any, real: Any = real) -> Any:
            threads.add(get_ident())
            return real(data)

        monkeypatch.setattr(pieces, name, noted)
    declared, value = LARGE["dataclasses"]
    ref = ref_of(declared)

    stored = await place.store(ref, value)
    assert await place.load(ref._replace(location=stored.location), None) == value

    assert threads
    assert get_ident() not in threads


@pytest.mark.parametrize("cut", [1, 1000, 1_500_000])
def test_a_large_value_that_was_cut_short_is_damaged(cut: int) -> None:
    for name in ("dataclasses", "undeclared", "text"):
        declared, value = LARGE[name]
        codec = codec_for(declared)
        data = codec.encode(value)
        with pytest.raises(StorageError, match="cannot be read"):
            codec.decode(data[:-cut])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(JSON)
def test_pieces_of_any_size_say_the_same(plain: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PIECE", "LARGE", "_COUNT"):
            patch.setattr(pieces, name, 8)
        data = pieces.dump(plain)
        assert pieces.load(b" " + data) == plain
        assert pieces.equal(plain, json.loads(data), 1000)
        assert pieces.digest(plain, 1000) == fingerprint.digest(to_json(plain))
    assert data.translate(None, b"\n\t\r") == to_json(plain)


@given(st.lists(st.integers() | st.text(), max_size=60), st.lists(st.integers() | st.text(), max_size=60))
def test_what_differs_is_not_equal(one: list[Any], other: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PIECE", "LARGE"):
            patch.setattr(pieces, name, 8)
        assert pieces.equal(one, other, 1000) == (one == other)
        assert pieces.equal({"a": one}, {"a": other}, 1000) == (one == other)


@given(st.lists(st.integers()))
def test_sorting_and_telling_classes_in_parts_is_the_same(numbers: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_COUNT", 3)
        assert pieces.in_order(numbers) == sorted(numbers)
        assert pieces.in_order(numbers, to_json) == sorted(numbers, key=to_json)
        assert pieces.all_of(frozenset({int}), numbers)
        assert not pieces.all_of(frozenset({int}), [*numbers, "x"])
        assert pieces.as_set(frozenset, numbers) == frozenset(numbers)
