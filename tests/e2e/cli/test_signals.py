"""`flowstone signal` and `flowstone gates`: what waits, looked at and signalled (SIG-08, SIG-10, SIG-12..14, CLI-06)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest

from flowstone_async import Engine, Pipeline
from flowstone_async._engine.gates.payloads import Payloads
from flowstone_async._engine.tokens import chosen, token_of
from flowstone_async.cli import exit_code
from flowstone_async.store.gates import Gate
from tests.contract.builders import Drive, key, replace, worker
from tests.e2e.cli.process import Done, Shell

SECRET = "s" * 40
ENVIRONMENT = {"FLOWSTONE_SECRET": SECRET}
JOB = "from dataclasses import dataclass\n\n@dataclass\nclass Job:\n    n: int\n"
FACTS = '{"type": "flow_jobs:Job", "home": "flow", "key": ""}'


def gate(run_id: str, name: str, **changes: Any) -> Gate:
    made = Gate(
        id=str(uuid5(NAMESPACE_URL, name)),
        run_id=run_id,
        body="body",
        key=f"/{name}#0",
        kind="signal",
        asset=key("base", pipeline="flow"),
        name=name,
        due=timedelta(hours=1),
        facts=Payloads().gate_facts(int, secret=SECRET.encode()),
    )
    return made._replace(**changes)


def token(name: str) -> str:
    return token_of(SECRET.encode(), str(uuid5(NAMESPACE_URL, name)))


def using(dsn: str, use: Callable[[Drive], Awaitable[Any]]) -> Any:
    """Do something with a run that waits."""

    async def used() -> Any:
        async with Engine(Pipeline("flow"), store=dsn, slots=0) as engine, engine._session() as session:
            owner = replace(worker(), id=session.services.worker)
            return await use(await Drive.start(session.services.store, owner, pipeline="flow"))

    return asyncio.run(used())


def waits(dsn: str, *names: str, **changes: Any) -> str:
    """Record gates of a run, and return its id."""

    async def use(drive: Drive) -> str:
        made = [gate(drive.id, name, **changes) for name in names]
        assert await drive.store.gates.open(drive.id, drive.run.fence, made) is not None
        return drive.id

    return using(dsn, use)


def signal(shell: Shell, *words: str) -> Done:
    return shell.run("signal", "flow.py", *words, "--secret", "$FLOWSTONE_SECRET", env=ENVIRONMENT)


def test_a_signal_is_sent(postgres: Shell, dsn: str) -> None:
    """SIG-08: once; the same again is told, another one is refused."""
    run_id = waits(dsn, "one")

    sent = signal(postgres, token("one"), "5", "--id", "a", "--by", "ada")
    assert (sent.code, sent.data) == (exit_code.OK, "")
    assert f"signalled: base of run {run_id}" in sent.messages
    again = signal(postgres, token("one"), "5", "--json")
    assert again.code == exit_code.OK
    found = json.loads(again.data)
    assert (found["asset"], found["run_id"], found["duplicate"]) == ("base", run_id, True)
    assert "nothing has changed" in signal(postgres, token("one"), "6", "--id", "a").messages
    other = signal(postgres, token("one"), "6")
    assert (other.code, other.data) == (exit_code.FAILED, "")
    assert "has had a signal, with another payload" in other.messages


def test_a_payload_may_be_a_file_and_of_a_type_that_is_imported(postgres: Shell, dsn: str) -> None:
    """SIG-12: one that does not fit is told with its fields, and kept."""
    waits(dsn, "model", facts=FACTS)
    (postgres.folder / "flow_jobs.py").write_text(JOB)
    (postgres.folder / "wrong.json").write_text('{"n": "many"}')
    (postgres.folder / "payload.json").write_text('{"n": 7}')

    wrong = signal(postgres, token("model"), "@wrong.json")
    assert (wrong.code, wrong.data) == (exit_code.USAGE, "")
    assert "n: Input should be a valid integer" in wrong.messages
    assert signal(postgres, token("model"), "@payload.json").code == exit_code.OK

    gate_id = str(uuid5(NAMESPACE_URL, "model"))
    shown = postgres.run("gates", "flow.py", "--gate", gate_id)
    assert "signal model is signalled" in shown.data
    assert '{"n": "many"}' in shown.data
    data = json.loads(postgres.run("gates", "flow.py", "--gate", gate_id, "--json").data)
    assert [each["state"] for each in data["deliveries"]] == ["accepted", "invalid"]
    assert token("model") not in json.dumps(data)


SCRIPT = """
from pydantic import BaseModel
from flowstone_async import Pipeline

pipe = Pipeline("flow")

class Finished(BaseModel):
    n: int

