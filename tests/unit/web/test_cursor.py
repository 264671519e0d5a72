"""Cursors come back as they were, or are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.web.cursor import from_cursor, to_cursor
from flowstone_async.web.refusal import Refused

STORABLE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(STORABLE)
def test_text_comes_back(place: str):
    cursor = to_cursor("runs", place)
    assert cursor.isascii()
    assert from_cursor("runs", cursor, str) == place


@given(st.integers(0, 2**31 - 1))
def test_numbers_come_back(place: int):
    assert from_cursor("items", to_cursor("items", place), int) == place


def test_no_cursor_is_no_place():
    assert from_cursor("runs", None, str) is None


@given(
    st.text() | STORABLE.map(lambda text: to_cursor("other", text)) | st.integers().map(lambda n: to_cursor("runs", n))
)
def test_anything_else_is_refused(given_: str):
    with pytest.raises(Refused) as caught:
        from_cursor("runs", given_, str)
    assert caught.value.status == 422


@pytest.mark.parametrize("place", [-1, 2**31, True, 10**30])
def test_numbers_out_of_bounds_are_refused(place: Any):
    with pytest.raises(Refused):
        from_cursor("items", to_cursor("items", place), int)
