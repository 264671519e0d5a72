"""Assets, partitions, values, items, limits and workers over REST (WEB-02, WEB-05), on both stores."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from flowstone_async import Rate
from tests.support.engines import OpenEngine
from tests.support.web import client, ended
from tests.web.shop import Shop


async def _pages(web: httpx.AsyncClient, path: str, name: str, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = (await web.get(path, params=params)).json()
        assert len(page[name]) <= params["limit"]
        found += page[name]
        if page["next"] is None:
            return found
        params["cursor"] = page["next"]


async def test_assets_are_listed_with_what_is_stored(open_engine: OpenEngine):
    shop = Shop()
    engine = await open_engine(shop.pipe)
    async with client(engine) as web:
        await ended(web, "orders", partition="2025-01-17")
        await ended(web, "orders", partition="2025-01-18")
        assets = {each["name"]: each for each in await _pages(web, "/api/v1/assets", "assets", limit=3)}
        assert list(assets) == sorted(each.name for each in shop.pipe.compiled().nodes.values())
        assert (assets["orders"]["stored"], assets["base"]["stored"]) == (2, 0)
        assert assets["orders"]["expected"] > 300
        assert assets["orders"]["partitions"].startswith("daily from 2025-01-01")
        assert assets["base"]["description"] == "What everything begins with."
        assert assets["total"]["depends_on"] == ["base"]
        assert assets["doubled"]["kind"] == "scatter"


async def test_an_asset_is_shown_with_how_it_is(open_engine: OpenEngine):
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        never = (await web.get("/api/v1/assets/total")).json()
        assert (never["status"]["state"], never["status"]["has_value"]) == ("not_found", False)
        run = await ended(web, "total")
        found = (await web.get("/api/v1/assets/shop.total")).json()["status"]
        assert (found["state"], found["fresh"], found["run_id"]) == ("completed", True, run["id"])
        assert (await web.get("/api/v1/assets/orders")).json()["status"] is None
        await ended(web, "broken")
        failed = (await web.get("/api/v1/assets/broken")).json()["status"]
        assert (failed["state"], failed["error"]["details"]["error_type"]) == ("failed", "ValueError")
        day = (await web.get("/api/v1/assets/orders", params={"partition": "2025-01-17"})).json()
        assert day["status"]["state"] == "not_found"
        for wrong in ("nope", "1999-01-01", "2025-01-01..2025-01-03", ""):
            refused = await web.get("/api/v1/assets/orders", params={"partition": wrong})
            assert refused.status_code == 422, wrong
        assert (await web.get("/api/v1/assets/nope")).status_code == 404


async def test_partitions_come_page_by_page(open_engine: OpenEngine):
    """WEB-05: in an order that stays right while others are added."""
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        for day in (1, 2, 3, 4, 5):
            await ended(web, "orders", partition=f"2025-01-0{day}")
        first = (await web.get("/api/v1/assets/orders/partitions", params={"limit": 2})).json()
        await ended(web, "orders", partition="2025-01-06")
        rest = await _pages(web, "/api/v1/assets/orders/partitions", "partitions", limit=2, cursor=first["next"])
        days = [each["partition"] for each in (*first["partitions"], *rest)]
        assert days == [f"2025-01-0{day}" for day in (1, 2, 3, 4, 5, 6)]
        assert all(each["has_value"] and each["size"] for each in rest)
        for key in ("ä|b", "a/b"):
            await ended(web, "keyed", partition=key)
        keyed = await _pages(web, "/api/v1/assets/keyed/partitions", "partitions", limit=1)
        assert {each["partition"] for each in keyed} == {"ä|b", "a/b"}


@pytest.mark.parametrize(
    ("asset", "value"),
    [
        ("base", ["1", "2025-01-01"]),
        ("text", "<script>alert('ä')</script>"),
        ("blob", "AP8A_wD_AP8A_wD_AP8A_wD_AP8="),
        ("numbers", [0, 1, 2, 3, 4]),
        ("point", {"x": 3}),
    ],
)
async def test_a_value_is_answered_in_json(open_engine: OpenEngine, asset: str, value: Any):
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        missing = await web.get(f"/api/v1/assets/{asset}/value")
        assert (missing.status_code, missing.json()["code"]) == (404, "NOT_MATERIALIZED")
        run = await ended(web, asset)
        found = (await web.get(f"/api/v1/assets/{asset}/value")).json()
        assert (found["value"], found["cut"], found["run_id"]) == (value, False, run["id"])
        cut = (await web.get(f"/api/v1/assets/{asset}/value", params={"max_bytes": 3})).json()
        assert (cut["value"], cut["cut"]) == (None, True)


async def test_a_large_value_is_cut_and_its_beginning_redacted(open_engine: OpenEngine):
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        run = await ended(web, "large")
        assert (run["result"]["value"], run["result"]["cut"]) == (None, True)
        found = (await web.get("/api/v1/assets/large/value")).json()
        assert (found["value"], found["cut"]) == (None, True)
        assert found["beginning"].startswith('["password=***')
        assert len(found["beginning"]) <= 4096
        whole = (await web.get("/api/v1/assets/large/value", params={"max_bytes": 1 << 20})).json()
        assert len(whole["value"]) == 101
        for wrong in (0, -1, 1 << 30, "x"):
            assert (await web.get("/api/v1/assets/large/value", params={"max_bytes": wrong})).status_code == 422


@pytest.mark.parametrize(
    ("asset", "media", "data"),
    [
        ("base", "application/json", b'["1","2025-01-01"]'),
        ("text", "text/plain; charset=utf-8", "<script>alert('ä')</script>".encode()),
        ("blob", "application/octet-stream", b"\x00\xff" * 10),
        ("numbers", "application/x-ndjson", b"0\n1\n2\n3\n4\n"),
    ],
)
async def test_a_value_comes_whole_as_it_is(open_engine: OpenEngine, asset: str, media: str, data: bytes):
    """No browser shows it as a page, whatever it holds."""
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        await ended(web, asset)
        found = await web.get(f"/api/v1/assets/{asset}/value", params={"raw": "true"})
        assert (found.content, found.headers["content-type"]) == (data, media)
        assert found.headers["content-disposition"] == "attachment"
        assert found.headers["x-content-type-options"] == "nosniff"


async def test_items_are_listed_with_why_they_failed(open_engine: OpenEngine):
    shop = Shop()
    engine = await open_engine(shop.pipe)
    async with client(engine) as web:
        run = await ended(web, "doubled")
        path = f"/api/v1/runs/{run['id']}/items"
        failed = (await web.get(path, params={"asset": "doubled"})).json()
        assert [(each["item"], each["error_type"]) for each in failed["items"]] == [(2, "ValueError")]
        done = await _pages(web, path, "items", asset="doubled", state="done", limit=1)
        assert [each["item"] for each in done] == [1, 3]
        groups = (await web.get(f"/api/v1/runs/{run['id']}/item-errors", params={"asset": "doubled"})).json()
        assert [(each["error_type"], each["count"]) for each in groups["errors"]] == [("ValueError", 1)]
        assert "Traceback" not in json.dumps([failed, groups])
        assert (await web.get(path)).status_code == 422
        assert (await web.get(path, params={"asset": "base"})).status_code == 422
        assert (await web.get(path, params={"asset": "nope"})).status_code == 404


async def test_limits_and_workers_are_shown(open_engine: OpenEngine):
    engine = await open_engine(Shop().pipe, limits={"openai": Rate(10, per="1h")})
    async with client(engine) as web:
        await engine.limits.check("openai")
        await engine.limits.set("slots", 3)
        slot = await engine.limits.acquire("slots")
        assert slot is not None
        async with slot:
            listed = {each["key"]: each for each in await _pages(web, "/api/v1/limits", "limits", limit=1)}
            assert (listed["openai"]["kind"], listed["openai"]["limit"]) == ("rate", 10)
            assert (listed["slots"]["count"], listed["slots"]["holders"]) == (1, [])
            one = (await web.get("/api/v1/limits", params={"key": "slots"})).json()["limits"]
            assert len(one[0]["holders"]) == 1
        unknown = (await web.get("/api/v1/limits", params={"key": "ä/nobody"})).json()["limits"]
        assert [each["kind"] for each in unknown] == [None]
        found = (await web.get("/api/v1/workers")).json()
        assert [each["id"] for each in found["workers"]] == [engine._live().services.worker]
        assert (found["queue"]["queued"], found["queue"]["waiting"]) == (0, 0)
