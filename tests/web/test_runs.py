"""Runs over REST (WEB-02, WEB-03, WEB-04, WEB-05), on both stores."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from flowstone_async import Engine, Pipeline
from flowstone_async.types import new_id
from flowstone_async.web.cursor import to_cursor
from tests.support.engines import OpenEngine, SharedEngines
from tests.support.web import BEARER, TOKEN, client, ended, served, submitted
from tests.web.shop import Shop


async def test_a_run_is_submitted_and_looked_at(open_engine: OpenEngine):
    """WEB-03: 202 with the run and where it is; WEB-02: it is listed and can be looked at."""
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        response = await web.post("/api/v1/runs", json={"targets": ["total"], "params": {"limit": 4}})
        assert response.status_code == 202
        run = response.json()
        assert response.headers["location"] == f"/api/v1/runs/{run['id']}"
        await (await engine.find(run["id"])).result()
        found = (await web.get(response.headers["location"])).json()
        assert (found["state"], found["targets"], found["error"]) == ("succeeded", ["total"], None)
        assert found["started_at"] <= found["finished_at"]
        listed = (await web.get("/api/v1/runs")).json()
        assert [each["id"] for each in listed["runs"]] == [run["id"]]
        assert listed["next"] is None


async def test_params_and_partition_are_read_as_they_are_declared(open_engine: OpenEngine):
    """WEB-03: JSON has no dates and no sets; the declared types say what a text stands for."""
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        given = {"limit": 2, "day": "2025-03-04", "names": ["b", "a"]}
        run = await ended(web, "base", params=given)
        assert run["result"]["value"] == ["2", "2025-03-04", "a", "b"]
        run = await ended(web, "orders", partition="2025-01-17")
        assert (run["partition"], run["result"]["value"]) == ("2025-01-17", 17)
        for key in ("ä|b", "a/b", ".."):
            assert (await ended(web, "keyed", partition=key))["result"]["value"] == key


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({"targets": ["base"], "params": {"limit": "many", "nope": 1}}, "limit"),
        ({"targets": ["base"], "params": {"nope": 1}}, "nope"),
        ({"targets": ["orders"]}, None),
        ({"targets": ["orders"], "partition": "someday"}, "body.partition"),
        ({"targets": ["orders"], "partition": "1999-01-01"}, "body.partition"),
        ({"targets": []}, "body.targets"),
        ({"targets": ["base"], "priority": 9}, "body.priority"),
        ({"targets": ["base"], "priority": "1"}, "body.priority"),
        ({"targets": ["base"], "at": "2025-01-01T00:00:00"}, "body.at"),
        ({"targets": ["base"], "timeout": -1}, None),
        ({"targets": ["base"], "conn": "x"}, "body.conn"),
        ({"targets": ["base"], "params": {"key": "a-secret-text"}}, None),
        ({"targets": "base"}, "body.targets"),
        ([], "body"),
    ],
)
async def test_what_does_not_fit_is_refused_with_its_fields(open_engine: OpenEngine, order: Any, field: str | None):
    """WEB-03: 422 with the fields, and nothing was submitted."""
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        response = await web.post("/api/v1/runs", json=order)
        assert response.status_code == 422, response.text
        body = response.json()
        assert set(body) == {"code", "message", "hint", "details"}
        if field is not None:
            assert field in body["details"]["fields"], body
        assert "a-secret-text" not in response.text
        assert (await web.get("/api/v1/runs")).json()["runs"] == []


async def test_an_unknown_asset_is_not_found(open_engine: OpenEngine):
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        response = await web.post("/api/v1/runs", json={"targets": ["totl"]})
        assert (response.status_code, response.json()["code"]) == (404, "ASSET_NOT_FOUND")
        assert "total" in response.text


async def test_an_idempotency_key_gives_the_same_run_again(open_engine: OpenEngine):
    """WEB-03: the repetition gives 200 with the same run, other contents 409."""
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        answers = [
            await web.post("/api/v1/runs", json={"targets": ["total"]}, headers={"Idempotency-Key": "k-1"})
            for _ in range(2)
        ]
        assert [each.status_code for each in answers] == [202, 200]
        assert len({each.json()["id"] for each in answers}) == 1
        other = await web.post("/api/v1/runs", json={"targets": ["base"]}, headers={"Idempotency-Key": "k-1"})
        assert (other.status_code, other.json()["code"]) == (409, "KEY_CONFLICT")
        for key in ("", "k" * 2000):
            refused = await web.post("/api/v1/runs", json={"targets": ["base"]}, headers={"Idempotency-Key": key})
            assert refused.status_code == 422


async def test_an_equal_run_that_goes_on_is_joined(open_engine: OpenEngine):
    shop = Shop()
    engine = await open_engine(shop.pipe)
    async with client(engine) as web:
        first = await submitted(web, "held")
        again = await web.post("/api/v1/runs", json={"targets": ["held"]})
        assert (again.status_code, again.json()["id"]) == (200, first["id"])
        shop.gate.open()
        await (await engine.find(first["id"])).result()


async def test_waiting_gives_the_value_or_says_that_it_is_not_ready(open_engine: OpenEngine):
    """WEB-03: 200 with the value, or 202; a run that fails answers 200 with why."""
    shop = Shop()
    engine = await open_engine(shop.pipe)
    async with client(engine) as web:
        early = await web.post("/api/v1/runs", params={"wait": "1ms"}, json={"targets": ["held"]})
        assert (early.status_code, early.json()["result"]) == (202, None)
        shop.gate.open()
        run = await ended(web, "held")
        assert (run["state"], run["result"]["value"]) == ("succeeded", "done")
        failed = await ended(web, "broken")
        assert (failed["state"], failed["result"], failed["error"]["code"]) == ("failed", None, "EXECUTION")
        for wait in ("6m", "soon", "0s", "-1s", "1h"):
            refused = await web.post("/api/v1/runs", params={"wait": wait}, json={"targets": ["base"]})
            assert refused.status_code == 422, wait


async def test_several_targets_give_their_values_in_that_order(open_engine: OpenEngine):
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        run = await ended(web, "total", "base")
        assert run["result"]["value"] == [2, ["1", "2025-01-01"]]


async def test_errors_tell_neither_secrets_nor_traces(open_engine: OpenEngine):
    """WEB-02: never a trace; SEC-04: nor a password, wherever it stands."""
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        run = await ended(web, "broken")
        texts = [
            (await web.get(path)).text
            for path in ("/api/v1/runs", f"/api/v1/runs/{run['id']}", "/api/v1/assets/broken", "/api/v1/assets",
                         f"/api/v1/runs/{run['id']}/events", "/api/v1/assets/broken/partitions")
        ]  # fmt: skip
        for text in texts:
            assert "hunter2" not in text
            assert "Traceback" not in text
        assert "ValueError" in texts[1]


async def test_a_run_is_cancelled_once(open_engine: OpenEngine):
    """WEB-02, AUD: whoever cancels and submits stands in the audit log."""
    shop = Shop()
    engine = await open_engine(shop.pipe)
    async with client(engine) as web:
        run = await submitted(web, "held")
        await shop.gate.reached()
        answer = await web.post(f"/api/v1/runs/{run['id']}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        again = await web.post(f"/api/v1/runs/{run['id']}/cancel")
        assert (again.status_code, again.json()["code"]) == (409, "NOTHING_TO_CANCEL")
    entries = [entry for _, _, entry in await engine._live().store.audit() if entry.run_id == run["id"]]
    acts = {entry.action: (entry.actor, entry.actor_kind) for entry in entries}
    assert acts["run.submitted"] == acts["run.cancelled"] == ("token", "token")


async def test_a_run_is_retried_and_a_scatter_redriven(open_engine: OpenEngine):
    """WEB-02: both answer 202 with the new run; what does not fit how the run is answers 409."""
    shop = Shop()
    engine = await open_engine(shop.pipe)
    async with client(engine) as web:
        done = await ended(web, "total")
        answer = await web.post(f"/api/v1/runs/{done['id']}/retry")
        assert answer.status_code == 202
        assert answer.json()["id"] != done["id"]
        await (await engine.find(answer.json()["id"])).result()
        failed = await ended(web, "doubled")
        assert failed["scatters"]["doubled"] == {
            **dict.fromkeys(["pending", "running", "waiting", "skipped", "cancelled"], 0),
            "total": 3,
            "done": 2,
            "failed": 1,
            "sealed": True,
        }
        shop.heal = True
        answer = await web.post(f"/api/v1/runs/{failed['id']}/redrive", json={"asset": "doubled"})
        assert answer.status_code == 202, answer.text
        report = await (await engine.find(answer.json()["id"])).report()
        assert report.ok
        again = await web.post(f"/api/v1/runs/{failed['id']}/redrive", json={"asset": "doubled"})
        assert (again.status_code, again.json()["code"]) == (409, "CONFIG")


async def test_a_run_that_goes_on_is_not_retried(open_engine: OpenEngine):
    shop = Shop()
    engine = await open_engine(shop.pipe)
    async with client(engine) as web:
        run = await submitted(web, "held")
        assert (await web.post(f"/api/v1/runs/{run['id']}/retry")).status_code == 409
        shop.gate.open()
        await (await engine.find(run["id"])).result()


async def test_pages_stay_right_while_runs_are_added(open_engine: OpenEngine):
    """WEB-05: each run that was there comes once, in order, however many come between two pages."""
    engine = await open_engine(Shop().pipe, slots=0)
    async with client(engine) as web:
        ids = [(await submitted(web, "base", force=True))["id"] for _ in range(5)]
        seen: list[str] = []
        params: dict[str, Any] = {"limit": 2}
        while True:
            page = (await web.get("/api/v1/runs", params=params)).json()
            seen += [each["id"] for each in page["runs"]]
            if page["next"] is None:
                break
            params["cursor"] = page["next"]
            await submitted(web, "base", force=True)
        assert seen == ids[::-1]


async def test_runs_are_found_by_state_and_target(open_engine: OpenEngine):
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        await ended(web, "base")
        failed = await ended(web, "broken")
        by_state = (await web.get("/api/v1/runs", params={"state": "failed"})).json()["runs"]
        by_target = (await web.get("/api/v1/runs", params={"asset": "broken"})).json()["runs"]
        assert [each["id"] for each in by_state] == [each["id"] for each in by_target] == [failed["id"]]
        assert (await web.get("/api/v1/runs", params={"state": "odd"})).status_code == 422
        assert (await web.get("/api/v1/runs", params={"asset": "odd"})).status_code == 404


async def test_a_cursor_whose_run_is_gone_says_so(open_engine: OpenEngine):
    """WEB-05: 410, rather than a page from somewhere else."""
    engine = await open_engine(Shop().pipe, slots=0)
    async with client(engine) as web:
        gone = await web.get("/api/v1/runs", params={"limit": 1, "cursor": to_cursor("runs", new_id())})
        assert (gone.status_code, gone.json()["code"]) == (410, "CURSOR_GONE")


async def test_runs_of_other_pipelines_are_not_there(engines: SharedEngines):
    """An app shows, and cancels, what its engine has."""
    other = Pipeline("other")

    @other.asset
    async def theirs() -> int:
        return 1

    elsewhere = await engines.open(other, slots=0)
    run = await elsewhere.submit(theirs)
    engine = await engines.open(Shop().pipe, secret=b"s" * 32)
    async with client(engine) as web:
        assert (await web.get("/api/v1/runs")).json()["runs"] == []
        assert (await web.get(f"/api/v1/runs/{run.id}")).status_code == 404
        assert (await web.post(f"/api/v1/runs/{run.id}/cancel")).status_code == 404


@pytest.mark.parametrize("name", ["nope", "0", "%00", "%F0%9F%92%A9", "a" * 4000, "..%2f..", "{}", "'; --"])
@pytest.mark.parametrize("what", ["", "/events", "/items?asset=doubled", "/cancel", "/retry"])
async def test_ids_that_are_none_are_not_found(open_engine: OpenEngine, name: str, what: str):
    engine = await open_engine(Shop().pipe)
    method = "POST" if what in ("/cancel", "/retry") else "GET"
    async with client(engine) as web:
        for run_id in (name, new_id().upper(), new_id()):
            response = await web.request(method, f"/api/v1/runs/{run_id}{what}")
            assert response.status_code == 404, (run_id, response.text)
            assert set(response.json()) == {"code", "message", "hint", "details"}


async def test_a_client_that_leaves_ends_no_run():
    """WEB-04: waiting only watches; over a socket, where the server notices."""
    shop = Shop()
    async with (
        Engine(shop.pipe, store="memory") as engine,
        served(engine.asgi(auth=TOKEN)) as url,
        httpx.AsyncClient(base_url=url, headers=BEARER) as web,
    ):
        order = web.post("/api/v1/runs", params={"wait": "5m"}, json={"targets": ["held"]})
        waiting = asyncio.create_task(order)
        await shop.gate.reached()
        waiting.cancel()
        await asyncio.wait([waiting])
        [run] = (await web.get("/api/v1/runs")).json()["runs"]
        assert run["state"] == "running"
        shop.gate.open()
        assert await (await engine.find(run["id"])).result() == "done"
