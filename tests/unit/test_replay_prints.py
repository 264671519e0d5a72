"""What a step was called with, as it is compared with the record (STEP-10)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from flowstone_async._engine.replay.prints import print_of, same_prints


@dataclass
class Order:
    number: int


class Size(Enum):
    SMALL = 1
    LARGE = 2


class Client:
    """Something that cannot be stored."""


async def call(first: Any, second: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        ({"a": [1]}, {"a": [2]}),
        (Order(1), Order(2)),
        (date(2025, 1, 1), date(2025, 1, 2)),
        (datetime(2025, 1, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, 2, tzinfo=UTC)),
        (UUID(int=1), UUID(int=2)),
        (Size.SMALL, Size.LARGE),
        ([Order(1)], [Order(2)]),
        ({"a": date(2025, 1, 1)}, {"a": date(2025, 1, 2)}),
        (Order(1), Client()),
    ],
)
def test_other_arguments_are_told_apart(one: Any, other: Any) -> None:
    for kwargs in ({}, {"second": Client()}):
        assert not same_prints(print_of(call, (one,), kwargs), print_of(call, (other,), kwargs))
        assert same_prints(print_of(call, (one,), kwargs), print_of(call, (one,), kwargs))
    assert print_of(call, (one,), {}) == print_of(call, (), {"first": one})


def test_what_cannot_be_stored_counts_by_its_type() -> None:
    assert print_of(call, (Client(),), {}) == print_of(call, (Client(),), {})


def test_what_is_on_record_of_before_is_no_other_call() -> None:
    """Then only types were compared where arguments are no plain data; plain data are hashed as they were."""
    assert print_of(call, (1, "a"), {}) == "0d85eae7eb0f869d0751266bfb281ad1"
    before = print_of(call, (Order(1), 1), {}).split(".")[0]
    assert before == "60fab9d207975d6fb0fef6207fe6c81d"
    assert same_prints(before, print_of(call, (Order(2), 1), {}))
    assert not same_prints(before, print_of(call, (Order(1), 2), {}))
    assert not same_prints(before, print_of(call, (Size.SMALL, 1), {}))
