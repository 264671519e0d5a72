"""Ready-made notifiers (APPR-13), against a real server on loopback."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typing_extensions import override

from flowstone_async import ApprovalRequested, ConfigError, FlowstoneError, notify

REQUESTED = ApprovalRequested(
    id="7",
    text="Deploy?",
    show={"sha": "x"},
    pipeline="release",
    asset="approve",
    partition=None,
    run_id="r",
    name="approve",
    roles=("desk",),
    schema=None,
    initial=None,
    opened_at=datetime(2026, 1, 1, tzinfo=UTC),
    due=datetime(2026, 1, 2, tzinfo=UTC),
)


class Listening(ThreadingHTTPServer):
    """What was sent, and what is answered."""

    got: list[tuple[dict[str, str], Any]]
    status = 200
    answer = b'{"ok": true}'


class Handler(BaseHTTPRequestHandler):
    server: Listening  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Listening]:
    with Listening(("127.0.0.1", 0), Handler) as made:
        made.got = []
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def address(server: Listening) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/hook/s3cret"


async def test_a_webhook_gets_the_request(server: Listening):
    await notify.webhook(address(server), headers={"X-From": "us"})(REQUESTED)
    [(headers, body)] = server.got
    assert headers["x-from"] == "us"
    assert (body["id"], body["text"], body["show"], body["roles"]) == ("7", "Deploy?", {"sha": "x"}, ["desk"])
    assert body["due"].startswith("2026-01-02")


async def test_a_failure_says_who_and_not_where(server: Listening):
    server.status = 500
    with pytest.raises(FlowstoneError, match="127.0.0.1 answered with status 500") as caught:
        await notify.webhook(address(server))(REQUESTED)
    assert "s3cret" not in str(caught.value)


async def test_nobody_is_there(server: Listening):
    gone = address(server)
    server.server_close()
    with pytest.raises(FlowstoneError, match="cannot be reached"):
        await notify.webhook(gone)(REQUESTED)


async def test_slack(server: Listening, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SLACK_BOT_TOKEN", raising=False)
    tell = notify.slack("#deploys", url=address(server))
    with pytest.raises(ConfigError, match="no token"):
        await tell(REQUESTED)
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-1")
    await tell(REQUESTED)
    [(headers, body)] = server.got
    assert headers["authorization"] == "Bearer xoxb-1"
    assert body["channel"] == "#deploys"
    assert body["text"].splitlines()[:2] == ["Deploy?", "release.approve, request 7"]
    server.answer = b'{"ok": false, "error": "not_in_channel"}'
    with pytest.raises(FlowstoneError, match="not_in_channel"):
        await tell(REQUESTED)


async def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match="not here") as caught:
        await notify.apprise("json://localhost")(REQUESTED)
    assert caught.value.hint is not None
    assert "flowstone_async[notify]" in caught.value.hint


@pytest.mark.parametrize("url", ["", "ftp://x", "no address", None])
def test_what_is_no_address_is_refused(url: Any):
    with pytest.raises(ConfigError):
        notify.webhook(url)
    with pytest.raises(ConfigError):
        notify.slack("")
    with pytest.raises(ConfigError):
        notify.apprise()
