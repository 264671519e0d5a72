"""Entering and leaving engines: CFG-02, CFG-03, CFG-05, JOB-14 as far as it exists here, G-04, RUN-02."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
import warnings
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flowstone_async import (
    Cancelled,
    ConfigError,
    DefinitionError,
    Engine,
    Pipeline,
    RunFinished,
    StoreUnavailable,
)
from flowstone_async.store.memory import MemoryStore
from tests.postgres.test_connect import SECRET, refusing
from tests.support.engines import OpenEngine, PostgresEngines, SharedEngines
from tests.support.gate import Gate, soon

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # which HTTP client it would rather have
    from starlette.testclient import TestClient


class _Case:
    """`held` waits at a gate, `quick` does not."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("life")
        self.gate = Gate()
        self.log: list[str] = []

        @pipe.resource
        async def db() -> AsyncIterator[float]:
            self.log.append("open")
            yield 1.0
            self.log.append("close")

        @pipe.asset
        async def quick(db: float) -> int:
            return 1

        @pipe.asset
        async def held(quick: int) -> int:
            await self.gate()
            return quick + 1


@pytest_asyncio.fixture(params=["memory", "postgres"])
async def fixture_engine(request: pytest.FixtureRequest) -> AsyncIterator[tuple[_Case, Engine]]:
    """As users write it: entered and left in whatever tasks the plugin runs fixtures in."""
    case = _Case()
    if request.param == "memory":
        async with Engine(case.pipe, store="memory", grace="10ms") as engine:
            yield case, engine
        assert case.log == ["open", "close"]
        return
    server = request.getfixturevalue("server")
    from tests.support.engines import TEMPLATE, migrate

    await server.create_template(TEMPLATE, migrate(server))
    dsn = await server.clone(TEMPLATE)
    async with Engine(case.pipe, store=dsn, grace="10ms") as engine:
        yield case, engine
    assert case.log == ["open", "close"]
    await server.drop(dsn)


async def test_an_engine_in_a_fixture(fixture_engine: tuple[_Case, Engine]):
    """CFG-02: it works in the test's task, and is left cleanly with a run that is still going on."""
    case, engine = fixture_engine
    assert await engine.run("quick") == 1
    await engine.submit("held")
    await case.gate.reached()


async def test_entering_and_leaving_in_different_tasks(engines: SharedEngines):
    """CFG-02: no cancel scope or context variable ties one to the other."""
    case = _Case()
    engine = Engine(case.pipe, **engines._store({"grace": "10ms"}))
    await asyncio.create_task(_enter(engine))
    assert await asyncio.create_task(engine.run("quick")) == 1
    run = await engine.submit("held")
    await case.gate.reached()
    await soon(asyncio.create_task(engine.__aexit__(None, None, None)))
    assert case.log == ["open", "close"]
    assert case.gate.left == 1
    assert run.id


async def _enter(engine: Engine) -> None:
    await engine.__aenter__()


@pytest.fixture(params=["memory", "postgres"])
def dsn(request: pytest.FixtureRequest) -> Any:
    """Something to say `store=` with, for tests that have an event loop of their own."""
    if request.param == "memory":
        yield "memory"
        return
    from tests.support.engines import TEMPLATE, migrate

    server = request.getfixturevalue("server")
    asyncio.run(server.create_template(TEMPLATE, migrate(server)))
    made = asyncio.run(server.clone(TEMPLATE))
    yield made
    asyncio.run(server.drop(made))


def _app(case: _Case, engine: Engine) -> Starlette:
    async def run(request: Request) -> JSONResponse:
        return JSONResponse(await engine.run(request.path_params["asset"]))

    async def submit(request: Request) -> JSONResponse:
        run = await engine.submit("held")
        await case.gate.reached()
        return JSONResponse(run.id)

    return Starlette(routes=[Route("/run/{asset}", run), Route("/submit", submit)], lifespan=engine.lifespan)


