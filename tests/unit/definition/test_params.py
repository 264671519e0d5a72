"""Params types as pipelines declare them and bodies take them (FLOW-01, FLOW-02, FLOW-11, ASSET-15)."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from datetime import date
from typing import Any, ClassVar, Protocol

import pytest
from pydantic import BaseModel

from flowstone_async import Pipeline, param
from flowstone_async.definition.params import field_types, is_params_type, params_fields, uncovered
from tests.unit.definition.reading import codes, only, problems, untyped


@dataclass
class Parent:
    """Has a field."""

    start: date = date(2025, 1, 1)


@dataclass
class Args(Parent):
    """Has one more, and what is no field."""

    limit: int = 10
    hidden: ClassVar[int] = 3
    given: InitVar[int] = 1
    made: list[str] = field(default_factory=list)


class Model(BaseModel):
    """The same as a model."""

    start: date = date(2025, 1, 1)
    limit: int = 10


class Limited(Protocol):
    """What both have."""

    limit: int


def test_fields_of_dataclasses_and_models() -> None:
    """FLOW-01: inherited ones too; class variables are none."""
    assert params_fields(Args) == ("start", "limit", "made")
    assert params_fields(Model) == ("start", "limit")
    assert params_fields(None) == ()
    assert field_types(Args) == {"start": date, "limit": int, "made": list[str]}
    assert field_types(Model) == {"start": date, "limit": int}


def test_what_can_declare_params() -> None:
    """FLOW-01: a type, not an instance of it."""
    assert is_params_type(Args)
    assert is_params_type(Model)
    for wrong in (dict, int, Args(), Model(), "Args", None):
        assert not is_params_type(wrong)
    assert only(untyped(Pipeline)("p", params=Args())).message.startswith("params=Args(")


def test_bodies_take_params_whole_or_by_field() -> None:
    """FLOW-02."""
    pipe = Pipeline("p", params=Args)

    @pipe.asset
    async def fits(
        params: Args,
        start: date = param("start"),
        limit: float = param("limit"),
        maybe: int | None = param("limit"),
        unannotated=param("limit"),
    ) -> int:
        return params.limit

    @pipe.asset
    async def wider(params: Parent) -> date:
        return params.start

    @pipe.asset
    async def structural(params: Limited) -> int:
        return params.limit

    @pipe.asset
    async def unannotated(params) -> Any:
        return params.limit

    assert problems(pipe) == []
    assert pipe.run_sync(fits, wider, structural, unannotated) == (10, date(2025, 1, 1), 10, 10)


def test_bodies_that_take_params_as_something_else() -> None:
    """FLOW-02, ASSET-15: `FS104` for a type that is none, `FS113` for params that do not cover it."""
    pipe = Pipeline("p", params=Model)

    @pipe.asset
    async def wrong_type(params: dict[str, int]) -> int:
        return 1

    @pipe.asset
    async def wrong_params(params: Args) -> int:
        return 1

    @pipe.asset
    async def wrong_field(limit: str = param("limit")) -> int:
        return 1

    @pipe.asset(when=lambda limit=param("limt"): True)
    async def wrong_condition() -> int:
        return 1

    assert problems(pipe) == [
        "FS104 wrong_type(params: dict[str, int]) but the pipeline's params are Model.",
        (
            "FS113 wrong_params(params: Args) but the pipeline's params are Model, which do not cover it:"
            " it misses 'made'."
        ),
        "FS104 wrong_field(limit: str) but params field 'limit' is int.",
        (
            "FS101 wrong_condition: condition <lambda>(limit = param('limt')) — Model has no field 'limt'."
            " | Did you mean 'limit'?"
        ),
    ]


@dataclass
class _Other:
    limit: str = ""


@dataclass
class _Empty:
    pass


@pytest.mark.parametrize(
    ("given", "wanted", "reason"),
    [
        (Args, Args, None),
        (Args, Parent, None),
        (Args, Model, None),
        (Model, Parent, None),
        (Model, Args, "it misses 'made'"),
        (Parent, Model, "it misses 'limit'"),
        (_Other, Model, "it misses 'start'"),
        (Model, _Other, "its 'limit' is int, not str"),
        (Model, _Empty, "it is another type"),
    ],
    ids=map(str, range(9)),
)
def test_whether_params_cover_others(given: type, wanted: type, reason: str | None) -> None:
    """FLOW-11: all fields, of types that fit."""
    assert uncovered(given, wanted) == reason


def test_field_types_that_cannot_be_read() -> None:
    """FLOW-02: a params type of a function's own is not checked where its annotations are text."""

    class Local:
        pass

    @dataclass
    class Here:
        what: Local | None = None
        limit: int = 1

    assert field_types(Here) == {}
    pipe = Pipeline("p", params=Here)

    @pipe.asset
    async def body(limit: int = param("limit")) -> int:
        return limit

    assert codes(pipe) == []
