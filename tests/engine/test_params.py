"""Params of runs: FLOW-01 and FLOW-02."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, computed_field

from flowstone_async import AssetEvent, ConfigError, Context, ParamsError, Pipeline, RunStarted, param
from flowstone_async._engine.params import ParamsType
from tests.support.engines import OpenEngine, OpenVerbs


class Model(BaseModel):
    since: date
    limit: int = 3
    tags: list[str] = Field(default_factory=list[str])


@dataclass
class Plain:
    since: date
    limit: int = 3
    tags: list[str] = field(default_factory=list[str])


Kind = type[Model] | type[Plain]
SINCE = date(2025, 1, 1)


def _pipeline(kind: type, seen: list[Any]) -> Pipeline:
    pipe = Pipeline("etl", params=kind)

    @pipe.on(RunStarted)
    async def hook(event: RunStarted) -> None:
        seen.append(event)

    @pipe.resource
    async def opened() -> AsyncIterator[float]:
        seen.append("opened")
        yield 1.0

    @pipe.asset
    async def all_of_them(params: Any, opened: float) -> int:
        seen.append(params)
        return params.limit

    return pipe


@pytest.mark.parametrize("kind", [Model, Plain])
async def test_every_wrong_field_is_reported_before_anything_runs(open_verbs: OpenVerbs, kind: Kind):
    """FLOW-01: missing, invalid and unknown fields together, before any body, hook or resource."""
    seen: list[Any] = []
    verbs = await open_verbs(_pipeline(kind, seen))
    for verb in (verbs.run, verbs.report, verbs.plan):
        with pytest.raises(ParamsError) as caught:
            await verb("all_of_them", params={"limit": "many", "tag": ["x"]})
        assert set(caught.value.details["fields"]) == {"since", "limit", "tag"}  # pyright: ignore[reportArgumentType]
        assert all(name in caught.value.message for name in ("since", "limit", "tag", kind.__name__))
        assert "tags" in str(caught.value.hint)
    assert not seen


async def test_submit_reports_wrong_params_too(open_engine: OpenEngine):
    """FLOW-01: nothing is stored for a run whose params are wrong."""
    engine = await open_engine(_pipeline(Model, []))
    with pytest.raises(ParamsError):
        await engine.submit("all_of_them", params={"limit": 1})
    assert await engine.runs() == ()


async def test_backfill_reports_wrong_params_before_anything_runs(open_verbs: OpenVerbs):
    """FLOW-01: wrong params are no failure of each partition."""
    seen: list[Any] = []
    verbs = await open_verbs(_pipeline(Model, seen))
    with pytest.raises(ParamsError):
        await verbs.backfill("all_of_them", partitions=[1, 2], params={"limit": "x"})
    assert not seen


@pytest.mark.parametrize("kind", [Model, Plain])
async def test_an_instance_is_checked_like_a_mapping(kind: Kind):
    """FLOW-01: what a dataclass never checks, or `model_construct` went round, is refused."""
    wrong: Any = Model.model_construct(since="never", limit="many") if kind is Model else Plain("never", "many")  # type: ignore[arg-type]
    with pytest.raises(ParamsError) as caught:
        await _pipeline(kind, []).run("all_of_them", params=wrong)
    assert set(caught.value.details["fields"]) == {"since", "limit"}  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("given", [[1], "limit=3", 3])
async def test_params_of_another_shape_are_refused(given: object):
    """FLOW-01: an instance or a mapping, nothing else."""
    with pytest.raises(ParamsError, match="Model or a mapping"):
        await _pipeline(Model, []).run("all_of_them", params=given)


async def test_a_mapping_and_an_instance_are_the_same(open_verbs: OpenVerbs):
    """FLOW-01: and mapping values are read as the fields' types."""
    seen: list[Any] = []
    verbs = await open_verbs(_pipeline(Model, seen))
    assert await verbs.run("all_of_them", params={"since": "2025-01-01", "limit": 4}) == 4
    assert await verbs.run("all_of_them", params=Model(since=SINCE, limit=4)) == 4
    assert [each for each in seen if isinstance(each, Model)] == [Model(since=SINCE, limit=4)]


async def test_without_params_the_defaults_apply(open_verbs: OpenVerbs):
    """FLOW-01: and a field without default is reported as missing."""

    @dataclass
    class Args:
        limit: int = 7

    verbs = await open_verbs(_pipeline(Args, []))
    assert await verbs.run("all_of_them") == 7
    with pytest.raises(ParamsError, match="since"):
        await _pipeline(Plain, []).run("all_of_them")