def test_an_engine_in_a_lifespan_under_a_test_client(dsn: str):
    """CFG-02: Starlette's own; twice, for an engine may be entered again."""
    case = _Case()
    engine = Engine(case.pipe, store=dsn, grace="10ms")
    for round_ in (1, 2):
        with TestClient(_app(case, engine)) as client:
            assert client.get("/run/quick").json() == 1
            if round_ == 1:
                assert len(client.get("/submit").json()) == 36
    assert case.log in (["open", "close"], ["open", "close"] * 2)
    assert case.gate.left == 1


async def test_an_engine_in_a_lifespan_that_is_driven_by_hand(engines: SharedEngines):
    """CFG-02: startup and shutdown in a task of their own, requests in others, as servers do."""
    case = _Case()
    app = _app(case, Engine(case.pipe, **engines._store({"grace": "10ms"})))
    async with _served(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        answers = await asyncio.gather(*(client.get("/run/quick") for _ in range(5)))
        assert [answer.json() for answer in answers] == [1] * 5
    assert case.log == ["open", "close"]


@asynccontextmanager
async def _served(app: Starlette) -> AsyncGenerator[None]:
    told: asyncio.Queue[str] = asyncio.Queue()
    left = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not told.qsize() and not left.is_set() and not hasattr(receive, "begun"):
            receive.begun = True  # type: ignore[attr-defined]
            return {"type": "lifespan.startup"}
        await left.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: Any) -> None:
        told.put_nowait(message["type"])

    serving = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))  # type: ignore[arg-type]
    assert await soon(told.get()) == "lifespan.startup.complete"
    yield
    left.set()
    assert await soon(told.get()) == "lifespan.shutdown.complete"
    await serving


async def test_an_engine_is_entered_once(open_engine: OpenEngine):
    """CFG-02: nested, or twice at the same time, is a `ConfigError`; it goes on working, and is left once."""
    case = _Case()
    engine = await open_engine(case.pipe)
    with pytest.raises(ConfigError, match="open already"):
        async with engine:
            pass
    assert await engine.run("quick") == 1
    other = Engine(case.pipe, store="memory")
    entered = await asyncio.gather(other.__aenter__(), other.__aenter__(), return_exceptions=True)
    assert sorted(type(each).__name__ for each in entered) == ["ConfigError", "Engine"]
    await other.__aexit__(None, None, None)


async def test_an_engine_may_be_entered_again(engines: SharedEngines):
    """RUN-02: after it was left; what it stored is there."""
    case = _Case()
    engine = Engine(case.pipe, **engines._store({}))
    for _ in range(2):
        async with engine:
            assert await engine.run("quick") == 1
    assert case.log == ["open", "close"]


async def test_an_engine_that_is_not_open_says_so(open_engine: OpenEngine):
    """RUN-02: every verb, before and after."""
    case = _Case()
    engine = Engine(case.pipe, store="memory")
    verbs: list[Any] = [
        lambda: engine.run("quick"),
        lambda: engine.submit("quick"),
        lambda: engine.get("quick"),
        lambda: engine.status("quick"),
        lambda: engine.runs(),
        lambda: engine.find("x"),
        lambda: engine.health(),
        lambda: engine.plan("quick"),
    ]
    for verb in verbs:
        with pytest.raises(ConfigError, match="not open"):
            await verb()
    async with engine:
        pass
    with pytest.raises(ConfigError, match="not open") as caught:
        await engine.run("quick")
    assert "async with Engine(pipe) as engine" in str(caught.value.hint)


async def test_an_engine_belongs_to_its_event_loop(open_engine: OpenEngine):
    """G-05: used from another one it says so, instead of hanging."""
    case = _Case()
    engine = await open_engine(case.pipe)
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            asyncio.run(engine.run("quick"))  # type: ignore[arg-type]
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join, 20)
    assert isinstance(errors[0], ConfigError)
    assert "event loop" in str(errors[0])


async def test_definitions_are_checked_before_anything_is_opened(engines: SharedEngines):
    """ASSET-12: no store, no resource; then it can be entered once it is mended."""
    pipe = Pipeline("wrong")

    @pipe.asset
    async def total(nombers: int) -> int:
        return nombers

    engine = Engine(pipe, store="postgresql://nobody@127.0.0.1:1/nowhere")
    with pytest.raises(DefinitionError, match="FS101"):
        await engine.__aenter__()


