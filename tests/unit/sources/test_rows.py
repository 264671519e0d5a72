"""Rows as items of a declared model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, Field, field_validator
from typing_extensions import TypedDict

from flowstone_async.sources import BadRow
from flowstone_async.sources.rows import Rows, model_problem


class Model(BaseModel):
    id: int
    price: float = Field(gt=0)

    @field_validator("id")
    @classmethod
    def no_three(cls, value: int) -> int:
        if value == 3:
            raise KeyError(value)
        return value


@dataclass
class Record:
    id: int
    day: date


class Typed(TypedDict):
    id: int


class Named(NamedTuple):
    id: int


def test_a_row_becomes_what_was_declared() -> None:
    """READ-10: numbers of the database become those of the model; columns that it does not have are left out."""
    assert Rows(Model).item({"id": 1, "price": Decimal("1.5"), "more": 0}) == Model(id=1, price=1.5)
    assert Rows(Record).item({"id": 1, "day": date(2025, 1, 1), "more": 0}) == Record(1, date(2025, 1, 1))
    assert Rows(Record).item({"id": 1, "day": "2025-01-01"}) == Record(1, date(2025, 1, 1))
    assert Rows(Typed).item({"id": 1}) == {"id": 1}
    assert Rows(Named).item({"id": 1}) == Named(1)


@pytest.mark.parametrize("model", [dict, dict[str, Any], dict[str, object]], ids=["dict", "any", "object"])
def test_rows_may_stay_as_they_are(model: Any) -> None:
    """SCAT-03."""
    row = {"id": 1, "any": object()}
    made = Rows(model).item(row)
    assert made == row
    assert made is not row


def test_a_row_that_does_not_fit_says_why() -> None:
    """READ-10: each field with its message, and nothing of the values."""
    bad = Rows(Model).item({"id": "secret", "price": -1})
    assert isinstance(bad, BadRow)
    assert bad.message == (
        "id: Input should be a valid integer, unable to parse string as an integer; price: Input should be greater than 0"
    )


def test_the_key_of_a_bad_row_is_that_of_its_contents() -> None:
    """READ-10, SCAT-05: the same row read again is the same item, in whatever order its columns come."""
    rows = Rows(Record)
    one, same, other = (rows.item(row) for row in ({"id": "x", "day": 1}, {"day": 1, "id": "x"}, {"id": "y", "day": 1}))
    assert one == same
    assert isinstance(one, BadRow)
    assert isinstance(other, BadRow)
    assert one.key != other.key


def test_whatever_a_validator_raises_is_the_fault_of_its_row() -> None:
    """READ-10."""
    bad = Rows(Model).item({"id": 3, "price": 1})
    assert isinstance(bad, BadRow)
    assert bad.message == "KeyError: 3"


@pytest.mark.parametrize("model", [int, str, list, tuple[int, str]])
def test_a_type_that_no_row_can_be_of_is_a_problem(model: Any) -> None:
    """READ-13."""
    assert "is no type of rows: give a pydantic model, a dataclass, a TypedDict, or dict" in (
        model_problem(model) or ""
    )


def test_a_model_that_cannot_be_made_is_a_problem() -> None:
    """READ-13."""

    @dataclass
    class Odd:
        lock: asyncio.Lock

    assert model_problem(Odd) is not None
    assert model_problem(Model) is None
    assert model_problem(dict) is None


async def test_many_rows_let_the_loop_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """READ-02."""
    monkeypatch.setattr("flowstone_async.sources.rows._SLICE", 0.0001)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with asyncio.TaskGroup() as group:
        task = group.create_task(others())
        made = await Rows(Model).items({"id": 1, "price": 1} for _ in range(100_000))
        task.cancel()
    assert len(made) == 100_000
    assert turns >= 50
