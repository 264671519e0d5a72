"""The app wherever it is put (WEB-01, WEB-10): mounted, behind a proxy, in several processes, before its engine."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from flowstone_async import ConfigError, Engine, Pipeline, Rate
from flowstone_async.errors import StoreUnavailable
from flowstone_async.types import new_id
from flowstone_async.web.app import operations
from tests.support.engines import OpenEngine, SharedEngines
from tests.support.gate import Gate
from tests.support.web import BEARER, TOKEN, calling, client, ended, served, sse, submitted
from tests.web.shop import Shop


@pytest.mark.parametrize("prefix", ["", "/flow", "/a/b c/ä流"])
async def test_it_works_under_any_mount_path(prefix: str):
    """WEB-01: in a host app whose lifespan opens the engine, links included."""
    engine = Engine(Shop().pipe, store="memory")
    mounted = Mount(prefix, app=engine.asgi(auth=TOKEN))
    host = Starlette(routes=[mounted], lifespan=engine.lifespan)
    async with host.router.lifespan_context(host), calling(host, headers=BEARER) as web:
        assert (await web.get(f"{prefix}/health/live")).json() == {"ok": True}
        order = {"targets": ["total"]}
        answer = await web.post(f"{prefix}/api/v1/runs", params={"wait": "30s"}, json=order)
        assert answer.json()["result"]["value"] == 2
        place = answer.headers["location"]
        assert (await web.get(place)).json()["id"] == answer.json()["id"]
        described = (await web.get(f"{prefix}/api/v1/openapi.json")).json()
        [server] = described["servers"]
        assert (await web.get(server["url"].rstrip("/") + "/api/v1/runs")).status_code == 200
        if prefix:
            assert (await web.get("/api/v1/runs")).status_code == 404


async def test_it_works_behind_a_proxy_that_strips_its_path():
    """WEB-01: the server is told which path that is, and links have it."""
    async with Engine(Shop().pipe, store="memory") as engine:
        async with (
            served(engine.asgi(auth=TOKEN), root_path="/outer/flow") as url,
            httpx.AsyncClient(base_url=url, headers=BEARER) as web,
        ):
            answer = await web.post("/api/v1/runs", params={"wait": "30s"}, json={"targets": ["total"]})
            assert answer.status_code == 200
            assert answer.headers["location"] == f"/outer/flow/api/v1/runs/{answer.json()['id']}"
            stripped = answer.headers["location"].removeprefix("/outer/flow")
            assert (await web.get(stripped)).status_code == 200
            assert (await web.get("/api/v1/openapi.json")).json()["servers"] == [{"url": "/outer/flow"}]


@pytest.mark.parametrize("each", operations("test"), ids=lambda each: each.name)
async def test_before_the_engine_is_open_it_says_so(each: Any):
    """WEB-01: the lifespan of a mounted app does not run; 503 with the way out, and no trace."""
    engine = Engine(Shop().pipe, store="memory")
    async with client(engine) as web:
        body: dict[str, Any] = (
            {"content": b"{}", "headers": {"Content-Type": "application/json"}} if each.method == "POST" else {}
        )
        answer = await web.request(each.method, each.path, **body)
        if each.open:
            assert (answer.status_code, answer.json()["code"]) == (503, "ENGINE_NOT_OPEN")
            assert "lifespan" in answer.json()["hint"]
            assert answer.headers["retry-after"] == "1"
        else:
            assert answer.status_code == (503 if each.name == "ready" else 200)
        async with engine:
            assert (await web.get("/health/ready")).status_code == 200
        assert (await web.get("/health/ready")).status_code == 503


async def test_another_loop_than_the_engines_is_told():
    async with Engine(Shop().pipe, store="memory") as engine:
        app = engine.asgi(auth=TOKEN)

        async def elsewhere() -> httpx.Response:
            async with calling(app, headers=BEARER) as web:
                return await web.get("/api/v1/runs")

        answer = await asyncio.to_thread(asyncio.run, elsewhere())
        assert (answer.status_code, answer.json()["code"]) == (503, "ENGINE_NOT_OPEN")
        assert "loop" in answer.json()["message"]


def test_one_app_serves_one_event_loop_after_the_other():
    """As tests of a host app do, whose app is made once: each opens the engine again."""
    shop = Shop()
    engine = Engine(shop.pipe, store="memory")
    app: Any = engine.asgi(auth=TOKEN)

    async def once() -> None:
        async with engine, calling(app, headers=BEARER) as web:
            shop.gate = Gate()
            run = (await web.post("/api/v1/runs", json={"targets": ["held"]})).json()
            waiting = asyncio.create_task(web.post("/api/v1/runs?wait=20s", json={"targets": ["held"]}))
            stream = asyncio.create_task(web.get(f"/api/v1/runs/{run['id']}/events"))
            await shop.gate.reached()
            assert (await web.get("/health/ready")).status_code == 200
            shop.gate.open()
            assert (await waiting).json()["state"] == "succeeded"
            assert "run.finished" in (await stream).text

    for _ in range(2):
        asyncio.run(once())


async def test_a_run_is_followed_from_another_app_on_the_store(open_engine: OpenEngine):
    """WEB-01: several apps share a store; each shows what the others do."""
    shop = Shop()
    working, looking = await open_engine(shop.pipe), await open_engine(shop.pipe, slots=0)
    async with client(looking) as here, client(working) as there:
        run = await ended(here, "total")
        assert (await there.get(f"/api/v1/runs/{run['id']}")).json()["state"] == "succeeded"
        async with here.stream("GET", f"/api/v1/runs/{run['id']}/events") as response:
            assert [each.type async for each in sse(response)][-1] == "run.finished"
        assert len((await here.get("/api/v1/workers")).json()["workers"]) == 2


async def test_whether_it_is_ready(monkeypatch: pytest.MonkeyPatch):
    """WEB-10: 503 while the store is unreachable or the engine drains; live answers all the same."""
    engine = Engine(Shop().pipe, store="memory")
    app: Any = engine.asgi(auth=TOKEN)
    async with engine, calling(app, headers=BEARER) as web:
        asked = 0

        async def away() -> Any:
            nonlocal asked
            asked += 1
            raise StoreUnavailable("at postgresql://ada:hunter2secret@db.example/prod")

        now = 100.0
        app.state.clock = lambda: now
        assert (await web.get("/health/ready")).json() == {"ok": True, "reasons": []}
        monkeypatch.setattr(engine._live().store, "health", away)
        assert (await web.get("/health/ready")).status_code == 200  # asked a moment ago
        now += 2
        answers = await asyncio.gather(*(web.get("/health/ready") for _ in range(20)))
        assert {each.status_code for each in answers} == {503}
        assert "hunter2" not in answers[0].text
        assert asked == 1
        engine._live().closing = True
        assert (await web.get("/health/ready")).json()["reasons"] == ["the engine is being left"]
        assert (await web.get("/health/live")).status_code == 200
        engine._live().closing = False


async def test_a_store_that_is_away_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch):
    """WEB-02: 503, and when to come again."""
    async with Engine(Shop().pipe, store="memory") as engine, client(engine) as web:

        async def away(*_: Any, **__: Any) -> Any:
            raise StoreUnavailable(
                "postgresql://ada:hunter2secret@db.example/prod refuses", hint="password=hunter2secret"
            )

        for name in ("runs", "run", "submit", "keys", "states", "stored_assets", "queue", "workers"):
            monkeypatch.setattr(engine._live().store, name, away)
        for path in (
            "/api/v1/runs",
            f"/api/v1/runs/{new_id()}",
            "/api/v1/assets",
            "/api/v1/assets/total",
            "/api/v1/assets/orders/partitions",
            "/api/v1/workers",
            "/metrics",
        ):
            answer = await web.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE"), path
            assert answer.headers["retry-after"] == "1"
            assert "hunter2" not in answer.text
        answer = await web.post("/api/v1/runs", json={"targets": ["total"]})
        assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE")


async def test_assets_of_one_name_in_two_pipelines_are_named_in_full(engines: SharedEngines):
    """Which one is meant is asked for, and not guessed; targets of two pipelines are no run."""
    one, other = Pipeline("one"), Pipeline("other")
    for number, pipe in enumerate((one, other)):

        @pipe.asset(name="same")
        async def same(number: int = number) -> int:
            return number

    engine = await engines.open(one, other, secret=b"s" * 32)
    async with client(engine) as web:
        refused = await web.get("/api/v1/assets/same")
        assert (refused.status_code, "one.same" in refused.json()["hint"]) == (422, True)
        assert (await web.get("/api/v1/runs", params={"asset": "same"})).status_code == 422
        run = await ended(web, "other.same")
        assert run["pipeline"] == "other"
        assert [each["id"] for each in (await web.get("/api/v1/runs?asset=other.same")).json()["runs"]] == [run["id"]]
        assert (await web.get("/api/v1/runs?asset=one.same")).json()["runs"] == []
        both = await web.post("/api/v1/runs", json={"targets": ["one.same", "other.same"]})
        assert (both.status_code, list(both.json()["details"]["fields"])) == (422, ["body.targets"])


GATES = {"approval": 1, "signal": 0, "sleep": 0}


async def test_what_is_measured(open_engine: OpenEngine):
    """WEB-10: the text format, with labels from code only."""
    engine = await open_engine(Shop().pipe, limits={'o"dd\n': Rate(10, per="1h"), "openai": 3})
    async with client(engine) as web:
        await ended(web, "orders", partition="2025-01-17")
        await ended(web, "broken")
        await engine.limits.check('o"dd\n')
        await engine.limits.check("a-key-of-a-customer", Rate(10))
        await submitted(web, "asked")
        while not (await web.get("/api/v1/approvals")).json()["approvals"]:
            await asyncio.sleep(0)
        answer = await web.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = answer.text.splitlines()
        assert 'flowstone_runs{state="failed"} 0' not in lines
        assert {f'flowstone_gates{{kind="{kind}"}} {number}' for kind, number in GATES.items()} <= set(lines)
        assert 'flowstone_items{state="pending"} 0' in lines
        assert r'flowstone_limit_size{limit="o\"dd\n"} 10' in lines
        assert any(line.startswith("flowstone_loop_delay_seconds ") for line in lines)
        assert "flowstone_workers 1" in lines
        assert r'flowstone_limit_used{limit="o\"dd\n"} 1' in lines
        assert 'flowstone_http_answers_total{operation="submitRun",status="2xx"} 3' in lines
        for hidden in ("2025-01-17", "a-key-of-a-customer", TOKEN):
            assert hidden not in answer.text
        samples = [line for line in lines if not line.startswith("#")]
        assert all(float(line.rsplit(" ", 1)[1]) >= 0 for line in samples)


def test_an_engine_needs_no_web_framework_until_it_is_asked_for_an_app():
    """WEB-01: without the extra it says so."""
    program = """
import json, sys
from flowstone_async import ConfigError, Engine, Pipeline, User
for name in ("starlette", "sse_starlette", "uvicorn"):
    assert name not in sys.modules, name
    sys.modules[name] = None
pipe = Pipeline("p")
try:
    Engine(pipe, store="memory").asgi()
except ConfigError as error:
    print(json.dumps([error.message, error.hint]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    message, hint = json.loads(done.stdout)
    assert "extra `ui`" in message
    assert "flowstone_async[ui]" in hint


def test_an_app_on_a_postgres_of_ones_own_needs_a_secret():
    """SEC-01: there is none built in."""
    with pytest.raises(ConfigError, match="secret"):
        Engine(Shop().pipe, store="postgresql://db.example/prod").asgi()
    Engine(Shop().pipe, store="postgresql://db.example/prod", secret=b"s" * 32).asgi()