async def test_a_store_that_cannot_be_reached(caplog: pytest.LogCaptureFixture):
    """CFG-03: `StoreUnavailable` on entering, with host and reason, never the password; never memory instead."""
    caplog.set_level(logging.DEBUG)
    case = _Case()
    addresses = [
        f"postgresql://ann:{SECRET}@127.0.0.1:1/shop",
        f"postgresql://ann:{SECRET}@no-such-host.invalid/shop",
    ]
    async with refusing("28P01", 'password authentication failed for user "ann"') as wrong_password:
        for address in [*addresses, wrong_password]:
            engine = Engine(case.pipe, store=address)
            with pytest.raises(StoreUnavailable) as caught:
                await soon(engine.__aenter__())
            told = caught.value
            assert ("127.0.0.1" in told.message) or ("no-such-host.invalid" in told.message)
            assert told.hint
            assert told.retryable
            shown = "".join(traceback.format_exception(told)) + repr(told.details) + repr(engine) + caplog.text
            assert SECRET not in shown
            with pytest.raises(ConfigError, match="not open"):
                await engine.run("quick")
    assert not case.log


@pytest.mark.parametrize(
    "given",
    [
        "postgres",
        "mysql://ann:open-sesame@host/db",
        "ann:open-sesame@host/db",
        "",
        "MEMORY",
        "embeded",
        7,
        None,
        Path("data"),
        object(),
    ],
)
def test_what_is_no_store_is_refused_with_the_forms_there_are(given: Any):
    """CFG-03: on construction; an address of another kind is shown without its password."""
    with pytest.raises(ConfigError, match="store=") as caught:
        Engine(_Case().pipe, store=given)
    for form in ("'embedded'", "'embedded:<dir>'", "'memory'", "'postgresql://...'", "an asyncpg pool"):
        assert form in str(caught.value.hint)
    assert SECRET not in str(caught.value) + repr(caught.value.details)


async def test_a_pool_of_the_caller_s(engines: SharedEngines):
    """CFG-03 (durable): used and never closed; without `direct=` it can own no run, and says so before it begins one."""
    if not isinstance(engines, PostgresEngines):
        return
    case = _Case()
    async with asyncpg.create_pool(engines.dsn, min_size=1, max_size=3) as pool:
        async with Engine(case.pipe, store=pool, direct=engines.dsn) as engine:
            assert await engine.run("quick") == 1
        assert await pool.fetchval("SELECT 1") == 1
        with pytest.raises(ConfigError, match="a pool alone can keep none"):
            Engine(case.pipe, store=pool)
        async with Engine(case.pipe, store=pool, slots=0) as reader:
            assert await reader.get("quick") == 1
            for verb in (reader.run, reader.report):
                with pytest.raises(ConfigError, match="direct="):
                    await soon(verb("held"))
            assert (await (await reader.submit("held")).status()).state == "queued"
            assert (await reader.plan("held")).entries
        assert await pool.fetchval("SELECT 1") == 1
    assert case.log == ["open", "close"]


async def test_memory_stores_are_independent():
    """CFG-03: each engine has its own; a `MemoryStore` that is given is shared."""
    case = _Case()
    async with Engine(case.pipe, store="memory") as one, Engine(case.pipe, store="memory") as other:
        await one.run("quick")
        assert not await other.exists("quick")
    from flowstone_async.clock import SystemClock

    shared = MemoryStore(SystemClock())
    async with Engine(case.pipe, store=shared) as one, Engine(case.pipe, store=shared) as other:
        await one.run("quick")
        assert await other.exists("quick")


