"""Payloads of signals: their types by name, what fits, and what is stored (SIG-08, SIG-12)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar
from uuid import UUID

import pytest
from annotated_types import Gt
from pydantic import BaseModel, Field, SecretStr, field_validator
from typing_extensions import TypeAliasType, TypedDict

from flowstone_async import Pipeline
from flowstone_async._engine.gates.payloads import Payloads, is_unchecked, unchecked, unchecked_json
from flowstone_async._engine.gates.type_names import Home, home_of
from flowstone_async.errors import ConfigError, PayloadInvalid, StorageError

SECRET = b"s" * 32
T = TypeVar("T")
Number = NewType("Number", int)


class Colour(Enum):
    RED = 1


class Done(BaseModel):
    job: int
    tags: set[str] = Field(default_factory=set)


class Box(BaseModel, Generic[T]):
    value: T


class Outer:
    class Inner(TypedDict):
        at: datetime


@dataclass
class Point:
    x: int
    y: float = 0.0


Positive = TypeAliasType("Positive", Annotated[int, Gt(0)])
AT = datetime(2025, 1, 1, tzinfo=UTC)


def facts(payloads: Payloads, model: Any, home: Home | None = None) -> str:
    return payloads.gate_facts(model, secret=SECRET, home=home or Home())


VALUES: list[tuple[Any, object]] = [
    (Done, Done(job=1, tags={"b", "a"})),
    (Point, Point(1, 2.5)),
    (Outer.Inner, {"at": AT}),
    (Done | None, None),
    (Done | Point, Point(1)),
    (list[Point], [Point(1), Point(2)]),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "a")),
    (Sequence[int], [1]),
    (dict[str, Any], {"b": 1, "a": [None, 1.5]}),
    (dict[int, str], {2: "b", 1: "a"}),
    (Literal["a", 1, Colour.RED, b"x", True], Colour.RED),
    (Box[int], Box[int](value=1)),
    (Positive, 3),
    (Number, 3),
    (UUID, UUID(int=1)),
    (bytes, b"\xff"),
    (object, {"a": [1]}),
    (Any, None),
    (None, None),
]


@pytest.mark.parametrize(("model", "value"), VALUES, ids=[str(no) for no in range(len(VALUES))])
def test_a_payload_comes_back_as_it_was_in_a_process_that_knows_the_type_by_its_name(model: Any, value: object) -> None:
    waiting, sending = Payloads(), Payloads()

    known = sending.type_of(facts(waiting, model))
    stored = sending.encode(known, value)

    back = waiting.decode(model, stored)
    assert (back, type(back)) == (value, type(value))


@pytest.mark.parametrize(
    ("model", "plain", "value"),
    [
        (Done, {"job": "7", "tags": ["a"]}, Done(job=7, tags={"a"})),
        (Point, {"x": 1, "y": 2}, Point(1, 2.0)),
        (Outer.Inner, {"at": "2025-01-01T00:00:00Z"}, {"at": AT}),
        (list[Point], [{"x": 1}], [Point(1)]),
        (Done | None, None, None),
        (float, 1, 1.0),
        (tuple[int, ...], [1], (1,)),
    ],
    ids=str,
)
def test_plain_data_becomes_the_type_and_equals_the_object(model: Any, plain: object, value: object) -> None:
    payloads = Payloads()

    assert payloads.encode(model, plain) == payloads.encode(model, value)
    assert payloads.encode_json(model, json.dumps(plain).encode()) == payloads.encode(model, value)
    assert payloads.decode(model, payloads.encode(model, plain)) == value


def test_equal_payloads_are_equal_bytes_whatever_their_order() -> None:
    payloads = Payloads()

    assert payloads.encode(object, {"a": 1, "b": 2}) == payloads.encode(object, {"b": 2, "a": 1})
    assert payloads.encode(dict[int, str], {1: "a", 2: "b"}) == payloads.encode(dict[int, str], {2: "b", 1: "a"})


def test_a_payload_that_does_not_fit_is_refused_with_its_fields_and_without_its_values() -> None:
    with pytest.raises(PayloadInvalid) as caught:
        Payloads().encode(Done | None, {"job": "hunter2", "tags": 5})
    assert set(caught.value.details["fields"]) == {"job", "tags"}  # type: ignore[call-overload]
    assert "hunter2" not in str(caught.value)

    for wrong in (b"{", b"\xff", b""):
        with pytest.raises(PayloadInvalid):
            Payloads().encode_json(Done, wrong)
    with pytest.raises(PayloadInvalid, match="no Done"):
        Payloads().encode(Done, object())
    with pytest.raises(PayloadInvalid, match="no None"):
        Payloads().encode(None, 1)


def test_a_validator_that_breaks_is_no_accident_of_the_library() -> None:
    class Broken(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def check(cls, n: int) -> int:
            raise KeyError(n)

    with pytest.raises(PayloadInvalid, match="KeyError"):
        Payloads().encode(Broken, {"n": 1})


def test_what_came_before_its_gate_is_checked_by_whoever_waits() -> None:
    payloads = Payloads()

    for early in (unchecked(Done(job=1)), unchecked({"job": 1}), unchecked_json(b'{"job":"1"}')):
        assert is_unchecked(early)
        assert payloads.decode(Done, early) == Done(job=1)
        assert payloads.same(Done, payloads.encode(Done, {"job": 1}), early)
        assert not payloads.same(Done, payloads.encode(Done, {"job": 2}), early)
    with pytest.raises(PayloadInvalid):
        payloads.decode(Done, unchecked({"job": "x"}))
    assert not payloads.same(Done, payloads.encode(Done, {"job": 1}), unchecked({}))
    with pytest.raises(PayloadInvalid, match="not on record yet"):
        unchecked(object())
    with pytest.raises(PayloadInvalid, match="no JSON"):
        unchecked_json(b"{")


def test_what_is_stored_is_data_of_ours() -> None:
    with pytest.raises(StorageError):
        Payloads().decode(Done, b' {"job": []}')


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Annotated[int, Gt(0)], "Annotated"),
        (list[Annotated[int, Field(gt=0)]], "Annotated"),
        (T, "no class"),
        (SecretStr, "secret"),
        ("Done", "cannot be found"),
        (5, "nothing is known"),
    ],
    ids=str,
)
def test_a_type_that_no_other_process_could_find_is_refused_at_the_gate(model: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        facts(Payloads(), model)


def test_a_type_of_the_script_is_found_where_the_asset_is_defined_here(tmp_path: Path) -> None:
    """`__main__` there is a module here, and the other way round."""

    class Here(BaseModel):
        n: int

    Here.__qualname__ = "Here"
    payloads = Payloads()
    Here.__module__ = "__main__"
    written = facts(payloads, list[Here], Home({}, {"__name__": "__main__", "Here": Here}))
    Here.__module__ = "jobs"

    class Proxy:
        def __getattribute__(self, name: str) -> object:
            raise RuntimeError(name)

    home = Home({}, {"__name__": "jobs", "current": Proxy(), "Here": Proxy(), "Renamed": Here})
    assert Payloads().type_of(written, home=home) == list[Here]
    with pytest.raises(ConfigError, match=r"no type __main__:Here .*has no Here") as caught:
        Payloads().type_of(written)
    assert "import that module" in str(caught.value)


def test_a_local_type_is_found_by_the_process_that_has_it_and_by_the_asset_s_own_names() -> None:
    @dataclass
    class Part:
        n: int

    @dataclass
    class Local:
        part: Part

    pipe = Pipeline("local")

    @pipe.asset
    async def waits() -> int:
        return 1

    home = home_of(pipe.compiled().nodes["waits"].definition)
    payloads = Payloads()
    written = facts(payloads, Local, home)

    assert payloads.type_of(written) is Local
    assert Payloads().type_of(written, home=home) is Local
    assert payloads.decode(Local, Payloads().encode(Local, {"part": {"n": "1"}}, home), home) == Local(Part(1))
    with pytest.raises(ConfigError, match="local to a function"):
        Payloads().type_of(written)


def test_a_module_that_was_not_imported_yet_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fs_payload_here.py").write_text("class Done:\n    pass\n")
    (tmp_path / "fs_payload_broken.py").write_text("raise RuntimeError('not here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    named = '{"type": "%s:Done", "home": null, "key": ""}'

    found: Any = Payloads().type_of(named % "fs_payload_here")
    assert found is sys.modules["fs_payload_here"].Done
    monkeypatch.delitem(sys.modules, "fs_payload_here")

    with pytest.raises(ConfigError, match="RuntimeError: not here"):
        Payloads().type_of(named % "fs_payload_broken")
    with pytest.raises(ConfigError, match="no_such_module"):
        Payloads().type_of(named % "no_such_module")
    with pytest.raises(ConfigError, match="later version"):
        Payloads().type_of('{"type": {"new": 1}}')
