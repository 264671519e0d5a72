"""`flowstone tokens`: who comes into the web side with a token of their own (SEC-03)."""

from __future__ import annotations

import json
import signal

import httpx

from flowstone_async.cli import exit_code
from tests.e2e.cli.process import Shell

ENV = {"TEST_SECRET": "s" * 32}


def create(shell: Shell, *words: str) -> str:
    made = shell.run("tokens", "create", *words)
    assert made.code == exit_code.OK, made
    return made.data.strip()


async def test_a_token_that_is_made_lets_one_in_until_it_is_revoked(postgres: Shell) -> None:
    """The server needs no --token, and is not told of any change."""
    token = create(postgres, "grafana", "--role", "viewer")
    secret = ("--secret", "$TEST_SECRET")
    with postgres.start("serve", "flow.py", "--port", "0", "--slots", "0", *secret, env=ENV) as running:
        url = json.loads(running.wait_for_event("serve.ready"))["url"]
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}) as web:
            assert (await web.get("/api/v1/runs")).status_code == 200
            assert (await web.post("/api/v1/runs", json={"targets": ["double"]})).status_code == 403
            [listed] = map(json.loads, postgres.run("tokens", "ls", "--json").data.splitlines())
            assert postgres.run("tokens", "revoke", listed["id"]).code == exit_code.OK
            assert (await web.get("/api/v1/runs")).status_code == 401
        running.signal(signal.SIGTERM)
        assert token not in running.end().messages


def test_it_is_printed_alone_and_once(postgres: Shell) -> None:
    """So that $(flowstone tokens create ...) is the token; what is said beside does not have it."""
    made = postgres.run("tokens", "create", "ci", "--role", "operator,release", "--expires", "12h")
    token = made.data.strip()
    assert made.data == f"{token}\n"
    assert token.startswith("fstk_")
    assert "of ci expires on " in made.messages
    assert token not in made.messages
    told = json.loads(postgres.run("tokens", "create", "bot", "--role", "admin", "--expires", "never", "--json").data)
    assert (told["name"], told["roles"], told["expires_at"]) == ("bot", ["admin"], None)
    assert told["token"].startswith("fstk_")
    listed = postgres.run("tokens", "ls")
    lines = [" ".join(line.split()) for line in listed.data.splitlines()]
    assert lines[0].startswith("id name roles made used expires")
    assert f"{told['id']} bot admin" in lines[1]
    assert " ci operator, release " in lines[2]
    assert token not in listed.data
    assert postgres.run("tokens", "revoke", told["id"]).messages.strip() == (
        f"token {told['id']} of bot lets nobody in any more"
    )
    assert "bot" not in postgres.run("tokens", "ls").data
    assert "revoked" in postgres.run("tokens", "ls", "--all").data


def test_what_is_wrong_is_told(postgres: Shell, memory: Shell) -> None:
    for words, message in (
        (("create", "ci"), "--role"),
        (("create", "ci", "--role", "viewr"), "viewer"),
        (("create", " ", "--role", "viewer"), "name="),
        (("create", "ci", "--role", "viewer", "--expires", "soon"), "--expires"),
        (("revoke", "nope"), "tokens ls"),
    ):
        refused = postgres.run("tokens", *words)
        assert refused.code != exit_code.OK, words
        assert message in refused.messages
        assert refused.data == ""
    assert "no tokens" in postgres.run("tokens", "ls").messages
    assert "memory" in memory.run("tokens", "ls").messages


def test_a_server_that_others_reach_needs_a_token_of_some_kind(postgres: Shell, memory: Shell) -> None:
    """Those of a store will do; a store in memory can have none before it is served. The address is nobody's."""
    reached = ("serve", "flow.py", "--host", "192.0.2.1", "--port", "0")
    assert "there is no --token" in memory.run(*reached).messages
    assert "cannot listen on 192.0.2.1" in postgres.run(*reached, "--secret", "$TEST_SECRET", env=ENV).messages
