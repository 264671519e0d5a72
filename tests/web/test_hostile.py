"""What nobody means well with: malformed, oversized, odd, forged. Each is refused, and nothing breaks."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from flowstone_async import Engine
from flowstone_async.web.app import operations
from flowstone_async.web.cursor import to_cursor
from tests.support.engines import OpenEngine
from tests.support.web import TOKEN, client, ended, raw, served
from tests.web.shop import Shop

LISTS = ("/api/v1/runs", "/api/v1/assets", "/api/v1/assets/orders/partitions", "/api/v1/limits", "/api/v1/gates")


@pytest.mark.parametrize("limit", ["0", "-1", "501", "1e3", "x", "", "9" * 30, "1.5", "NaN", "\u0661"])
async def test_limits_of_lists_are_1_to_500(limit: str):
    """WEB-05: refused, and not quietly another one."""
    async with Engine(Shop().pipe, store="memory") as engine, client(engine) as web:
        for path in LISTS:
            answer = await web.get(path, params={"limit": limit})
            assert (answer.status_code, list(answer.json()["details"]["fields"])) == (422, ["query.limit"]), path
            assert (await web.get(path, params={"limit": "500"})).status_code == 200


@pytest.mark.parametrize("each", operations("test"), ids=lambda each: each.name)
async def test_parameters_that_nobody_knows_are_refused(each: Any):
    """One that is misspelt would otherwise be as if it were not there."""
    async with Engine(Shop().pipe, store="memory") as engine, client(engine) as web:
        answer = await web.request(each.method, each.path, params={"lmit": "1"})
        assert (answer.status_code, answer.json()["code"]) == (422, "UNFIT")
        assert "query.lmit" in answer.json()["details"]["fields"]
        for name in each.query.model_fields:
            twice = await web.request(each.method, each.path, params=[(name, "1"), (name, "2")])
            assert (twice.status_code, f"query.{name}" in twice.json()["details"]["fields"]) == (422, True)


def _cursor(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


FORGED = (
    "x", "%%%", "===", "A" * 4096, "ä", "\x00", _cursor(None), _cursor([]), _cursor(["runs"]), _cursor(["other", "x"]),
    _cursor({"runs": 1}), _cursor([["runs"], "x"]), _cursor("[" * 3000),
    *(_cursor([kind, place]) for kind in ("runs", "assets", "partitions", "limits", "gates", "items")
      for place in (None, True, -1, 1 << 70, 1.5, {}, "a\0b", "\ud800")),
)  # fmt: skip


@pytest.mark.parametrize("path", LISTS)
async def test_cursors_that_no_list_gave_are_refused(open_engine: OpenEngine, path: str):
    """WEB-05: 422, or 410 for one that stands nowhere any more; never a page from somewhere else, never a mistake."""
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        for cursor in FORGED:
            answer = await web.get(path, params={"cursor": cursor})
            assert answer.status_code == 422, (cursor, answer.text)
        too_long = await web.get(path, params={"cursor": "A" * 5000})
        assert too_long.status_code == 422


async def test_cursors_of_items_are_numbers_in_bounds(open_engine: OpenEngine):
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        run = await ended(web, "doubled")
        path = f"/api/v1/runs/{run['id']}/items"
        for cursor in FORGED:
            answer = await web.get(path, params={"asset": "doubled", "cursor": cursor})
            assert answer.status_code == 422, (cursor, answer.text)
        for place in (0, 2, 3, 1 << 30, (1 << 31) - 1):
            for state in ("failed", "done", "pending"):
                params = {"asset": "doubled", "state": state, "cursor": to_cursor("items", place)}
                assert (await web.get(path, params=params)).status_code == 200


async def test_cursors_that_stand_nowhere(open_engine: OpenEngine):
    """A well-formed place that is not there: behind everything, or gone."""
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        await ended(web, "orders", partition="2025-01-17")
        for path, kind, status in (
            ("/api/v1/runs", "runs", 410),
            ("/api/v1/gates", "gates", 410),
            ("/api/v1/assets", "assets", 200),
            ("/api/v1/limits", "limits", 200),
            ("/api/v1/assets/orders/partitions", "partitions", 200),
        ):
            for place in ("nowhere", "'; DROP TABLE", "ä😀", "z" * 500):
                answer = await web.get(path, params={"cursor": to_cursor(kind, place)})
                assert answer.status_code == status, (path, place, answer.text)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"\x00", 400), (b"\xff\xfe{}", 400), (b"{} {}", 400), (b"NaN", 400),
        (b'{"targets": ["total"], "params": {"limit": NaN}}', 400),
        (b'{"targets": ["total"], "params": {"limit": 1e999}}', 422),
        (b"[" * 100_000 + b"]" * 100_000, 400), (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
        (b'{"targets": ["\\ud800"]}', 400), (b'{"targets": ["a\\u0000b"]}', 404), (b'{"targets": [""]}', 422),
        (b'{"targets": [null]}', 422), (b'{"targets": {"0": "total"}}', 422), (b"null", 422), (b'"total"', 422),
        (b'{"targets": ["keyed"], "partition": "a\\u0000b"}', 422),
        (b'{"targets": ["held"], "partition": "a\\u0000b"}', 202),
        (b'{"targets": ["held"], "partition": "' + b"x" * 5000 + b'"}', 422),
        (b'{"targets": ["base"], "params": {"names": ["a\\u0000b"]}}', 202),
        (b'{"targets": ["base"], "params": {"limit": ' + b"9" * 400 + b"}}", 202),
        (b'{"targets": ["base"], "params": {"limit": ' + b"9" * 5000 + b"}}", 400),
        (b'{"targets": ["base"], "at": "9999-12-31T23:59:59-12:00"}', 422),
        (b'{"targets": ["base"], "at": "0001-01-01T00:00:00+12:00"}', 422),
        (b'{"targets": ["base"], "timeout": 1e300}', 422),
        (b'{"targets": ["base"], "concurrency": 0}', 422), (b'{"targets": ["base"], "force": "yes"}', 422),
        (b'{"targets": ["base"], "__proto__": {}}', 422),
    ],
    ids=lambda each: str(each)[:60],
)  # fmt: skip
async def test_bodies_that_are_no_order(open_engine: OpenEngine, body: bytes, status: int):
    """WEB-02: malformed 400, unfit 422; never 500, on either store."""
    engine = await open_engine(Shop().pipe, slots=0)
    async with client(engine) as web:
        answer = await web.post("/api/v1/runs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, answer.text
        if status >= 400:
            assert set(answer.json()) == {"code", "message", "hint", "details"}
            assert len(answer.content) < 10_000


@pytest.mark.parametrize(
    ("media", "status"),
    [
        ("application/json", 202), ("Application/JSON; charset=utf-8", 202), ("text/plain", 400), ("", 400),
        ("application/x-www-form-urlencoded", 400), ("multipart/form-data; boundary=x", 400), ("application/jsonx", 400),
        ("text/plain; application/json", 400),
    ],
)  # fmt: skip
async def test_only_json_is_taken(media: str, status: int):
    """What a browser sends for another site without asking first is refused by its type."""
    async with Engine(Shop().pipe, store="memory") as engine, client(engine) as web:
        body = b'{"targets": ["total"]}'
        answer = await web.post("/api/v1/runs", content=body, headers={"Content-Type": media})
        assert answer.status_code == status


async def test_large_bodies_are_refused_while_they_come():
    async with Engine(Shop().pipe, store="memory") as engine, client(engine) as web:
        large = b'{"targets": ["' + b"x" * (1 << 20) + b'"]}'
        answer = await web.post("/api/v1/runs", content=large, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["details"]) == (413, {"max_body": 1 << 20})


async def test_odd_requests_over_a_socket():
    """The server refuses what is no HTTP; the app answers everything else, and goes on."""
    async with Engine(Shop().pipe, store="memory") as engine, served(engine.asgi(auth=TOKEN)) as url:
        head = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n"
        for request, expected in (
            (f"GET /api/v1/runs HTTP/1.1\r\n{head}\r\n", b" 200 "),
            (f"HEAD /api/v1/runs HTTP/1.1\r\n{head}\r\n", b" 200 "),
            (f"OPTIONS /api/v1/runs HTTP/1.1\r\n{head}\r\n", b" 405 "),
            (f"BREW /api/v1/runs HTTP/1.1\r\n{head}\r\n", b" 405 "),
            (f"GET /api/v1/runs/%00%ff%c3%28 HTTP/1.1\r\n{head}\r\n", b" 404 "),
            (f"GET /api/v1/assets/%2e%2e%2f HTTP/1.1\r\n{head}\r\n", b" 404 "),
            (f"GET /api/v1/runs?limit=%ff HTTP/1.1\r\n{head}\r\n", b" 422 "),
            (f"GET /api/v1/runs?asset=%00 HTTP/1.1\r\n{head}\r\n", b" 404 "),
            (f"GET /api/v1/runs?&&=&limit HTTP/1.1\r\n{head}\r\n", b" 422 "),
            (f"GET //api/v1/runs HTTP/1.1\r\n{head}\r\n", b" 404 "),
            (f"GET /api/v1/runs/ HTTP/1.1\r\n{head}\r\n", b" 404 "),
            (f"GET /api/v1/runs HTTP/1.1\r\n{head}X: {'x' * 1_000_000}\r\n\r\n", b" 4"),
            (f"POST /api/v1/runs HTTP/1.1\r\n{head}Content-Length: -1\r\n\r\n", b" 400 "),
            (f"POST /api/v1/runs HTTP/1.1\r\n{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\n", b" 400 "),
            ("\x00\x01\x02\r\n\r\n", b" 400 "),
        ):
            answer = await raw(url, request.encode("latin-1"))
            assert (not answer and len(request) > 1_000_000) or expected in answer.partition(b"\r\n")[0] + b" ", (
                request[:80],
                answer[:200],
            )
            assert b"Traceback" not in answer
            if request.startswith("HEAD"):
                assert answer.endswith(b"\r\n\r\n")
        assert b" 200 " in await raw(url, f"GET /health/live HTTP/1.1\r\n{head}\r\n".encode())


async def test_a_mistake_of_ours_is_told_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """WEB-02: 500 with a code; what went wrong is in the log, its secrets hidden."""
    async with Engine(Shop().pipe, store="memory") as engine, client(engine) as web:

        async def wrong(**_: Any) -> Any:
            raise RuntimeError("password=hunter2secret")

        monkeypatch.setattr(engine, "runs", wrong)
        answer = await web.get("/api/v1/runs")
        assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
        assert "hunter2" not in answer.text
        assert "RuntimeError" not in answer.text
        assert "hunter2" not in "".join(record.getMessage() for record in caplog.records)


async def test_every_answer_forbids_guessing_and_keeping():
    async with Engine(Shop().pipe, store="memory") as engine, client(engine) as web:
        for path in ("/api/v1/runs", "/api/v1/nope/x", "/api/v1/runs/x", "/metrics", "/health/live", "/nowhere"):
            headers = (await web.get(path)).headers
            assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
