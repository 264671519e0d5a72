"""Which resources a body gets: RES-01, RES-04, RES-05, ASSET-23."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import pytest
from typing_extensions import override

from flowstone_async import ConfigError, Context, Engine, Pipeline, param, resource
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon


class Db:
    """A handle."""

    def __init__(self, name: str) -> None:
        self.name = name


class Fake(Db):
    """What a test puts in its place."""

    closed = False


class _Two:
    """Two resources of one type, and an asset that takes both."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("two")
        self.log: list[str] = []

        @pipe.resource(name="sales")
        async def sales_db() -> AsyncIterator[Db]:
            self.log.append("open sales")
            yield Db("sales")
            self.log.append("close sales")

        @pipe.resource
        async def stock() -> AsyncIterator[Db]:
            self.log.append("open stock")
            yield Db("stock")
            self.log.append("close stock")

        @pipe.asset
        async def both(here: Db = resource("sales"), there: Db = resource("stock")) -> list[str]:
            return [here.name, there.name]

        @pipe.asset
        async def one(ctx: Context, db: Db = resource("stock")) -> dict[str, bool]:
            return {name: handle is db for name, handle in ctx.resources.items()}

        @pipe.asset
        async def none(ctx: Context) -> list[str]:
            return list(ctx.resources)


async def test_two_of_one_type_are_told_apart_by_name(open_verbs: OpenVerbs):
    """RES-01."""
    verbs = await open_verbs(_Two().pipe)
    assert await verbs.run("both") == ["sales", "stock"]


async def test_a_body_sees_what_it_declares(open_verbs: OpenVerbs):
    """RES-04: `ctx.resources` holds exactly those, by name, and nothing else is opened."""
    two = _Two()
    verbs = await open_verbs(two.pipe)
    assert await verbs.run("none") == []
    assert two.log == []
    assert await verbs.run("one") == {"stock": True}
    assert "open sales" not in two.log


async def test_what_is_given_in_place_of_a_resource(engines: Any):
    """RES-05: by name or by type, from the first use on; it is not closed, and what it replaces is never opened."""
    two, fake = _Two(), Fake("fake")
    async with Engine(two.pipe, **engines._store({"resources": {"sales": fake}})) as engine:
        assert await engine.run("both") == ["fake", "stock"]
    assert two.log == ["open stock", "close stock"]
    two.log.clear()
    async with Engine(two.pipe, **engines._store({"resources": {Db: fake}})) as engine:
        assert await engine.run("both", force=True) == ["fake", "fake"]
    assert two.log == []


async def test_a_name_counts_before_a_type():
    """RES-05."""
    two = _Two()
    async with two.pipe.test(resources={"sales": Fake("sales!"), Db: Fake("any")}) as t:
        assert await t.run("both") == ["sales!", "any"]
    async with two.pipe.test(resources={Db: Fake("any"), "sales": Fake("sales!")}) as t:
        assert await t.run("both") == ["sales!", "any"]


async def test_what_is_given_is_not_closed():
    """RES-05: not even if it could be."""
    pipe, calls = Pipeline("given"), list[str]()

    class Client:
        async def aclose(self) -> None:
            calls.append("aclose")

        async def __aenter__(self) -> Self:
            calls.append("aenter")
            return self

        async def __aexit__(self, *_: object) -> None:
            calls.append("aexit")

    @pipe.resource
    async def client() -> Client:
        raise AssertionError("never opened")

    @pipe.asset
    async def target(client: Client) -> int:
        return 1

    async with pipe.test(resources={Client: Client()}) as t:
        assert await t.run(target) == 1
    assert calls == []


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        ({"stok": Db("")}, "'stok'.*no pipeline has such a resource"),
        ({int: 1}, "no pipeline has such a resource"),
        ({"stock": "a text"}, "'stock' provides .*Db.*str"),
        ({Db: None}, "provides .*Db.*None"),
    ],
)
async def test_an_unknown_or_unfitting_replacement_is_refused(
    open_engine: OpenEngine, resources: dict[Any, object], text: str
):
    """RES-05: on entering, with what is known; `pipe.test` too."""
    two = _Two()
    with pytest.raises(ConfigError, match=text) as caught:
        await open_engine(two.pipe, resources=resources)
    assert caught.value.hint
    with pytest.raises(ConfigError, match=text):
        async with two.pipe.test(resources=resources):
            pass


