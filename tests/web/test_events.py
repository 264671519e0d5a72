"""The events of a run as a stream (WEB-07)."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from flowstone_async import Context, Engine, Pipeline
from flowstone_async.web import run_events
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.web import BEARER, TOKEN, Sse, client, ended, served, sse, submitted
from tests.web.shop import Shop


async def _all(web: httpx.AsyncClient, run_id: str, **headers: str) -> list[Sse]:
    async with web.stream("GET", f"/api/v1/runs/{run_id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [each async for each in sse(response)]


async def test_a_stream_has_every_event_and_ends_after_the_last(open_engine: OpenEngine):
    """WEB-07: with an id each, in order, the last one is the run's end."""
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        run = await ended(web, "total")
        events = await _all(web, run["id"])
        assert [int(each.id) for each in events] == list(range(1, len(events) + 1))
        assert (events[0].type, events[-1].type) == ("run.started", "run.finished")
        assert {each.data["asset"] for each in events if "asset" in each.data} == {"base", "total"}
        handle = await engine.find(run["id"])
        assert [each.type for each in events] == [each.type async for each in handle.events()]


async def test_a_reader_goes_on_without_loss_or_repetition(open_engine: OpenEngine):
    """WEB-07: from wherever it left off, by `Last-Event-ID`, which comes before `after`."""
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        run = await ended(web, "total")
        everything = await _all(web, run["id"])
        for place in range(len(everything) - 1):
            rest = await _all(web, run["id"], **{"Last-Event-ID": str(place)})
            assert rest == everything[place:]
        path = f"/api/v1/runs/{run['id']}/events"
        done = await web.get(path, headers={"Last-Event-ID": everything[-1].id})
        assert done.status_code == 204  # a browser does not come again
        by_query = await web.get(path, params={"after": len(everything) - 1}, headers={"Last-Event-ID": ""})
        assert by_query.text.count("event:") == 1


@pytest.mark.parametrize("given", ["x", "-1", "1.5", "9" * 40, "1 2", "\u0661".encode()])
async def test_an_id_that_is_none_is_refused(given: Any):
    async with Engine(Shop().pipe, store="memory") as engine, client(engine) as web:
        run = await submitted(web, "base")
        refused = await web.get(f"/api/v1/runs/{run['id']}/events", headers={"Last-Event-ID": given})
        assert refused.status_code == 422


async def test_events_come_while_the_run_goes_on(open_engine: OpenEngine):
    """WEB-07: over a socket; a reader that leaves holds nothing up, and one that comes back misses nothing."""
    shop = Shop()
    engine = await open_engine(shop.pipe)
    async with served(engine.asgi(auth=TOKEN)) as url, httpx.AsyncClient(base_url=url, headers=BEARER) as web:
        run = await submitted(web, "held")
        seen: list[Sse] = []
        async with web.stream("GET", f"/api/v1/runs/{run['id']}/events") as response:
            async for each in sse(response):
                seen.append(each)
                if each.type == "asset.started":
                    break
        shop.gate.open()
        seen += await soon(_all(web, run["id"], **{"Last-Event-ID": seen[-1].id}))
        assert [int(each.id) for each in seen] == list(range(1, len(seen) + 1))
        assert seen[-1].data["state"] == "succeeded"


async def test_a_comment_keeps_a_quiet_stream_open(monkeypatch: pytest.MonkeyPatch):
    """WEB-07: every 15 s; here as soon as can be."""
    assert run_events.PING == 15
    monkeypatch.setattr(run_events, "PING", 0.01)
    shop = Shop()
    async with (
        Engine(shop.pipe, store="memory") as engine,
        served(engine.asgi(auth=TOKEN)) as url,
        httpx.AsyncClient(base_url=url, headers=BEARER) as web,
    ):
        run = await submitted(web, "held")

        async def comments() -> None:
            async with web.stream("GET", f"/api/v1/runs/{run['id']}/events") as response:
                found = 0
                async for line in response.aiter_lines():
                    found += line.startswith(":")
                    if found == 3:
                        return

        await soon(comments())
        shop.gate.open()
        await (await engine.find(run["id"])).result()