@pipe.asset
async def base() -> int:
    return 1
"""


def test_a_type_of_a_script_that_made_the_gate_is_found_where_the_script_is_imported(postgres: Shell, dsn: str) -> None:
    """SIG-12: it was `__main__` there."""
    waits(dsn, "script", facts='{"type": "__main__:Finished", "home": "__main__", "key": ""}')
    (postgres.folder / "script.py").write_text(SCRIPT)
    words = (token("script"), '{"n": "7"}', "--secret", "$FLOWSTONE_SECRET")

    elsewhere = postgres.run("signal", "flow.py", *words, env=ENVIRONMENT)
    assert (elsewhere.code, elsewhere.data) == (exit_code.USAGE, "")
    assert "there is no type __main__:Finished" in elsewhere.messages
    assert postgres.run("signal", "script.py", *words, env=ENVIRONMENT).code == exit_code.OK


def test_a_token_that_the_other_side_chose_needs_no_secret(postgres: Shell, dsn: str) -> None:
    """SIG-11: named behind a target, it may look like one."""
    waits(dsn, "chosen", token=chosen("task:7/é"))

    sent = postgres.run("signal", "flow.py", "task:7/é", "5")
    assert (sent.code, sent.data) == (exit_code.OK, "")
    early = postgres.run("signal", "flow.py", "task 8")
    assert (early.code, early.data) == (exit_code.OK, "")
    assert "kept for a gate that is not on record yet" in early.messages


def test_gates_are_listed(postgres: Shell, dsn: str) -> None:
    """SIG-14: the nearest deadline first, without tokens."""
    nothing = postgres.run("gates", "flow.py")
    assert (nothing.code, nothing.data) == (exit_code.OK, "")
    assert "nothing waits" in nothing.messages
    run_id = waits(dsn, "one", "two")
    waits(dsn, "never", due=None, asset=key("days", "d:2025-01-01", pipeline="flow"))
    waits(dsn, "slept", kind="sleep")

    listed = postgres.run("gates", "flow.py")
    assert listed.code == exit_code.OK
    head, *rows = [line.split() for line in listed.data.splitlines()]
    assert head == ["gate", "kind", "asset", "partition", "name", "opened", "due", "run"]
    assert {row[-1] for row in rows if row[1] == "signal" and row[2] == "base"} == {run_id}
    assert rows[-1][2:5] == ["days", "2025-01-01", "never"]
    found = [
        json.loads(line) for line in postgres.run("gates", "flow.py", "--json", "--kind", "signal").data.splitlines()
    ]
    assert {each["name"] for each in found} == {"one", "two", "never"}
    assert len(postgres.run("gates", "flow.py", "base", "--json", "--limit", "2").data.splitlines()) == 2
    assert token("one") not in listed.data


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["signal", "flow.py"], exit_code.USAGE, "TOKEN is missing"),
        (["signal", "flow.py", "a", "1", "2"], exit_code.USAGE, "'2' is one word too many"),
        (["signal", "flow.py", "a", "{"], exit_code.USAGE, "PAYLOAD is no JSON"),
        (["signal", "flow.py", "a", "@none.json"], exit_code.USAGE, "@none.json"),
        (["signal", "flow.py", "a", "@flow.py"], exit_code.USAGE, "@flow.py is no JSON"),
        (["signal", "flow.py", "a", "--id", ""], exit_code.USAGE, "id=''"),
        (["signal", "flow.py", "a", "--secret", "short"], exit_code.USAGE, "is written out"),
        (["signal", "flow.py", "a", "--secret", "$HOME"], exit_code.USAGE, "32 or more"),
        (["signal", "flow.py", token("one")], exit_code.USAGE, "no secret"),
        (["signal", "flow.py", token("one")[:-1]], exit_code.USAGE, "no secret"),
        (["signal", "flow.py", "a", "--store", "memory"], exit_code.USAGE, "a memory store ends"),
        (["gates", "flow.py", "none"], exit_code.USAGE, "none"),
        (["gates", "flow.py", "--gate", "none"], exit_code.USAGE, "no gate 'none'"),
    ],
)
def test_wrong_usage_shows_the_way_out(postgres: Shell, words: list[str], code: int, message: str) -> None:
    done = postgres.run(*words)
    assert (done.code, done.data) == (code, "")
    assert message in done.messages
    assert token("one") not in done.messages


def test_a_token_of_another_secret_is_refused(postgres: Shell) -> None:
    forged = token_of(b"o" * 32, str(uuid5(NAMESPACE_URL, "one")))
    done = signal(postgres, forged, "5")
    assert (done.code, done.data) == (exit_code.USAGE, "")
    assert "not made with this engine's secret" in done.messages
