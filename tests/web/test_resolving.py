"""Saying over REST how an asset goes on whose code has changed (STEP-10, WEB-02)."""

from __future__ import annotations

import asyncio

import pytest

from tests.engine.test_mismatch import SECRET, Shop
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.waits import in_state
from tests.support.web import client

pytestmark = pytest.mark.not_in("evict", reason="counts the calls of bodies")


async def test_a_mismatch_is_resolved(open_engine: OpenEngine):
    shop = Shop()
    first = await open_engine(shop.version(1, 2), **SECRET)
    run = await first.submit("order")
    await in_state(first, run.id, "waiting")
    await first.__aexit__(None, None, None)
    engine = await open_engine(shop.version(1, 20), **SECRET)
    async with client(engine) as web:
        place = f"/api/v1/runs/{run.id}/resolve"
        order = {"asset": "order", "how": "resume_at"}
        answer = await web.post(place, json=order)
        assert (answer.status_code, answer.json()["code"]) == (404, "GATE_NOT_FOUND"), (
            "nothing has called the body again"
        )
        await engine.signal(shop.tokens[0], "go")
        while not (gates := await engine.gates.waiting(kind="mismatch")):
            await engine._live().store.changed(f"run:{run.id}", within=0.01)
        assert (await web.post(place, json={**order, "how": "again"})).status_code == 422
        answer = await web.post(place, json={**order, "asset": "other"})
        assert (answer.status_code, answer.json()["code"]) == (404, "GATE_NOT_FOUND")
        answer = await web.post(place, json=order)
        assert (answer.status_code, answer.json()["id"]) == (202, run.id)
        sent = await engine.gates.deliveries(gates[0].id)
        assert [(each.way, each.actor, each.state) for each in sent] == [("rest", "token", "accepted")]
        answer = await web.post(place, json={**order, "how": "discard"})
        assert (answer.status_code, answer.json()["code"]) == (409, "ALREADY_SIGNALLED")
        await engine.signal(await _token(shop), "on")
        assert await soon((await engine.find(run.id)).result()) == "paid 1 paid 20 on packed"


async def _token(shop: Shop) -> str:
    """Return that of the gate which the body makes once it is called again: behind the call, it is another one."""
    async with asyncio.timeout(20):
        while len(set(shop.tokens)) < 2:
            await asyncio.sleep(0)
    return shop.tokens[-1]
