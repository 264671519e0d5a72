"""Runs that one process submits, another executes and a third watches (CLI-02, CLI-06, JOB-01)."""

from __future__ import annotations

import json
import signal

import pytest

from tests.e2e.cli.process import Shell, Terminal
from tests.e2e.cli.workers import Worker, start, state, submit


def types(data: str) -> list[str]:
    return [json.loads(line)["type"] for line in data.splitlines()]


def test_a_run_is_submitted_here_executed_there_and_watched_elsewhere(postgres: Shell) -> None:
    run_id = submit(postgres, "flow.py", "double", "--param", "n=21")
    assert state(postgres, run_id) == "queued"
    with start(postgres) as running:
        Worker(running)
        watched = postgres.run("watch", "flow.py", run_id)
        running.signal(signal.SIGTERM)
        done = running.end()
    assert (watched.code, done.code) == (0, 0)
    told = types(watched.data)
    assert (told[0], told[-2:]) == ("run.started", ["run.succeeded", "run.finished"])
    assert {json.loads(line)["run_id"] for line in watched.data.splitlines()} == {run_id}
    assert postgres.run("get", "flow.py", "double").data == "42\n"
    lines = [line.partition(" ")[2] for line in done.messages.splitlines() if f", run {run_id}" in line]
    assert [line.partition(" in ")[0] for line in lines] == ["INFO asset base succeeded", "INFO asset double succeeded"]
    assert postgres.run("watch", "flow.py", run_id).data == watched.data, "also once it has ended"


@pytest.mark.parametrize(
    ("code", "words", "message"),
    [
        (1, ["broken", "--param", "n=1"], "asset 'broken' failed: ValueError"),
        (4, ["lenient"], "failures that the target tolerates: 1"),
        (6, ["endless", "--timeout", "100ms"], "took longer than its timeout"),
    ],
)
def test_watch_ends_as_the_run_did(postgres: Shell, code: int, words: list[str], message: str) -> None:
    run_id = submit(postgres, "flow.py", *words)
    with start(postgres) as running:
        Worker(running)
        done = postgres.run("watch", "flow.py", run_id)
    assert done.code == code, done
    assert message in done.messages
    assert "hunter2" not in done.data + done.messages


def test_ctrl_c_ends_the_watching_and_not_the_run(postgres: Shell) -> None:
    run_id = submit(postgres, "flow.py", "endless")
    with start(postgres) as running:
        Worker(running)
        running.wait_for("BEGUN")
        with postgres.start("watch", "flow.py", run_id) as watching:
            watching.wait_for_event("asset.started")
            watching.signal(signal.SIGINT)
            left = watching.end()
        assert (left.code, state(postgres, run_id)) == (130, "running")
        assert f"run {run_id} goes on; to watch it again:\n  flowstone watch flow.py {run_id}" in left.messages
        assert "cancelling" not in left.messages

        cancelled = postgres.run("cancel", "flow.py", run_id, "--json")
        running.wait_for("CLEANED UP")
        running.signal(signal.SIGTERM)
        assert "handed back" not in running.end().messages
    assert (cancelled.code, json.loads(cancelled.data)["state"]) == (0, "cancelled")
    watched, again = postgres.run("watch", "flow.py", run_id), postgres.run("cancel", "flow.py", run_id)
    assert (watched.code, again.code) == (7, 1)
    assert f"run {run_id} was cancelled" in watched.messages
    assert f"run {run_id} has ended: cancelled" in again.messages


