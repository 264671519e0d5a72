"""`flowstone serve`: an engine and its web side in a process, or in several on one store (WEB-01, WEB-07)."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.cli.process import Running, Shell
from tests.e2e.cli.workers import start
from tests.e2e.commands import CHAIN
from tests.e2e.gates import Gates
from tests.support.web import Sse, sse

TOKEN = "a-token-for-the-tests"


ENV = {"TEST_TOKEN": TOKEN, "TEST_SECRET": "s" * 32}


def _serve(shell: Shell, *words: str) -> Running:
    secret = ("--secret", "$TEST_SECRET") if (shell.store or "").startswith("postgres") else ()
    return shell.start("serve", *words, "--port", "0", "--token", "$TEST_TOKEN", *secret, env=ENV)


def _ready(running: Running) -> dict[str, Any]:
    return json.loads(running.wait_for_event("serve.ready"))


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_it_serves_and_executes_until_it_is_told_to_stop(memory: Shell, number: signal.Signals, code: int):
    with _serve(memory, "flow.py", "--root-path", "/flow") as running:
        ready = _ready(running)
        async with _client(ready["url"]) as web:
            answer = await web.post("/api/v1/runs", params={"wait": "30s"}, json={"targets": ["double"]})
            assert answer.json()["result"]["value"] == 2
            assert answer.headers["location"].startswith("/flow/api/v1/runs/")
            assert (await web.get("/api/v1/runs", headers={"Authorization": ""})).status_code == 401
        running.signal(number)
        done = running.end()
    assert (done.code, done.data) == (code, ""), done
    assert done.messages.endswith("INFO stopped\n")
    assert TOKEN not in done.messages


async def test_a_token_is_made_and_told_once(memory: Shell):
    with memory.start("serve", "flow.py", "--port", "0") as running:
        told = running.wait_for("bearer token").split()[-1]
        url = _ready(running)["url"]
        assert url.startswith("http://127.0.0.1:")
        async with httpx.AsyncClient(base_url=url) as web:
            assert (await web.get("/api/v1/runs")).status_code == 401
            assert (await web.get("/api/v1/runs", headers={"Authorization": f"Bearer {told}"})).status_code == 200
        running.signal(signal.SIGTERM)
        assert running.end().messages.count(told) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--host", "0.0.0.0"), "there is no --token"),
        (("--host", "::"), "there is no --token"),
        (("--host", "flow.example.org"), "there is no --token"),
        (("--token", "written-out-for-everybody"), "written out"),
        (("--token", "$NOT_SET_AT_ALL"), "NOT_SET_AT_ALL"),
        (("--port", "65536"), "no such port"),
        (("--port", "-1"), "whole number"),
        (("--root-path", "flow"), "no path"),
        (("--grace", "soon"), "--grace"),
        (("--store", "postgresql://db.example.org/prod"), "--secret"),
    ],
)
def test_what_cannot_be_served_is_refused(memory: Shell, words: tuple[str, ...], message: str):
    """Before anything is opened; anybody who can reach it must be let in on purpose."""
    done = memory.run("serve", "flow.py", *words)
    assert (done.code, done.data) == (2, "")
    assert message in done.messages


def test_a_token_that_is_too_short_is_refused(memory: Shell):
    done = memory.run("serve", "flow.py", "--token", "$TEST_TOKEN", env={"TEST_TOKEN": "short"})
    assert done.code == 2
    assert "16 or more" in done.messages


def test_a_port_that_is_taken_is_told(memory: Shell):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = memory.run("serve", "flow.py", "--port", str(taken.getsockname()[1]))
    assert done.code == 2
    assert "cannot listen" in done.messages


async def test_whoever_waits_does_not_hold_it_up(memory: Shell):
    """A stream ends as a stream does, and a wait for a run with 202: both can be taken up again."""
    with _serve(memory, "flow.py", "--slots", "0") as running:
        async with _client(_ready(running)["url"]) as web:
            order = web.post("/api/v1/runs", params={"wait": "5m"}, json={"targets": ["double"]})
            waiting = asyncio.create_task(order)
            while not (runs := (await web.get("/api/v1/runs")).json()["runs"]):
                pass
            async with web.stream("GET", f"/api/v1/runs/{runs[0]['id']}/events") as response:
                assert response.status_code == 200
                running.signal(signal.SIGTERM)
                assert [each async for each in sse(response)] == []
            answer = await waiting
            assert (answer.status_code, answer.json()["state"]) == (202, "queued")
            done = await asyncio.to_thread(running.end)
    assert done.code == 0
    assert "ASGI" not in done.messages


async def test_several_processes_serve_one_store(folder: Path, dsn: str):
    """WEB-01, WEB-07: what one is asked the other tells; a reader whose server is killed goes on at the other one."""
    shell = Shell(folder, dsn)
    words = (str(CHAIN), "--port", "0", "--token", "$TEST_TOKEN", "--secret", "$TEST_SECRET")
    with (
        Gates(folder) as gates,
        shell.start("serve", *words, "--slots", "0", env=ENV) as first,
        shell.start("serve", *words, "--slots", "0", env=ENV) as second,
        start(shell, str(CHAIN)) as worker,
    ):
        gates.hold("second")
        urls = [_ready(each)["url"] for each in (first, second)]
        async with _client(urls[0]) as one, _client(urls[1]) as two:
            run = (await two.post("/api/v1/runs", json={"targets": ["third"]})).json()
            path = f"/api/v1/runs/{run['id']}/events"
            seen: list[Sse] = []
            with pytest.raises(httpx.RemoteProtocolError):
                async with one.stream("GET", path) as response:
                    async for each in sse(response):
                        seen.append(each)
                        if each.data.get("asset") == "second":
                            first.signal(signal.SIGKILL)
            assert first.end().code == -signal.SIGKILL
            (await asyncio.to_thread(gates.reached)).go()
            async with two.stream("GET", path, headers={"Last-Event-ID": seen[-1].id}) as response:
                seen += [each async for each in sse(response)]
        assert [int(each.id) for each in seen] == list(range(1, len(seen) + 1))
        assert seen[-1].type == "run.finished"
        for each in (second, worker):
            each.signal(signal.SIGTERM)
            assert each.end().code == 0
