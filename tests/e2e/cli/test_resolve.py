"""`flowstone resolve`: how an asset goes on whose code has changed (STEP-10, CLI-06)."""

from __future__ import annotations

import json

from flowstone_async._engine.waits.mismatches import mismatch_facts
from flowstone_async.cli import exit_code
from flowstone_async.errors import ReplayMismatch
from tests.e2e.cli.process import Shell
from tests.e2e.cli.test_signals import waits


def test_a_mismatch_is_listed_and_resolved(postgres: Shell, dsn: str) -> None:
    """STEP-10: once; the same again changes nothing, another answer is refused, and so is what is not there."""
    facts = mismatch_facts(ReplayMismatch("the code has changed", asset="base"))
    run_id = waits(dsn, "one#0", kind="mismatch", facts=facts, due=None)

    listed = postgres.run("gates", "flow.py", "base", "--kind", "mismatch", "--json")
    assert [json.loads(line)["run_id"] for line in listed.data.splitlines()] == [run_id]

    for words, told in (
        ((run_id, "base"), "how it goes on is not said"),
        ((run_id, "bace", "--how", "restart"), "Did you mean"),
        ((run_id, "base", "--how", "resume-at"), "resume_at"),
        ((run_id[:-1], "base", "--how", "restart"), "no run"),
        ((run_id, "double", "--how", "restart"), "These wait for it in that run: base"),
        ((run_id,), "ASSET is missing"),
    ):
        refused = postgres.run("resolve", "flow.py", *words)
        assert refused.code != exit_code.OK
        assert told in refused.messages, refused.messages
    for words in ((), ("--json",)):
        done = postgres.run("resolve", "flow.py", run_id, "base", "--how", "resume_at", "--by", "ada", *words)
        assert (done.code, bool(done.data)) == (exit_code.OK, bool(words)), done.messages
    other = postgres.run("resolve", "flow.py", run_id, "base", "--how", "discard")
    assert other.code == exit_code.FAILED
    assert "was resolved already, with 'resume_at'" in other.messages
