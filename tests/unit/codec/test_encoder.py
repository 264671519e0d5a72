"""Codecs are made once for a declared type, whoever declares it (CACHE-05 costs nothing twice)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async.io.encoder import Encoder


@pytest.mark.parametrize("annotation", [int, str, None, Any, list[int], dict[str, list[float]], int | None])
def test_a_type_of_built_in_parts_has_one_codec_for_all_that_declare_it(annotation: object) -> None:
    encoder = Encoder("json")
    assert encoder.codec(annotation, {"local": int}) is encoder.codec(annotation, {})


def test_names_count_where_a_type_may_ask_for_one() -> None:
    @dataclass
    class Row:
        cell: Cell  # type: ignore[name-defined]  # noqa: F821 - each definition has its own

    encoder = Encoder("json")
    numbers, texts = {"Cell": int}, {"Cell": str}
    first, second = encoder.codec(Row, numbers), encoder.codec(Row, texts)
    assert first is not second
    assert encoder.codec(Row, numbers) is first
    assert encoder.codec(list[Row], numbers) is not encoder.codec(list[Row], texts)
    assert first.decode(first.encode(Row(1))) == Row(1)
    assert second.decode(second.encode(Row("x"))) == Row("x")