def test_on_a_terminal_a_run_is_drawn(postgres: Shell) -> None:
    run_id = submit(postgres, "flow.py", "weekly", "-p", "2025-01-05")
    with Terminal(postgres, "watch", "flow.py", run_id, env={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for("0/0 in ")
        with start(postgres) as running:
            Worker(running)
            done = terminal.end()
    last = done.data[done.data.rindex("weekly  2025-01-05") :]
    assert (done.code, f"run {run_id}" in last) == (0, True)
    assert "500 rows" in last
    assert "2/2 in " in last


def test_a_queued_run_that_is_cancelled_is_never_executed(postgres: Shell) -> None:
    first, second = submit(postgres, "flow.py", "base"), submit(postgres, "flow.py", "text")
    assert postgres.run("cancel", "flow.py", first).messages.endswith(f"run {first} of base is cancelled\n")
    with start(postgres) as running:
        Worker(running)
        assert [postgres.run("watch", "flow.py", each).code for each in (first, second)] == [7, 0]
    assert postgres.run("get", "flow.py", "base").code == 1


def test_a_retry_reuses_what_was_committed(postgres: Shell) -> None:
    failing = submit(postgres, "flow.py", "weekly", "-p", "2025-01-03")
    with start(postgres) as running:
        Worker(running)
        assert postgres.run("watch", "flow.py", failing).code == 1
        (postgres.folder / "mended").touch()
        retried = postgres.run("retry", "flow.py", failing, "--json")
        ref = json.loads(retried.data)
        assert postgres.run("watch", "flow.py", ref["run_id"]).code == 0
    assert ref["run_id"] != failing
    assert (ref["pipeline"], ref["targets"]) == ("flow", ["weekly"])
    assert postgres.run("get", "flow.py", "weekly", "-p", "2025-01-03").data == "21\n"


def test_a_range_of_keys_is_a_backfill_that_a_worker_carries_out(postgres: Shell) -> None:
    """RUN-32: watched like a run; it has failed if one of its partitions did, and a retry takes what there is."""
    run_id = submit(postgres, "flow.py", "daily", "-p", "2025-01-02..2025-01-05", "--parallel", "2")
    with start(postgres) as running:
        Worker(running)
        watched = postgres.run("watch", "flow.py", run_id)
        assert watched.code == 1
        assert "1 partition of 'daily' failed; the cause: " in watched.messages
        assert types(watched.data)[-2:] == ["run.failed", "run.finished"]
        (postgres.folder / "mended").touch()
        again = postgres.run("retry", "flow.py", run_id).data.strip()
        assert postgres.run("watch", "flow.py", again).code == 0
    told = [json.loads(line) for line in postgres.run("watch", "flow.py", again).data.splitlines()]
    last = [event for event in told if event["type"] == "run.progress"][-1]
    assert (last["succeeded"], last["skipped"], last["failed"]) == (1, 3, 0)
    refused = postgres.run("submit", "flow.py", "daily", "-p", "2025-01-02..2025-01-05", "--no-deps")
    assert refused.code == 2
    assert "--no-deps cannot be given with a range" in refused.messages


def test_the_same_key_gives_the_same_run(postgres: Shell) -> None:
    first = json.loads(postgres.run("submit", "flow.py", "base", "--key", "k", "--json").data)
    again = submit(postgres, "flow.py", "base", "--key", "k")
    other = postgres.run("submit", "flow.py", "text", "--key", "k")
    assert first == {"run_id": again, "pipeline": "flow", "targets": ["base"], "partition": ""}
    assert other.code != 0
    assert "key" in other.messages


@pytest.mark.not_in("evict", reason="whoever was suspended comes again in the order of wakes")
def test_lower_priorities_come_first_and_later_ones_later(postgres: Shell) -> None:
    late = submit(postgres, "flow.py", "numbers", "--at", "+1h")
    last = submit(postgres, "flow.py", "text", "--priority", "3")
    submit(postgres, "flow.py", "base", "--at", "2025-01-15T09:30+01:00")
    with start(postgres, "flow.py", "--slots", "1") as running:
        Worker(running)
        assert postgres.run("watch", "flow.py", last).code == 0
        assert "asset base succeeded" in running.wait_for("succeeded")
        assert "asset text succeeded" in running.wait_for("succeeded")
    assert state(postgres, late) == "queued"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["submit", "flow.py", "base", "--at", "2025-01-15T09:30"], "it does not say of which time zone"),
        (["submit", "flow.py", "base", "--at", "soon"], "that is no instant"),
        (["submit", "flow.py", "base", "--param", "n=many"], "n"),
        (["submit", "flow.py", "base", "--param", "key=topsecret"], "secret"),
        (["watch", "flow.py", "01900000-0000-7000-8000-000000000000"], "no run '01900000-"),
        (["cancel", "flow.py", "nonsense"], "no run 'nonsense' in this store"),
        (["retry", "flow.py", "nonsense"], "no run 'nonsense' in this store"),
    ],
)
def test_what_cannot_be_done_is_a_usage_error(postgres: Shell, words: list[str], message: str) -> None:
    done = postgres.run(*words)
    assert (done.code, done.data) == (2, "")
    assert message in done.messages
    assert "Traceback" not in done.messages
    assert "topsecret" not in done.messages


def test_run_and_backfill_leave_the_queue_alone(postgres: Shell) -> None:
    queued = submit(postgres, "flow.py", "text")
    assert postgres.run("run", "flow.py", "noisy").code == 0
    assert postgres.run("backfill", "flow.py", "daily", "-p", "2025-01-01..2025-01-02").code == 0
    assert state(postgres, queued) == "queued"
    doctor = {
        each["subject"]: each for each in map(json.loads, postgres.run("doctor", "flow.py", "--json").data.splitlines())
    }
    assert doctor["queue"]["verdict"] == "warning"
    assert "1 queued, the oldest since " in doctor["queue"]["text"]
    assert "no worker has the pipeline" in doctor["queue"]["text"]