async def test_a_protocol_takes_whatever_has_its_members():
    """RES-05."""

    class Sends(Protocol):
        async def send(self, text: str) -> None: ...

    class Mailer(Sends):
        @override
        async def send(self, text: str) -> None:
            raise AssertionError("a real mail")

    class Outbox:
        def __init__(self) -> None:
            self.sent: list[str] = []

        async def send(self, text: str) -> None:
            self.sent.append(text)

    pipe, outbox = Pipeline("mail"), Outbox()

    @pipe.resource
    async def mailer() -> Sends:
        return Mailer()

    @pipe.asset
    async def target(mailer: Sends) -> int:
        await mailer.send("hello")
        return 1

    async with pipe.test(resources={Sends: outbox}) as t:
        await t.run(target)
    assert outbox.sent == ["hello"]


async def test_resources_of_two_pipelines_are_two(open_engine: OpenEngine):
    """ASSET-23, RES-01: of one name in one engine, opened or given."""

    def pipeline(name: str) -> Pipeline:
        pipe = Pipeline(name)

        @pipe.resource
        async def db() -> Db:
            return Db(name)

        @pipe.asset
        async def target(db: Db) -> str:
            return db.name

        return pipe

    engine = await open_engine(pipeline("first"), pipeline("second"))
    assert await engine.run("first.target") == "first"
    assert await engine.run("second.target") == "second"
    health = await engine.health()
    assert set(health.resources) == {"first.db", "second.db"}


async def test_a_replacement_stays_with_the_type_it_has(open_engine: OpenEngine):
    """RES-05: another pipeline's resource of that name and another type is left alone."""
    first, second = Pipeline("first"), Pipeline("second")

    @first.resource(name="store")
    async def first_store() -> Db:
        raise AssertionError("replaced")

    @first.asset
    async def name(db: Db) -> str:
        return db.name

    @second.resource(name="store")
    async def second_store() -> list[int]:
        return [1, 2]

    @second.asset
    async def size(numbers: list[int]) -> int:
        return len(numbers)

    engine = await open_engine(first, second, resources={Db: Fake("fake")})
    assert await engine.run(name) == "fake"
    assert await engine.run(size) == 2


async def test_a_resource_is_no_part_of_freshness(engines: Any):
    """RES-04: another handle leaves stored values fresh."""
    calls = list[str]()
    pipe = Pipeline("fresh")

    @pipe.resource
    async def db() -> Db:
        return Db("db")

    @pipe.asset
    async def target(db: Db) -> str:
        calls.append(db.name)
        return db.name

    async with Engine(pipe, **engines._store({})) as engine:
        assert await engine.run(target) == "db"
    async with Engine(pipe, **engines._store({"resources": {Db: Fake("fake")}})) as engine:
        assert await engine.run(target) == "db"
    assert calls == ["db"]


@dataclass
class Inner:
    """Params of a pipeline that is included."""

    region: str = "eu"


@dataclass
class Outer:
    """Params of the pipeline that includes it."""

    limit: int = 3
    region: str = "eu"


async def test_a_resource_of_a_run_takes_its_params(open_verbs: OpenVerbs):
    """RES-01, FLOW-11: all of them as the type that its own pipeline has, or one field."""
    inner, outer, taken = Pipeline("inner", params=Inner), Pipeline("outer", params=Outer), list[object]()

    @inner.resource(scope="run")
    async def db(params: Inner) -> Db:
        taken.append(params)
        return Db(params.region)

    @inner.resource(scope="run")
    async def text(region: str = param("region")) -> str:
        return region.upper()

    @inner.asset
    async def target(db: Db, shouted: str = resource("text")) -> list[str]:
        return [db.name, shouted]

    outer.include(inner, prefix="in_")
    verbs = await open_verbs(outer)
    assert await verbs.run("in_target", params={"region": "us"}) == ["us", "US"]
    assert [type(each) for each in taken] == [Inner]


async def test_an_included_body_finds_its_resources_by_the_names_it_knows(open_verbs: OpenVerbs):
    """RES-04, FLOW-11."""
    inner, outer = Pipeline("inner"), Pipeline("outer")

    @inner.resource
    async def db() -> Db:
        return Db("db")

    @inner.asset
    async def target(ctx: Context, one: Db) -> str:
        return ctx.resources["db"].name

    outer.include(inner, prefix="in_")
    verbs = await open_verbs(outer)
    assert await verbs.run("in_target") == "db"


async def test_an_asset_added_while_a_resource_is_open():
    """RES-02, RUN-01: the resources of a pipeline that grew meanwhile are closed too."""
    pipe, gate, closed = Pipeline("grows"), Gate(), list[str]()

    @pipe.resource
    async def db() -> AsyncIterator[Db]:
        yield Db("db")
        closed.append("db")

    @pipe.asset
    async def slow(db: Db) -> str:
        await gate()
        return db.name

    running = asyncio.create_task(pipe.run(slow))
    await gate.reached()

    @pipe.asset
    async def later(db: Db) -> str:
        return db.name

    assert await soon(pipe.run(later)) == "db"
    gate.open()
    assert await soon(running) == "db"
    assert closed == ["db", "db"]