async def test_params_for_a_pipeline_without_any_are_refused(open_verbs: OpenVerbs):
    """FLOW-01: an empty mapping too."""
    pipe = Pipeline("none")
    pipe.constant("one", 1)
    verbs = await open_verbs(pipe)
    for given in ({"limit": 3}, {}, Plain(SINCE)):
        with pytest.raises(ParamsError, match="declares none"):
            await verbs.run("one", params=given)


def _takers(kind: type, seen: dict[str, Any]) -> Pipeline:
    pipe = Pipeline("takers", params=kind)

    @pipe.asset
    async def whole(params: Any) -> int:
        seen["whole"] = params
        params.tags.append("changed by whole")
        params.limit = 99
        return params.limit

    @pipe.asset
    async def field_of(whole: int, tags: list[str] = param("tags"), many: int = param("limit")) -> int:
        seen["field"] = (list(tags), many)
        tags.append("changed by field")
        return many

    @pipe.asset
    async def asked(field_of: int, ctx: Context) -> int:
        seen["context"] = ctx.params
        ctx.params.tags.append("changed by context")
        return ctx.params.limit

    def unchanged(ctx: Context) -> bool:
        seen["condition"] = list(ctx.params.tags)
        ctx.params.tags.append("changed by condition")
        return True

    @pipe.asset(when=unchanged)
    async def last(asked: int, params: Any) -> list[str]:
        return params.tags

    return pipe


@pytest.mark.parametrize("kind", [Model, Plain])
async def test_every_body_has_params_of_its_own(open_verbs: OpenVerbs, kind: Kind):
    """FLOW-02: all, one field, or by context; what a body does to them nobody else sees, the caller included."""
    seen: dict[str, Any] = {}
    given = kind(since=SINCE, limit=5, tags=["mine"])
    verbs = await open_verbs(_takers(kind, seen))
    assert await verbs.run("last", params=given) == ["mine"]
    assert seen["field"] == (["mine"], 5)
    assert seen["condition"] == ["mine"]
    assert type(seen["whole"]) is type(seen["context"]) is kind
    assert seen["context"].limit == 5
    assert given == kind(since=SINCE, limit=5, tags=["mine"])


async def test_a_caller_that_changes_its_params_changes_no_run(open_engine: OpenEngine):
    """FLOW-02: they are immutable from the call on."""
    seen: list[Any] = []
    engine = await open_engine(_pipeline(Model, seen))
    given = Model(since=SINCE, limit=4)
    run = await engine.submit("all_of_them", params=given)
    given.limit = 5
    assert await run == 4


