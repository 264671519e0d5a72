"""`flowstone inbox`, `approve` and `reject` (APPR-04, APPR-07, APPR-11, APPR-17, CLI-06)."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from flowstone_async._engine.approving.requests import facts_of
from flowstone_async._engine.gates.payloads import Payloads
from flowstone_async._engine.gates.type_names import NOWHERE
from flowstone_async.approvals import Asking, read_approval
from flowstone_async.cli import exit_code
from flowstone_async.redaction import Redactor
from flowstone_async.store.gates import Gate
from tests.contract.builders import Drive, key
from tests.e2e.cli.process import Shell
from tests.e2e.cli.test_signals import using


def asks(dsn: str, *names: str, form: Any = None, item: object = None, **options: Any) -> str:
    """Record requests of a run, and return its id."""

    async def use(drive: Drive) -> str:
        made = [_gate(drive.id, name, form, item, options) for name in names]
        assert await drive.store.gates.open(drive.id, drive.run.fence, made) is not None
        return drive.id

    return using(dsn, use)


def _gate(run_id: str, name: str, form: Any, item: object, options: dict[str, Any]) -> Gate:
    asking = Asking(
        text=f"{name}?", show={"n": 1}, name=name, initial=None, options=read_approval({**options, "form": form})
    )
    return Gate(
        id=request(name),
        run_id=run_id,
        body="body",
        key=f"/{name}#0",
        kind="approval",
        asset=key("base", pipeline="flow"),
        name=name,
        due=timedelta(hours=24),
        facts=facts_of(asking, Payloads(), Redactor(), secret=None, home=NOWHERE, item=item),
    )


def request(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, name))


def test_what_waits_is_listed_and_decided(postgres: Shell, dsn: str) -> None:
    run_id = asks(dsn, "one", "two", roles=["desk"])

    listed = postgres.run("inbox", "flow.py")
    assert listed.code == exit_code.OK
    assert all(each in listed.data for each in (request("one"), request("two"), "one?", "desk"))
    assert len(postgres.run("inbox", "flow.py", "--json", "--limit", "1").data.splitlines()) == 1
    assert "nothing waits" in postgres.run("inbox", "flow.py", "--role", "other").messages

    nobody = postgres.run("approve", "flow.py", request("one"))
    assert (nobody.code, nobody.data) == (exit_code.USAGE, "")
    assert "Add --by" in nobody.messages
    said = postgres.run("approve", "flow.py", request("one"), "--by", "ada", "--reason", "fine")
    assert said.code == exit_code.OK, said.messages
    assert f"approved by ada: run {run_id} goes on" in said.messages
    again = postgres.run("approve", "flow.py", request("one"), "--by", "ada", "--reason", "fine", "--json")
    assert json.loads(again.data)["approved"] is True
    other = postgres.run("reject", "flow.py", request("one"), "--by", "bob")
    assert other.code == exit_code.FAILED
    assert "ada has approved 'one?' already" in other.messages

    no = postgres.run("reject", "flow.py", "base", "--by", "bob", "--reason", "no")
    assert "rejected by bob" in no.messages
    shown = postgres.run("inbox", "flow.py", "--request", request("two"))
    assert "is rejected" in shown.data
    assert "bob" in shown.data
    assert "nothing waits" in postgres.run("inbox", "flow.py").messages


def test_a_name_that_cannot_be_stored_is_wrong_usage(postgres: Shell, dsn: str) -> None:
    """CLI-06: half of a surrogate pair is what bytes of an argument are that are no text."""
    asks(dsn, "one")
    approve, signal = ("approve", "flow.py", request("one"), "--by", "ada"), ("signal", "flow.py", "tok", "1")
    for words in ([*approve, "--by"], [*approve, "--reason"], [*signal, "--by"]):
        wrong = postgres.run(*words, "a\udcff")
        assert (wrong.code, wrong.data) == (exit_code.USAGE, ""), wrong.messages
        assert "it holds half of a surrogate pair" in wrong.messages
    assert "is pending" in postgres.run("inbox", "flow.py", "--request", request("one")).data


def test_a_request_of_an_item_is_listed_with_its_key(postgres: Shell, dsn: str) -> None:
    """APPR-16, APPR-17."""
    asks(dsn, "one", item=("a.mov", 7))
    assert '["a.mov", 7]' in postgres.run("inbox", "flow.py").data
    assert 'item     ["a.mov", 7]' in postgres.run("inbox", "flow.py", "--request", request("one")).data
    assert json.loads(postgres.run("inbox", "flow.py", "--json").data)["item"] == ["a.mov", 7]


def test_a_form_is_filled_from_a_file(postgres: Shell, dsn: str) -> None:
    asks(dsn, "one", form=dict[str, int])
    (postgres.folder / "wrong.json").write_text('{"n": "many"}')
    wrong = postgres.run("approve", "flow.py", request("one"), "--by", "ada", "--form", "@wrong.json")
    assert wrong.code == exit_code.USAGE
    assert "n: Input should be a valid integer" in wrong.messages
    right = postgres.run("approve", "flow.py", request("one"), "--by", "ada", "--form", '{"n": 7}')
    assert right.code == exit_code.OK, right.messages
    found = json.loads(postgres.run("inbox", "flow.py", "--request", request("one"), "--json").data)
    assert (found["state"], found["by"], found["form"]) == ("approved", "ada", {"n": 7})
