"""Ctrl-C: the first cancels cleanly and says how to go on, the second ends at once (CLI-05)."""

from __future__ import annotations

import json
import signal

import pytest

from tests.e2e.cli.process import Shell


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_cancels_cleanly_and_says_how_to_go_on(postgres: Shell, number: signal.Signals) -> None:
    with postgres.start("run", "flow.py", "endless", "--param", "n=7") as running:
        running.wait_for("BEGUN")
        running.signal(number)
        done = running.end()
    assert done.code == 130
    said = done.messages.splitlines()
    what = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert said.index(f"cancelling; {what} again ends at once") < said.index("CLEANED UP")
    assert said[-2] == "interrupted; to go on, run the same command again:"
    assert said[-1].startswith("  flowstone run flow.py endless --param n=7 --store 'postgresql://")
    assert json.loads(done.data.splitlines()[-1])["state"] == "cancelled"
    assert "cancelled" in postgres.run("why", "flow.py", "endless").data
    assert json.loads(postgres.run("get", "flow.py", "base").data) == 7, "what was committed is kept"


def test_a_backfill_is_cancelled_too(memory: Shell) -> None:
    text = (memory.folder / "flow.py").read_text()
    wait = (
        "    if partition.day == 2:\n"
        "        print('BEGUN', file=sys.stderr, flush=True)\n"
        "        await asyncio.Event().wait()\n"
    )
    (memory.folder / "flow.py").write_text(text.replace("    ctx.metadata(", f"{wait}    ctx.metadata("))
    with memory.start("run", "flow.py", "weekly", "-p", "2025-01-01..2025-01-09") as running:
        running.wait_for("BEGUN")
        running.signal(signal.SIGINT)
        done = running.end()
    assert done.code == 130
    ends = [json.loads(line) for line in done.data.splitlines() if '"run.finished"' in line]
    assert [(end["partition"], end["state"]) for end in ends] == [
        ("2025-01-01", "succeeded"),
        ("2025-01-02", "cancelled"),
    ]


def test_the_second_ends_at_once(memory: Shell) -> None:
    with memory.start("run", "flow.py", "stubborn") as running:
        running.wait_for("BEGUN")
        running.signal(signal.SIGINT)
        running.wait_for("CLEANING UP")
        running.signal(signal.SIGINT)
        done = running.end()
    assert done.code == 130
    assert "interrupted; to go on" not in done.messages, "nothing was waited for"


def test_the_second_ends_a_body_that_holds_the_event_loop(memory: Shell) -> None:
    with memory.start("run", "flow.py", "hogging") as running:
        running.wait_for("BEGUN")
        running.signal(signal.SIGINT)
        running.signal(signal.SIGTERM)  # another one: two of a kind may arrive as one
        assert running.end().code == 130


def test_a_thread_that_goes_on_does_not_hold_up_the_end(memory: Shell) -> None:
    with memory.start("run", "flow.py", "blocking") as running:
        running.wait_for("BEGUN")
        running.signal(signal.SIGINT)
        done = running.end()
    assert (done.code, "interrupted; to go on" in done.messages) == (130, True)


def test_a_timeout_does_not_wait_for_a_thread_either(memory: Shell) -> None:
    done = memory.run("run", "flow.py", "blocking", "--timeout", "10ms")
    assert (done.code, "--timeout" in done.messages) == (6, True)


def test_an_interrupted_import_is_no_error(memory: Shell) -> None:
    text = "import signal, sys\nprint('BEGUN', file=sys.stderr, flush=True)\nsignal.pause()\n"
    (memory.folder / "slow.py").write_text(text)
    with memory.start("run", "slow.py", "x") as running:
        running.wait_for("BEGUN")
        running.signal(signal.SIGINT)
        done = running.end()
    assert (done.code, done.messages) == (130, "BEGUN\ninterrupted\n")


@pytest.mark.faults  # its lease ends after half a minute
def test_a_killed_command_goes_on_where_it_was(postgres: Shell) -> None:
    with postgres.start("run", "flow.py", "endless", "--param", "n=7") as running:
        running.wait_for("BEGUN")
        running.signal(signal.SIGKILL)
        assert running.end().code == -signal.SIGKILL
    assert json.loads(postgres.run("get", "flow.py", "base").data) == 7
    planned = json.loads(postgres.run("plan", "flow.py", "double", "--param", "n=7", "--json").data)
    assert [(each["asset"], each["action"]) for each in planned["entries"]] == [("base", "reuse"), ("double", "run")]
    assert postgres.run("run", "flow.py", "double", "--param", "n=7").code == 0