async def test_leaving_ends_every_task_and_thread(engines: SharedEngines):
    """G-04: with runs going on, waiting for others, waiting for their next attempt, and submitted ones."""
    case = _Case()
    before = {task for task in asyncio.all_tasks()}
    threads = {thread for thread in threading.enumerate()}
    engine, second = Engine(case.pipe, **engines._store({"grace": "10ms"})), None
    await engine.__aenter__()
    second = Engine(case.pipe, **engines._store({"grace": "10ms"}))
    await second.__aenter__()
    awaiting = asyncio.create_task(engine.run("held"))
    await case.gate.reached()
    waiting = asyncio.create_task(second.run("held", force=True))
    for _ in range(20):
        await asyncio.sleep(0)
    await soon(second.__aexit__(None, None, None))
    await soon(engine.__aexit__(None, None, None))
    for task in (awaiting, waiting):
        with pytest.raises(Cancelled):
            await soon(task)
    assert {task for task in asyncio.all_tasks() if not task.done()} == before
    left = {each for each in set(threading.enumerate()) - threads if each.name.startswith("flowstone")}
    assert not left


async def test_leaving_is_bounded_though_a_body_ignores_everything(engines: SharedEngines):
    """JOB-14, CFG-01: `grace`, then `cancel_grace`, then it is cut off at every await."""
    pipe = Pipeline("stubborn")
    entered = asyncio.Event()
    rounds: list[int] = []

    @pipe.asset
    async def stubborn() -> int:
        entered.set()
        while len(rounds) < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                rounds.append(1)
        return 1

    engine = Engine(pipe, **engines._store({"grace": "10ms", "cancel_grace": "10ms"}))
    await engine.__aenter__()
    await engine.submit(stubborn)
    await entered.wait()
    await soon(engine.__aexit__(None, None, None))
    assert len(rounds) == 3
    async with Engine(pipe, **engines._store({})) as again:
        assert not await again.exists(stubborn)


async def test_leaving_that_is_cancelled_still_leaves(engines: SharedEngines):
    """G-04: a second Ctrl-C does not wait for `grace`; resources are closed, the store is left."""
    case = _Case()
    engine = Engine(case.pipe, **engines._store({"grace": "60s"}))
    await engine.__aenter__()
    await engine.submit("held")
    await case.gate.reached()
    leaving = asyncio.create_task(engine.__aexit__(None, None, None))
    while engine._opened is not None:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(leaving)
    assert case.log == ["open", "close"]
    assert case.gate.left == 1


async def test_an_error_inside_the_block_is_the_one_that_is_raised(engines: SharedEngines):
    """CFG-02: not one of leaving, nor a group around it."""
    case = _Case()
    with pytest.raises(ZeroDivisionError):
        async with Engine(case.pipe, **engines._store({"grace": "10ms"})) as engine:
            await engine.submit("held")
            await case.gate.reached()
            raise ZeroDivisionError
    assert case.log == ["open", "close"]


async def test_hooks_of_runs_that_end_while_the_engine_is_left(engines: SharedEngines):
    """EVT-02, JOB-14: a run that ends within the grace is told of."""
    case = _Case()
    heard: list[str] = []
    case.pipe.on(RunFinished)(lambda event: heard.append(event.state))
    engine = Engine(case.pipe, **engines._store({"grace": "20s"}))
    await engine.__aenter__()
    await engine.submit("held")
    await case.gate.reached()
    leaving = asyncio.create_task(engine.__aexit__(None, None, None))
    while engine._opened is not None:
        await asyncio.sleep(0)
    case.gate.open()
    await soon(leaving)
    assert heard == ["succeeded"]
    assert case.log == ["open", "close"]


async def test_many_engines_side_by_side(engines: SharedEngines):
    """G-07: in one process, on one store and on stores of their own."""
    cases = [_Case() for _ in range(4)]
    async with (
        Engine(cases[0].pipe, **engines._store({})) as one,
        Engine(cases[1].pipe, **engines._store({})) as two,
        Engine(cases[2].pipe, store="memory") as three,
        Engine(cases[3].pipe, store="memory") as four,
    ):
        found = await asyncio.gather(*(each.run("quick") for each in (one, two, three, four)))
    assert found == [1, 1, 1, 1]
    assert [len(case.log) for case in cases[2:]] == [2, 2]
