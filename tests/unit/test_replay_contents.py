"""What an item of `ctx.map` holds: the same hash in every process for the same content, another one for another."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from flowstone_async._engine.replay.contents import content_of, print_of_item


@dataclass
class Page:
    number: int
    day: date | None = None


@dataclass
class Other:
    number: int
    day: date | None = None


class Kind(Enum):
    A = "a"
    B = "b"


class Client: ...


DAY = date(2025, 1, 1)
DIFFERENT: list[Any] = [
    1,
    2,
    "1",
    None,
    b"1",
    1.5,
    DAY,
    datetime(2025, 1, 1, tzinfo=UTC),
    Decimal(1),
    UUID(int=1),
    Kind.A,
    Kind.B,
    Page(1),
    Page(2),
    Page(1, DAY),
    Other(1),
    [1, 2],
    [2, 1],
    (DAY, 1),
    (1, DAY),
    [DAY, 1],
    [Page(1), Page(2)],
    {"a": DAY},
    {"b": DAY},
    {"a": 1},
    {DAY: "a"},
    {DAY},
]


def test_what_differs_has_another_hash():
    assert len(set(map(print_of_item, DIFFERENT))) == len(DIFFERENT)
    assert [content_of(each) for each in DIFFERENT] == [print_of_item(each) for each in DIFFERENT]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": DAY}, {"b": DAY, "a": 1}),
        ({DAY, date(2025, 1, 2)}, {date(2025, 1, 2), DAY}),
        (Page(1, DAY), Page(1, date(2025, 1, 1))),
    ],
)
def test_order_that_means_nothing_counts_for_nothing(one: Any, other: Any):
    assert content_of(one) == content_of(other) is not None


def test_what_cannot_be_stored_counts_by_its_type():
    assert print_of_item(Client()) == print_of_item(Client()) != print_of_item(object())
    assert print_of_item((Client(), 1)) == print_of_item((Client(), 1)) != print_of_item((Client(), 2))
    assert content_of(Client()) is None
    assert content_of((Client(), 1)) is None
    assert content_of(print) is None


def test_what_contains_itself_has_an_end():
    endless: list[Any] = [DAY]
    endless.append(endless)
    assert print_of_item(endless) == print_of_item(endless)
    assert content_of(endless) is None


def test_it_is_the_same_in_every_process():
    """Sets and hashes of text differ from one process to the next."""
    code = (
        "from flowstone_async._engine.replay.contents import content_of; from datetime import date\n"
        "print(content_of({'a', 'b', 'c'}), content_of({date(2025, 1, day): {'x', day} for day in (1, 2, 3)}))"
    )
    told = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        for _ in range(3)
    }
    assert len(told) == 1
