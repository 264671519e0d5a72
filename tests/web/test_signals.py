"""Signals over HTTP (WEB-06, SIG-11 to SIG-14), on both stores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.routing import Mount

from flowstone_async import Context, Engine, Pipeline
from flowstone_async._engine.tokens import token_of
from flowstone_async.errors import StoreUnavailable
from flowstone_async.web import received, signals
from tests.contract.builders import Drive, replace, worker
from tests.engine.test_signals import OTHER, SECRET, Done, Waiting, pipe
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.web import BEARER, TOKEN, calling, raw, served


@pytest_asyncio.fixture
async def engine(open_engine: OpenEngine) -> Engine:
    return await open_engine(pipe, slots=0, poll="60s")


@pytest_asyncio.fixture
async def waiting(engine: Engine) -> Waiting:
    store = engine._live().store
    return Waiting(engine, await Drive.start(store, replace(worker(), id=engine._live().services.worker)))


@pytest_asyncio.fixture
async def web(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """A client that has no token of the app."""
    async with calling(engine.asgi(auth=TOKEN)) as opened:
        yield opened


def _hook(token: str) -> str:
    return f"/hooks/signal/{token}"


async def test_a_signal_needs_nothing_but_the_token(waiting: Waiting, web: httpx.AsyncClient):
    """WEB-06: 200; the same again 200 with `duplicate`; another one 409. It answers after the commit."""
    token = await waiting.opened()
    answer = await web.post(_hook(token), content=b'{"job": 7}')
    assert (answer.status_code, answer.json()) == (200, {"duplicate": False})
    assert (await waiting.stored()).outcome is not None
    again = await web.post(_hook(token), content=b' {"job":7} ', headers={"Content-Type": "text/plain"})
    assert (again.status_code, again.json()) == (200, {"duplicate": True})
    other = await web.post(_hook(token), content=b'{"job": 8}')
    assert (other.status_code, other.json()["code"]) == (409, "ALREADY_SIGNALLED")
    assert "numbers" not in other.text  # what waits is not the sender's business
    assert await waiting.states() == ["accepted", "duplicate", "already"]


async def test_an_id_makes_a_repetition(waiting: Waiting, web: httpx.AsyncClient):
    token = await waiting.opened()
    for duplicate in (False, True):
        answer = await web.post(_hook(token), content=b'{"job": 7}', headers={"Idempotency-Key": "delivery-1"})
        assert answer.json() == {"duplicate": duplicate}
    changed = await web.post(_hook(token), content=b'{"job": 9}', headers={"Idempotency-Key": "delivery-1"})
    assert changed.json() == {"duplicate": True}


async def test_of_many_at_once_one_counts(waiting: Waiting, web: httpx.AsyncClient):
    token = await waiting.opened()
    answers = await asyncio.gather(*(web.post(_hook(token), json={"job": no}) for no in range(10)))
    assert sorted(each.status_code for each in answers) == [200, *[409] * 9]


@pytest.mark.parametrize("park_after", [False, 0], ids=["parked", "evicted"])
async def test_a_body_gives_its_url_away_and_goes_on_when_it_is_called(open_engine: OpenEngine, park_after: Any):
    """SIG-14, WEB-01: the URL leads to the app, under its mount path, whether or not the body is still in memory."""
    given: asyncio.Queue[str] = asyncio.Queue()
    remote = Pipeline("remote")

    async def start(url: str) -> str:
        given.put_nowait(url)
        return "started"

    @remote.asset
    async def job(ctx: Context) -> int:
        gate = ctx.signal(Done)
        await ctx.step(start, gate.url)
        return (await gate).job

    engine = await open_engine(remote, park_after=park_after, base_url="http://test/flow", poll="50ms")
    host = Starlette(routes=[Mount("/flow", app=engine.asgi(auth=TOKEN))])
    async with calling(host, headers=BEARER) as web, calling(host) as stranger:
        waiting = asyncio.create_task(web.post("/flow/api/v1/runs?wait=30s", json={"targets": ["job"]}))
        url = await soon(given.get())
        assert (await stranger.get(url)).status_code == 405
        assert (await stranger.post(url, json={"job": 7})).json() == {"duplicate": False}
        run = (await soon(waiting)).json()
        assert (run["state"], run["result"]["value"]) == ("succeeded", 7)
        seen = (await web.get(f"/flow/api/v1/runs/{run['id']}/events")).text
        assert url.rpartition("/")[2] not in seen
        assert (await stranger.post(url, json={"job": 8})).status_code in (409, 410)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"])
async def test_nothing_but_a_post_signals(waiting: Waiting, web: httpx.AsyncClient, method: str):
    """WEB-06: a preview, a scanner or a preflight decides nothing."""
    token = await waiting.opened()
    answer = await web.request(method, _hook(token), content=b'{"job": 7}')
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert (await waiting.stored()).state == "open"
    assert await waiting.states() == []


async def test_tokens_that_open_nothing_are_all_alike(waiting: Waiting, web: httpx.AsyncClient):
    """WEB-06: 404 unknown or forged, with the same words."""
    gate = waiting.gate()
    token = await waiting.opened()
    for wrong in (
        token_of(OTHER, gate.id), token[:-1], token + "A", token.upper(), token.replace("v1", "v2"), "nope", "..",
        "%00", "%F0%9F%92%A9", "x" * 5000, "v1." + "0" * 32 + "." + "A" * 43,
    ):  # fmt: skip
        answer = await web.post(_hook(wrong), json={"job": 7})
        assert answer.status_code == 404, wrong
        if answer.json()["code"] != "NO_SUCH_PATH":  # what a client makes of ".."
            told = answer.json()
            assert told.pop("hint").startswith("Send to the address as it was given")
            assert told == {"code": "GATE_NOT_FOUND", "message": "there is no gate with this token", "details": {}}
    assert (await waiting.stored()).state == "open"


async def test_tokens_that_nobody_made_leave_nothing_behind(
    waiting: Waiting, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    """Anybody may send them: neither is their body read, nor is anything put on record that would fill the store."""

    async def never(*_: object) -> Any:
        raise AssertionError("it was looked at")

    monkeypatch.setattr(signals, "read_body", never)
    monkeypatch.setattr(waiting.gates, "record_delivery", never)
    for wrong in ("nope", token_of(OTHER, waiting.gate().id)):
        assert (await web.post(_hook(wrong), json={"job": 7})).status_code == 404


async def test_a_body_that_does_not_come_is_not_waited_for(
    engine: Engine, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
):
    assert received.READ_WITHIN == 60
    monkeypatch.setattr(received, "READ_WITHIN", 0.05)
    token = await waiting.opened()
    async with served(engine.asgi(auth=TOKEN)) as url:
        head = f"POST {_hook(token)} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nConnection: close\r\n\r\n{{"
        assert b'"TOO_SLOW"' in await soon(raw(url, head.encode()))
    assert (await waiting.stored()).state == "open"


async def test_a_signal_may_come_before_its_gate(waiting: Waiting, web: httpx.AsyncClient):
    """SIG-01: it is kept, and counts once the gate is on record."""
    token = token_of(SECRET, waiting.gate().id)
    assert (await web.post(_hook(token), json={"job": 7})).json() == {"duplicate": False}
    await waiting.opened()
    assert (await web.post(_hook(token), json={"job": 7})).json() == {"duplicate": True}
    assert (await web.post(_hook(token), json={"job": 8})).status_code == 409


async def test_what_is_over_is_gone(waiting: Waiting, web: httpx.AsyncClient):
    """WEB-06: 410 expired or closed."""
    over = await waiting.opened("over", due=timedelta(0))
    closed = await waiting.opened("closed")
    assert (await web.post(_hook(over), json={"job": 7})).json()["code"] == "GATE_EXPIRED"
    await waiting.drive.finish()
    answer = await web.post(_hook(closed), json={"job": 7})
    assert (answer.status_code, answer.json()["code"]) == (410, "GATE_CLOSED")


async def test_a_chosen_token_is_for_authenticated_callers_only(waiting: Waiting, web: httpx.AsyncClient):
    """SIG-11: never by the public URL, also where nobody holds it yet."""
    from flowstone_async._engine.tokens import chosen

    await waiting.recorded(waiting.gate(token=chosen("job/ä.7")))
    for token in ("job%2F%C3%A4.7", "job/ä.7", "unknown"):
        assert (await web.post(_hook(token), json={"job": 7})).status_code == 404
    order = {"token": "job/ä.7", "payload": {"job": 7}, "id": "m-1"}
    assert (await web.post("/api/v1/gates/signal", json=order)).status_code == 401
    answer = await web.post("/api/v1/gates/signal", json=order, headers=BEARER)
    assert (answer.status_code, answer.json()) == (
        200, {"duplicate": False, "run_id": waiting.drive.id, "asset": "numbers"},
    )  # fmt: skip
    early = await web.post("/api/v1/gates/signal", json={"token": "yet to come", "payload": None}, headers=BEARER)
    assert early.json() == {"duplicate": False, "run_id": None, "asset": None}


@pytest.mark.parametrize(
    "payload", [b'{"job": "x"}', b"[]", b"", b"null", b"{", b"\x00", b"\xff\xfe", b"NaN", b"[" * 9999]
)
async def test_a_payload_that_does_not_fit_leaves_the_gate_open(
    waiting: Waiting, web: httpx.AsyncClient, payload: bytes
):
    """SIG-12, WEB-06: 422, kept for inspection."""
    token = await waiting.opened()
    answer = await web.post(_hook(token), content=payload)
    assert answer.status_code == 422, answer.text
    assert (await waiting.stored()).state == "open"
    gate = (await web.get(f"/api/v1/gates/{waiting.gate().id}", headers=BEARER)).json()
    assert [each["state"] for each in gate["deliveries"]] == ["invalid"]
    assert (await web.post(_hook(token), json={"job": 7})).status_code == 200


async def test_a_delivery_is_on_record_without_credentials(waiting: Waiting, web: httpx.AsyncClient):
    """SIG-13: time, outcome, address, actor and headers; SEC-02: and no token anywhere."""
    token = await waiting.opened()
    await web.post(_hook(token), json={"job": 7}, headers={"X-Job": "9", "X-Api-Key": "geheim", "Referer": token})
    answer = await web.get(f"/api/v1/gates/{waiting.gate().id}", headers=BEARER)
    [delivery] = answer.json()["deliveries"]
    assert (delivery["way"], delivery["address"], delivery["actor"]) == ("hook", "127.0.0.1", None)
    assert ["x-job", "9"] in delivery["headers"]
    assert token not in answer.text
    assert "geheim" not in answer.text


async def test_open_gates_are_listed_without_tokens(waiting: Waiting, web: httpx.AsyncClient):
    """SIG-14: nearest deadline first, page by page."""
    tokens = [
        await waiting.opened(name, due=due)
        for name, due in (("never", None), ("late", timedelta(days=2)), ("soon", timedelta(days=1)))
    ]
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 1}
    while True:
        answer = await web.get("/api/v1/gates", params=params, headers=BEARER)
        seen += [each["name"] for each in answer.json()["gates"]]
        assert not any(token in answer.text for token in tokens)
        if answer.json()["next"] is None:
            break
        params["cursor"] = answer.json()["next"]
    assert seen == ["soon", "late", "never"]
    for wrong in ("nope", waiting.drive.id, "%00", tokens[0]):
        assert (await web.get(f"/api/v1/gates/{wrong}", headers=BEARER)).status_code == 404


async def test_a_body_is_bounded_however_it_comes(engine: Engine, waiting: Waiting):
    """WEB-06: 413 over 1 MiB; what is said of its length is not believed, and no more is read."""
    token = await waiting.opened()
    most = signals.MOST_BODY
    async with served(engine.asgi(auth=TOKEN)) as url, httpx.AsyncClient(base_url=url) as web:

        async def parts(count: int) -> AsyncIterator[bytes]:
            for _ in range(count):
                yield b" " * 65536

        assert (await web.post(_hook(token), content=b" " * (most + 1))).status_code == 413
        assert (await web.post(_hook(token), content=parts(most // 65536 + 1))).status_code == 413
        head = f"POST {_hook(token)} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999\r\n\r\n"
        assert b" 413 " in await raw(url, head.encode())
        fitting = b" " * (most - 10) + b'{"job": 7}'
        assert (await web.post(_hook(token), content=fitting)).status_code == 200


async def test_an_address_that_calls_too_often_is_told_to_wait(engine: Engine, waiting: Waiting):
    """WEB-06: 429 over 100 a second; another address, and the rest of the app, are not concerned."""
    token = await waiting.opened()
    app: Any = engine.asgi(auth=TOKEN)
    app.state.addresses._clock = lambda: 0.0
    async with calling(app) as web, calling(app, client=("10.0.0.9", 1)) as other:
        for _ in range(100):
            assert (await web.post(_hook("nope"))).status_code == 404
        refused = await web.post(_hook(token), json={"job": 7})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert await waiting.states() == []
        assert (await web.get("/health/live")).status_code == 200
        assert (await other.post(_hook(token), json={"job": 7})).status_code == 200


async def test_a_store_that_is_away_is_no_refusal(
    engine: Engine, waiting: Waiting, web: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    """503: whoever sends comes again, and the signal counts then."""
    token = await waiting.opened()

    async def away(*_: object, **__: object) -> Any:
        raise StoreUnavailable("the store cannot be reached")

    with monkeypatch.context() as context:
        context.setattr(signals, "deliver", away)
        answer = await web.post(_hook(token), json={"job": 7})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert json.loads((await web.post(_hook(token), json={"job": 7})).text) == {"duplicate": False}
