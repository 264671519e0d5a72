"""Alive and ready, with the reasons why not; asked from another thread (JOB-07, CFG-07)."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread
import pytest

from flowstone_async import ConfigError, Pipeline
from flowstone_async._engine.health import Health, PartHealth
from flowstone_async.worker.health_server import HealthServer
from flowstone_async.worker.probes import Probes
from flowstone_async.worker.pulse import Pulse

FINE = PartHealth(state="ok", detail="store postgres")


def health(**parts: PartHealth) -> Health:
    found = {"store": FINE, "queue": FINE, "workers": FINE, **parts}
    return Health(ok=True, parts=found, resources={})


def answering(answer: Health) -> Callable[[], Awaitable[Health]]:
    async def ask() -> Health:
        return answer

    return ask


def probes(ask: Callable[[], Awaitable[Health]], *, block_limit: float = 60.0, pipe: Pipeline | None = None) -> Probes:
    graphs = [] if pipe is None else [pipe.compiled()]
    made = Probes(ask, Pulse(graphs), block_limit=block_limit, hide=lambda text: text.replace("hunter2", "***"))
    made.unready = None
    return made


def get(server: HealthServer, what: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"{server.url}/health/{what}", timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def asked(server: HealthServer, what: str) -> tuple[int, Any]:
    return await anyio.to_thread.run_sync(get, server, what)


async def test_a_worker_that_is_well_is_alive_and_ready() -> None:
    with HealthServer("127.0.0.1", 0, probes(answering(health()))) as server:
        assert await asked(server, "live") == (200, {"ok": True, "reasons": []})
        status, body = await asked(server, "ready")
    assert (status, body["ok"], body["reasons"]) == (200, True, [])
    assert body["parts"]["store"] == {"state": "ok", "seconds": 0.0, "detail": "store postgres"}
    assert (set(body["parts"]), body["resources"]) == ({"store", "queue", "workers"}, {})


@pytest.mark.parametrize(("part", "ready"), [("store", 503), ("workers", 503), ("queue", 200), ("schedules", 200)])
async def test_it_is_ready_only_with_a_store_and_a_lease(part: str, ready: int) -> None:
    ill = health(**{part: PartHealth(state="error", detail="password hunter2 was refused")})
    with HealthServer("127.0.0.1", 0, probes(answering(ill))) as server:
        assert (await asked(server, "live"))[0] == 200
        status, body = await asked(server, "ready")
    assert status == ready
    assert body["reasons"] == ([] if ready == 200 else [f"{part}: password *** was refused"])
    assert "hunter2" not in json.dumps(body)


async def test_it_is_not_ready_before_it_is_opened_and_once_it_is_left() -> None:
    async def never() -> Health:
        raise AssertionError("the engine is not to be asked")

    made = probes(never)
    for reason in ("the engine is being opened", "the worker is being stopped"):
        made.unready = reason
        with HealthServer("127.0.0.1", 0, made) as server:
            assert (await asked(server, "live"))[0] == 200
            assert await asked(server, "ready") == (503, {"ok": False, "reasons": [reason]})


async def test_an_engine_that_cannot_be_asked_is_not_ready() -> None:
    async def broken() -> Health:
        raise ConfigError("the engine is not open")

    with HealthServer("127.0.0.1", 0, probes(broken)) as server:
        assert (await asked(server, "ready"))[1]["reasons"] == ["the engine did not tell how it is"]


async def test_the_engine_is_asked_once_for_all_who_want_to_know() -> None:
    calls = 0

    async def ask() -> Health:
        nonlocal calls
        calls += 1
        return health()

    with HealthServer("127.0.0.1", 0, probes(ask)) as server:
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(asked(server, "ready"))
    assert calls < 10


async def test_a_loop_that_is_held_is_told_with_who_holds_it() -> None:
    """Both answer while the loop is held: ready at once, live once it has lasted too long."""
    answers: dict[str, tuple[int, Any]] = {}
    pipe = Pipeline("busy")
    done = threading.Event()

    @pipe.asset
    async def holds() -> None:
        done.wait(20)

    def probe(server: HealthServer) -> None:
        try:
            while get(server, "live")[0] == 200:
                pass
            answers.update({what: get(server, what) for what in ("live", "ready")})
        finally:
            done.set()

    with HealthServer("127.0.0.1", 0, probes(answering(health()), block_limit=0.3, pipe=pipe)) as server:
        asking = threading.Thread(target=probe, args=(server,))
        asking.start()
        await holds()
        asking.join(20)
        while (await asked(server, "ready"))[0] != 200:
            pass
    for status, body in answers.values():
        assert status == 503
        [reason] = body["reasons"]
        assert "the event loop has been held for " in reason
        assert "asset 'holds' (line " in reason
        assert "threading.py" in reason


async def test_an_address_that_cannot_be_listened_on_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: .*in use") as refused:
            HealthServer("127.0.0.1", port, probes(answering(health())))
    assert "--health-port" in (refused.value.hint or "")
    with pytest.raises(ConfigError, match="cannot listen on nowhere.invalid:0"):
        HealthServer("nowhere.invalid", 0, probes(answering(health())))


async def test_no_thread_is_left() -> None:
    with HealthServer("127.0.0.1", 0, probes(answering(health()))) as server:
        assert (await asked(server, "live"))[0] == 200
    assert not [thread for thread in threading.enumerate() if thread.name == "flowstone health"]
