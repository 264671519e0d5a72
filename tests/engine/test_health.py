"""What an engine can do, and how it is: CFG-07, RES-06."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flowstone_async import Engine, LeaseLost, Pipeline, io
from flowstone_async._engine import health as module
from tests.postgres.wire import LossyProxy
from tests.support.engines import OpenEngine, PostgresEngines, SharedEngines
from tests.support.gate import soon


def _pipeline(health: Any = None) -> Pipeline:
    pipe = Pipeline("health")

    @pipe.resource(health=health)
    async def db() -> AsyncIterator[float]:
        yield 1.0

    @pipe.resource
    async def cache() -> str:
        return "cache"

    @pipe.asset
    async def uses_db(db: float) -> int:
        return 1

    @pipe.asset
    async def uses_cache(cache: str) -> int:
        return 1

    return pipe


async def test_a_healthy_engine(open_engine: OpenEngine):
    """CFG-07: each part with how long it took; what is disabled does not make it unhealthy."""
    engine = await open_engine(_pipeline())
    health = await engine.health()
    assert health.ok
    states = {name: part.state for name, part in health.parts.items()}
    assert states == {
        "store": "ok",
        "queue": "ok",
        "workers": "ok",
        "schedules": "disabled",
    }
    assert health.parts["store"].detail
    assert all(part.seconds >= 0 for part in health.parts.values())


async def test_queue_and_workers_are_counted(engines: SharedEngines):
    """CFG-07: what waits and what works; an engine that only looks says the same, and that it takes no part."""
    one, two = await engines.open(_pipeline()), await engines.open(_pipeline(), slots=0)
    await one.submit("uses_db", at=datetime.now(UTC) + timedelta(hours=1))

    parts = (await one.health()).parts

    assert parts["queue"].detail == "0 queued, 1 for later; 0 running"
    assert (await two.health()).parts["queue"].detail.startswith("this engine claims no queued runs; 0 queued, 1 for")
    assert parts["workers"].detail.endswith("; 2 workers with a lease")
    async with Engine(_pipeline(), **engines._store({})).looking() as session:
        found = (await module.health(session)).parts
    assert (found["queue"].state, found["workers"].state) == ("disabled", "disabled")
    assert found["queue"].detail.endswith("0 queued, 1 for later; 0 running")
    assert found["workers"].detail == "no lease; 2 workers with a lease"


async def test_resources_are_listed(open_engine: OpenEngine):
    """RES-06: not opened, then healthy; asking opens nothing."""
    engine = await open_engine(_pipeline())
    assert {name: each.detail for name, each in (await engine.health()).resources.items()} == {
        "db": "not opened",
        "cache": "not opened",
    }
    await engine.run("uses_db")
    health = await engine.health()
    assert {name: each.state for name, each in health.resources.items()} == {"db": "ok", "cache": "disabled"}
    assert health.ok


async def _fine(db: float) -> None:
    assert db == 1.0


def _raising(db: float) -> bool:
    raise ConnectionError("password=hunter2 was refused")


async def _endless(db: float) -> bool:
    await asyncio.Event().wait()
    return True


@pytest.mark.parametrize(
    ("answer", "state", "detail"),
    [
        (_fine, "ok", ""),
        (lambda db: True, "ok", ""),
        (lambda db: False, "error", "it says it is unhealthy"),
        (lambda db: "3 of 5 shards", "error", "3 of 5 shards"),
        (_raising, "error", "ConnectionError: password=*** was refused"),
        (_endless, "error", "no answer within 0.05 s"),
        (lambda db: 1, "error", "1"),
    ],
)
async def test_what_a_health_function_answers(monkeypatch: pytest.MonkeyPatch, answer: Any, state: str, detail: str):
    """RES-06: None and True are healthy; False, text, an exception or no answer in time are not, with that reason."""
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.05)
    async with Engine(_pipeline(answer), store="memory") as engine:
        await engine.run("uses_db")
        health = await soon(engine.health())
    found = health.resources["db"]
    assert (found.state, found.detail) == (state, detail)
    assert health.ok is (state == "ok")


async def test_health_answers_though_the_store_hangs(engines: SharedEngines, monkeypatch: pytest.MonkeyPatch):
    """CFG-07 (durable): within its time, saying which part does not answer; and again once it does."""
    if not isinstance(engines, PostgresEngines):
        return
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.5)
    async with LossyProxy(engines.dsn) as proxy, Engine(_pipeline(), store=proxy.dsn) as engine:
        assert (await engine.health()).ok
        proxy.flowing.clear()
        for _ in range(3):
            begun = time.monotonic()
            health = await soon(engine.health())
            assert time.monotonic() - begun < 3
            assert not health.ok
            assert (health.parts["store"].state, health.parts["store"].detail) == ("error", "no answer within 0.5 s")
        both = await soon(asyncio.gather(*(engine.health() for _ in range(20))))
        assert not any(each.ok for each in both)
        proxy.flowing.set()
        monkeypatch.setattr(module, "ANSWER_WITHIN", 5.0)
        assert (await soon(engine.health())).parts["store"].state == "ok"


async def test_an_engine_is_unhealthy_from_the_loss_of_its_lease_until_it_has_another(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
):
    """CFG-07: meanwhile it runs nothing, and can still submit."""
    engine = await open_engine(_pipeline())
    store: Any = engine._store
    rejoin, may = store.rejoin, asyncio.Event()

    async def rejoin_later(*arguments: Any, **options: Any) -> None:
        await may.wait()
        await rejoin(*arguments, **options)

    monkeypatch.setattr(store, "rejoin", rejoin_later)
    expired = store.expire(engine._live().services.worker)
    if inspect.isawaitable(expired):
        await expired
    while (health := await engine.health()).parts["workers"].state != "error":
        await asyncio.sleep(0)
    assert not health.ok
    assert "lease" in health.parts["workers"].detail
    with pytest.raises(LeaseLost, match="has lost its lease"):
        await engine.run("uses_db")
    run = await engine.submit("uses_db")

    may.set()

    assert await soon(run) == 1
    assert (await engine.health()).parts["workers"].state == "ok"


async def test_capabilities_are_told_from_the_configuration(engines: SharedEngines, tmp_path: Path):
    """CFG-07: durable or not, managers by name, threads, processes, extras; nothing is asked for it."""
    engine = await engines.open(_pipeline(), io={"lake": io.Files(tmp_path)})
    can = engine.capabilities()
    assert can.durable is engines.durable
    assert "lake" in can.io
    assert (can.background, can.thread, can.process, can.lineage) == (True, True, True, True)
    assert (can.dask, can.approvals, can.scheduling) == (False, False, False)
    assert set(can.extras) == {"embedded", "aws", "parquet", "ui", "otel", "ai", "dask"}
    assert can.extras["ui"] is True
    with pytest.raises(AttributeError):
        can.durable = False  # type: ignore[misc]
