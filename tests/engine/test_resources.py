"""Resources that the engine opens and closes: RES-01..04; see `test_resources_given` for what bodies get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest

from flowstone_async import (
    Cancelled,
    Engine,
    Pipeline,
    ResourceFailed,
    ResourceUnavailable,
    Retry,
    resource,
)
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon

Scope = Literal["engine", "run", "asset"]


class Db:
    """A handle."""

    def __init__(self, number: int = 0) -> None:
        self.number = number


class Cache:
    """A handle that is made of another."""

    def __init__(self, db: Db) -> None:
        self.db = db


class _Opened:
    """Two assets that take one resource, and a log of what was opened and closed."""

    def __init__(self, scope: Scope) -> None:
        self.pipe = pipe = Pipeline("opened")
        self.log: list[str] = []
        self.given: list[Db] = []

        @pipe.resource(scope=scope)
        async def db() -> AsyncIterator[Db]:
            number = sum(each.startswith("open") for each in self.log) + 1
            self.log.append(f"open {number}")
            yield Db(number)
            self.log.append(f"close {number}")

        @pipe.asset
        async def first(db: Db) -> int:
            self.given.append(db)
            return 1

        @pipe.asset
        async def second(first: int, db: Db) -> int:
            self.given.append(db)
            return first + 1


@pytest.mark.parametrize(
    ("scope", "log"),
    [
        ("asset", ["open 1", "close 1", "open 2", "close 2", "open 3", "close 3", "open 4", "close 4"]),
        ("run", ["open 1", "close 1", "open 2", "close 2"]),
        ("engine", ["open 1"]),
    ],
)
@pytest.mark.not_in("evict", reason="counts what is done again when a body is called again")
async def test_a_resource_lives_as_long_as_its_scope(open_engine: OpenEngine, scope: Scope, log: list[str]):
    """RES-01, RES-02: opened on first need, shared within its scope, closed when that ends."""
    opened = _Opened(scope)
    engine = await open_engine(opened.pipe)
    assert opened.log == []
    assert await engine.run("second") == 2
    assert await engine.run("second", force="all") == 2
    assert opened.log == log
    assert len({id(each) for each in opened.given}) == len(log) - sum(each.startswith("close") for each in log)


async def test_an_engine_closes_its_resources(engines: Any):
    """RES-02: when it is left."""
    opened = _Opened("engine")
    async with Engine(opened.pipe, **engines._store({})) as engine:
        await engine.run("second")
    assert opened.log == ["open 1", "close 1"]


async def test_a_pipeline_has_its_resources_while_it_is_used():
    """RES-02: `pipe.run` closes at its end what it opened."""
    opened = _Opened("engine")
    await opened.pipe.run("second")
    assert opened.log == ["open 1", "close 1"]


async def test_many_bodies_that_ask_at_once_open_it_once(open_verbs: OpenVerbs):
    """RES-02."""
    pipe, opening, calls = Pipeline("many"), Gate(), Gate()

    @pipe.resource
    async def db() -> Db:
        await opening()
        return Db()

    async def body(db: Db) -> int:
        await calls()
        return id(db)

    for number in range(8):
        pipe.add(body, name=f"asset_{number}")
    calls.open()
    verbs = await open_verbs(pipe)
    task = asyncio.create_task(verbs.run(*pipe.assets()))
    await opening.reached()
    for _ in range(100):
        await asyncio.sleep(0)
    assert calls.calls == 0
    opening.open()
    assert len(set(await soon(task))) == 1
    assert opening.calls == 1


async def test_whoever_asked_first_does_not_own_it(open_engine: OpenEngine):
    """RES-02: a run that is cancelled while it waits for a resource does not take it from another."""
    pipe, opening = Pipeline("owner"), Gate()

    @pipe.resource
    async def db() -> Db:
        await opening()
        return Db(7)

    @pipe.asset
    async def first(db: Db) -> int:
        return db.number

    @pipe.asset
    async def second(db: Db) -> int:
        return db.number

    engine = await open_engine(pipe)
    cancelled = asyncio.create_task(engine.run(first))
    await opening.reached()
    other = asyncio.create_task(engine.run(second))
    await engine.cancel(first)
    with pytest.raises(Cancelled):
        await soon(cancelled)
    opening.open()
    assert await soon(other) == 7
    assert opening.calls == 1


class _Chain:
    """`outer` takes `inner`; an asset takes both, `outer` first."""

    def __init__(self, scope: Scope = "run") -> None:
        self.pipe = pipe = Pipeline("chain")
        self.log: list[str] = []
        self.gate = Gate()
        self.fails = False

        @pipe.resource(scope=scope)
        async def other() -> AsyncIterator[str]:
            self.log.append("open other")
            try:
                yield "other"
            finally:
                self.log.append("close other")

        @pipe.resource(scope=scope)
        async def outer(db: Db) -> AsyncIterator[Cache]:
            self.log.append("open outer")
            try:
                yield Cache(db)
            finally:
                self.log.append("close outer")

        @pipe.resource(scope=scope)
        async def inner() -> AsyncIterator[Db]:
            self.log.append("open inner")
            try:
                yield Db(3)
            finally:
                self.log.append("close inner")

        @pipe.asset
        async def target(cache: Cache, text: str = resource("other")) -> int:
            await self.gate()
            if self.fails:
                raise ValueError(text)
            return cache.db.number


CHAIN = ["open inner", "open outer", "open other", "close other", "close outer", "close inner"]


@pytest.mark.parametrize("scope", ["asset", "run", "engine"])
@pytest.mark.parametrize("way", ["succeeds", "fails", "is cancelled"])
async def test_resources_close_in_reverse_order_of_opening(engines: Any, scope: Scope, way: str):
    """RES-02: what a resource takes was opened before it, and outlives it; after failures and cancellation too."""
    chain = _Chain(scope)
    chain.fails = way == "fails"
    async with Engine(chain.pipe, **engines._store({})) as engine:
        task = asyncio.create_task(engine.report("target"))
        await chain.gate.reached()
        if way == "is cancelled":
            await engine.cancel("target")
        chain.gate.open()
        report = await soon(task)
        assert report.state == {"succeeds": "succeeded", "fails": "failed", "is cancelled": "cancelled"}[way]
    assert chain.log == CHAIN


async def test_a_resource_that_a_wider_one_serves(open_verbs: OpenVerbs):
    """RES-01: a narrower resource takes a wider one."""
    pipe, opened = Pipeline("scopes"), list[str]()

    @pipe.resource(scope="engine")
    async def db() -> Db:
        opened.append("db")
        return Db(5)

    @pipe.resource(scope="asset")
    async def cache(db: Db) -> Cache:
        opened.append("cache")
        return Cache(db)

    async def body(cache: Cache) -> int:
        return cache.db.number

    pipe.add(body, name="first")
    pipe.add(body, name="second")
    verbs = await open_verbs(pipe)
    assert await verbs.run("first", "second", concurrency=1) == (5, 5)
    assert opened == ["db", "cache", "cache"]


@pytest.mark.parametrize("way", ["raises", "hangs", "yields again"])
async def test_a_close_that_fails_does_not_keep_the_others_open(
    open_verbs: OpenVerbs, way: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """RES-02: it is logged, and the run has succeeded all the same."""
    pipe, closed = Pipeline("closing"), list[str]()
    if way == "hangs":
        monkeypatch.setattr("flowstone_async.resources.CLOSE_LIMIT", 0.01)

    @pipe.resource(scope="run")
    async def db() -> AsyncIterator[Db]:
        yield Db(1)
        closed.append("db")

    @pipe.resource(scope="run")
    async def cache(db: Db) -> AsyncIterator[Cache]:
        try:
            yield Cache(db)
            if way == "yields again":
                yield Cache(db)
            elif way == "hangs":
                await asyncio.Event().wait()
            else:
                raise OSError("the line is dead")
        finally:
            closed.append("cache")

    @pipe.asset
    async def target(cache: Cache) -> int:
        return cache.db.number

    verbs = await open_verbs(pipe)
    assert await verbs.run(target) == 1
    assert closed == ["cache", "db"]
    assert "cache" in caplog.text


class _Unavailable:
    """A resource whose opening fails as often as it is told to."""

    def __init__(self, failures: int, *, retry: Retry | None = None) -> None:
        self.pipe = pipe = Pipeline("unavailable")
        self.left, self.tried = failures, 0
        self.calls: list[str] = []
        self.failed: list[ResourceFailed] = []
        pipe.on(ResourceFailed)(self.failed.append)

        @pipe.resource
        async def db() -> AsyncIterator[Db]:
            self.tried += 1
            if self.left:
                self.left -= 1
                raise ConnectionError("refused")
            yield Db(4)

        @pipe.asset(retry=retry)
        async def needs(db: Db) -> int:
            self.calls.append("needs")
            return db.number

        @pipe.asset
        async def other() -> int:
            self.calls.append("other")
            return 1


async def test_an_opening_that_fails_fails_the_assets_that_need_it(open_verbs: OpenVerbs):
    """RES-03: before their bodies are called, with `resource.failed`; others are untouched, the next run opens it."""
    case = _Unavailable(1)
    verbs = await open_verbs(case.pipe)
    report = await verbs.report("needs", "other")
    assert report.state == "failed"
    assert case.calls == ["other"]
    assert [(each.resource, type(each.error)) for each in case.failed] == [("db", ResourceUnavailable)]
    error = report["needs"].error
    assert isinstance(error, ResourceUnavailable)
    assert "'db'" in error.message
    assert "refused" in error.message
    assert error.details["resource"] == "db"
    assert await verbs.run("other") == 1
    assert await verbs.run("needs") == 4
    assert case.calls == ["other", "needs"]


async def test_the_error_of_an_opening_has_its_cause():
    """RES-03."""
    case = _Unavailable(1)
    with pytest.raises(ResourceUnavailable) as caught:
        await case.pipe.run("needs")
    assert isinstance(caught.value.__cause__, ConnectionError)


async def test_the_next_attempt_opens_it_again():
    """RES-03."""
    case = _Unavailable(2, retry=Retry(3))
    async with case.pipe.test() as t:
        assert await t.run("needs") == 4
    assert case.tried == 3
    assert case.calls == ["needs"]


async def test_what_takes_a_resource_that_is_unavailable_is_so_too(open_verbs: OpenVerbs):
    """RES-03: the one that failed is named."""
    pipe = Pipeline("below")

    @pipe.resource
    async def db() -> Db:
        raise ConnectionError("refused")

    @pipe.resource
    async def cache(db: Db) -> Cache:
        return Cache(db)

    @pipe.asset
    async def target(cache: Cache) -> int:
        return 1

    verbs = await open_verbs(pipe)
    with pytest.raises(ResourceUnavailable, match="'db'"):
        await verbs.run(target)


async def test_a_generator_that_never_yields_is_unavailable(open_verbs: OpenVerbs):
    """RES-01, RES-03."""
    pipe, there = Pipeline("empty"), list[Db]()

    @pipe.resource
    async def db() -> AsyncIterator[Db]:
        for each in there:
            yield each

    @pipe.asset
    async def target(db: Db) -> int:
        return 1

    verbs = await open_verbs(pipe)
    with pytest.raises(ResourceUnavailable, match="without yielding"):
        await verbs.run(target)


async def test_a_run_that_reuses_everything_opens_nothing(open_engine: OpenEngine):
    """RES-04."""
    opened = _Opened("run")
    engine = await open_engine(opened.pipe)
    await engine.run("second")
    opened.log.clear()
    assert await engine.run("second") == 2
    assert opened.log == []