class Rich(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    days: set[date] = set()
    pair: tuple[int, str] = (1, "a")
    ratio: float = math.nan
    inner: Plain | None = None
    wide: int = Field(default=1, alias="Wide")

    @computed_field
    @property
    def twice(self) -> int:
        return self.wide * 2


async def test_params_are_stored_and_come_back_as_they_were(open_engine: OpenEngine):
    """FLOW-02: the same type with equal fields, whatever pydantic can express, as the run's record tells."""
    engine = await open_engine(_pipeline_of_rich())
    given = Rich(days={SINCE}, pair=(2, "b"), ratio=math.inf, inner=Plain(SINCE, 1, ["x"]), Wide=4)
    run = await engine.submit("taken", params=given)
    assert await run == "ok"
    (record,) = await engine.runs()
    loaded = engine._live().catalogs["rich"].params.load(record.params)
    assert loaded == given
    assert type(loaded.inner) is Plain
    by_alias = await engine.submit("taken", params={"Wide": 5, "ratio": math.nan})
    assert await by_alias == "ok"


def _pipeline_of_rich() -> Pipeline:
    pipe = Pipeline("rich", params=Rich)

    @pipe.asset
    async def taken(params: Rich) -> str:
        return "ok"

    return pipe


@dataclass
class Loose:
    anything: Any = None


async def test_params_that_would_come_back_as_something_else_are_refused(open_verbs: OpenVerbs):
    """FLOW-02: nothing is stored that comes back as another type."""
    pipe = Pipeline("loose", params=Loose)
    pipe.constant("one", 1)
    verbs = await open_verbs(pipe)
    assert await verbs.run("one", params=Loose({"a": [1, None]})) == 1
    for value in (SINCE, {1: "a"}, object()):
        with pytest.raises(ConfigError, match="anything"):
            await verbs.run("one", params=Loose(value))


class Login(BaseModel):
    user: str = "ada"
    password: SecretStr = SecretStr("")


def _login(seen: list[str]) -> Pipeline:
    pipe = Pipeline("login", params=Login)

    @pipe.asset(cache=False)
    async def connected(params: Login) -> str:
        seen.append(params.password.get_secret_value())
        return params.user

    return pipe


async def test_a_secret_is_given_to_bodies_and_never_stored(open_engine: OpenEngine):
    """FLOW-02, SEC-04: no stored record holds it; a run that nobody else could continue is not submitted."""
    seen: list[str] = []
    engine = await open_engine(_login(seen))
    await engine.run("connected", params=Login(password=SecretStr("hunter2-one")))
    await engine.run("connected", params={"password": "hunter2-two"})
    assert seen == ["hunter2-one", "hunter2-two"]
    records = await engine.runs()
    assert not any("hunter2" in repr(record) + record.params for record in records)
    assert not any(record.continuable for record in records)
    with pytest.raises(ConfigError, match="password"):
        await engine.submit("connected", params={"password": "hunter2-one"})


class Account(BaseModel):
    user: str = "ada"
    password: SecretStr = SecretStr("built-in")


class Accounts(BaseModel):
    one: SecretStr = SecretStr("first")
    other: SecretStr = SecretStr("")
    account: Account = Account()


FIRST, EMPTY = SecretStr("first"), SecretStr("")


@dataclass
class PlainAccounts:
    one: SecretStr = FIRST
    other: SecretStr = EMPTY
    account: Account = field(default_factory=Account)


@pytest.mark.parametrize(
    ("given", "secret"),
    [
        ({}, ()),
        ({"one": ""}, ()),
        ({"one": "first", "account": {"user": "ada", "password": "built-in"}}, ()),
        ({"account": {"user": "bob", "password": ""}}, ()),
        ({"one": "given"}, ("one",)),
        ({"other": "first"}, ("other",)),
        ({"account": {"user": "bob"}}, ("account",)),
    ],
)
async def test_a_secret_that_hides_nothing_does_not_count(open_engine: OpenEngine, given: Any, secret: tuple[str, ...]):
    """FLOW-02, JOB-12: empty ones and defaults come back as they were; with others no run is submitted."""
    pipe, seen = Pipeline("accounts", params=Accounts), list[Accounts]()

    @pipe.asset
    async def connected(params: Accounts) -> str:
        seen.append(params)
        return params.account.user

    engine = await open_engine(pipe)
    if secret:
        with pytest.raises(ConfigError, match=f"could not be continued: {', '.join(secret)}"):
            await engine.submit("connected", params=given)
        return
    run = await engine.submit("connected", params=given)
    await run
    (record,) = await engine.runs()
    assert record.continuable
    assert "first" not in record.params
    assert "built-in" not in record.params
    assert seen == [Accounts(**given)]
    assert ParamsType(Accounts).load(record.params) == seen[0]


def test_default_secrets_of_a_dataclass_do_not_count_either():
    """FLOW-02: those that a factory makes do; whether it makes the same again is not known."""
    type_ = ParamsType(PlainAccounts)
    params = type_.parse(None)
    assert type_.secrets(params) == ("account",)
    assert type_.load(type_.dump(params)).one == params.one
    assert type_.secrets(type_.parse({"one": "given", "account": {"password": ""}})) == ("one",)


class Nothing(BaseModel):
    pass


def test_a_params_model_without_fields_has_no_secrets():
    """FLOW-02."""
    type_ = ParamsType(Nothing)
    params = type_.parse(None)
    assert type_.load(type_.dump(params)) == params
    assert type_.secrets(params) == ()


@dataclass(frozen=True)
class Frozen:
    limit: int = 1
    extra: Mapping[str, int] = field(default_factory=dict[str, int])


async def test_frozen_params_work_like_others(open_verbs: OpenVerbs):
    """FLOW-02: a frozen dataclass is injected as itself."""
    seen: list[Any] = []
    verbs = await open_verbs(_pipeline(Frozen, seen))
    assert await verbs.run("all_of_them", params=Frozen(2, {"a": 1})) == 2
    assert seen[-1] == Frozen(2, {"a": 1})


async def test_events_of_a_run_do_not_show_params(open_engine: OpenEngine):
    """FLOW-02: params are of the run's record, not of its events."""
    engine = await open_engine(_pipeline(Plain, heard := []))
    run = await engine.submit("all_of_them", params=Plain(SINCE, 123456))
    await run
    assert not any("123456" in str(event) for event in heard if isinstance(event, RunStarted | AssetEvent))
