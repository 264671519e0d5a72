"""Params typed on the command line."""

import json
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, SecretStr

from flowstone_async.cli.params import read_params
from flowstone_async.cli.usage import UsageError
from flowstone_async.errors import ParamsError


class Size(Enum):
    SMALL = "small"


class Inner(BaseModel):
    x: int = 0


class Args(BaseModel):
    n: int = 0
    ratio: float = 0.0
    flag: bool = False
    day: date | None = None
    name: str = ""
    maybe: str | None = "default"
    number: int | None = 7
    tags: list[str] = []
    inner: Inner = Inner()
    size: Size = Size.SMALL
    level: Literal[1, 2] = 1
    wait: timedelta = timedelta(0)
    key: SecretStr = SecretStr("")


@dataclass
class Plain:
    start: date
    tags: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("n=3", 3),
        ("n=-3", -3),
        ("ratio=0.5", 0.5),
        ("flag=true", True),
        ("flag=no", False),
        ("day=2025-01-15", date(2025, 1, 15)),
        ("day=null", None),
        ("name=3", "3"),
        ("name=a=b", "a=b"),
        ("name=", ""),
        ("name=@file", "@file"),
        ("maybe=null", "null"),
        ("number=null", None),
        ('tags=["a","b"]', ["a", "b"]),
        ('inner={"x": 2}', Inner(x=2)),
        ("size=small", Size.SMALL),
        ("level=2", 2),
        ("wait=PT90S", timedelta(seconds=90)),
        ("key=secret", SecretStr("secret")),
    ],
)
def test_a_value_is_read_as_its_declared_type(tmp_path: Path, text: str, value: object) -> None:
    params = read_params(Args, [text], tmp_path)
    assert getattr(params, text.partition("=")[0]) == value


def test_params_may_be_a_dataclass(tmp_path: Path) -> None:
    assert read_params(Plain, ["start=2025-01-15", 'tags=["x"]'], tmp_path) == Plain(date(2025, 1, 15), ["x"])


def test_a_file_holds_many_and_what_is_named_comes_first(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"n": 1, "day": "2025-01-15", "name": "file"}))
    (tmp_path / "b.json").write_text(json.dumps({"n": 2}))
    params = read_params(Args, ["name=line", "@a.json", "@b.json"], tmp_path)
    assert isinstance(params, Args)
    assert (params.n, params.day, params.name) == (2, date(2025, 1, 15), "line")


def test_defaults_apply_without_any(tmp_path: Path) -> None:
    assert read_params(Args, [], tmp_path) == Args()
    assert read_params(None, [], tmp_path) is None


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as refused:
        read_params(Args, ["n=many", "nmae=x", "level=3"], tmp_path)
    assert set(refused.value.details["fields"]) == {"n", "nmae", "level"}  # type: ignore[arg-type]
    assert "Did you mean 'name'?" in (refused.value.hint or "")


def test_a_missing_field_is_told(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="start"):
        read_params(Plain, [], tmp_path)


def test_a_pipeline_without_params_takes_none(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="declares none"):
        read_params(None, ["n=1"], tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["n"], "there is no ="),
        (["=3"], "there is no ="),
        (["n=1", "n=2"], "given twice"),
        (["@nowhere.json"], "nowhere.json"),
        (["@list.json"], "no JSON object"),
        (["@broken.json"], "broken.json"),
    ],
)
def test_what_is_no_param_is_refused(tmp_path: Path, given: list[str], message: str) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UsageError, match=message):
        read_params(Args, given, tmp_path)