async def test_a_slow_reader_is_not_read_ahead_for(monkeypatch: pytest.MonkeyPatch):
    """WEB-07: whoever reads nothing has a page of events made for it, and no more; others go on."""
    shop = Shop()
    async with Engine(shop.pipe, store="memory") as engine:
        app: Any = engine.asgi(auth=TOKEN)
        async with served(app) as url, httpx.AsyncClient(base_url=url, headers=BEARER) as web:
            run = await ended(web, "total")
            made = 0
            plain = run_events.plain_event

            def counted(*given: Any) -> dict[str, object]:
                nonlocal made
                made += 1
                return {**plain(*given), "padding": "x" * 4_000_000}

            monkeypatch.setattr(run_events, "plain_event", counted)
            everything = len([each async for each in (await engine.find(run["id"])).events()])
            async with web.stream("GET", f"/api/v1/runs/{run['id']}/events") as response:
                assert response.status_code == 200
                assert (await web.get("/api/v1/runs")).status_code == 200
                assert app.state.streams == 1
                assert made < everything
            while app.state.streams:
                await asyncio.sleep(0)


async def test_a_stream_ends_with_its_engine():
    """A reader comes again with the last id; it is told nothing that is not so."""
    shop = Shop()
    async with Engine(shop.pipe, store="memory", grace="1ms", poll="20ms") as engine:
        app = engine.asgi(auth=TOKEN)
        async with served(app) as url, httpx.AsyncClient(base_url=url, headers=BEARER) as web:
            run = await submitted(web, "held")
            async with web.stream("GET", f"/api/v1/runs/{run['id']}/events") as response:
                seen: list[str] = []
                async for each in sse(response):
                    seen.append(each.type)
                    if each.type == "asset.started":
                        await engine.__aexit__(None, None, None)
                assert "run.finished" not in seen
            late = await web.get(f"/api/v1/runs/{run['id']}/events")
            assert (late.status_code, late.json()["code"]) == (503, "ENGINE_NOT_OPEN")


async def test_head_tells_what_get_would_and_streams_nothing():
    async with Engine(Shop().pipe, store="memory") as engine:
        async with served(engine.asgi(auth=TOKEN)) as url, httpx.AsyncClient(base_url=url, headers=BEARER) as web:
            run = await submitted(web, "held")
            head = await soon(web.head(f"/api/v1/runs/{run['id']}/events"))
            assert (head.status_code, head.content) == (200, b"")
            await web.post(f"/api/v1/runs/{run['id']}/cancel")


async def test_a_stream_tells_what_a_run_waits_for(open_engine: OpenEngine):
    """EVT-04, WEB-07: gates and steps like everything else, without the token."""
    pipe = Pipeline("waits")

    async def begin() -> None: ...

    @pipe.asset
    async def job(ctx: Context) -> str:
        await ctx.step(begin)
        return await ctx.signal(str, token="job-7", name="answer")

    engine = await open_engine(pipe, secret=b"s" * 32)
    async with served(engine.asgi(auth=TOKEN)) as url, httpx.AsyncClient(base_url=url, headers=BEARER) as web:
        run = await engine.submit("job")
        async with web.stream("GET", f"/api/v1/runs/{run.id}/events") as response:
            seen: list[Sse] = []
            async for each in sse(response):
                seen.append(each)
                if each.type == "gate.opened" and each.data["kind"] == "signal":
                    await engine.signal("job-7", "done")
    assert [int(each.id) for each in seen] == list(range(1, len(seen) + 1))
    told = [each for each in seen if each.data.get("kind") == "signal" or "step" in each.data]
    assert [each.type for each in told] == ["step.finished", "gate.opened", "gate.signalled"]
    opened = told[1].data
    assert (opened["asset"], opened["name"]) == ("job", "answer")
    assert opened["due"] > opened["at"]
    assert "job-7" not in str([each.data for each in seen])
