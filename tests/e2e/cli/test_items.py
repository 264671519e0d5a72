"""Items of scatters on the command line: listed, grouped, run again (SCAT-25, CLI-02, CLI-05, CLI-06)."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from flowstone_async.cli import exit_code
from tests.e2e.cli.process import Done, Shell
from tests.e2e.cli.workers import Worker, start

HERE = "scattered.py"


@pytest.fixture
def shell(postgres: Shell) -> Shell:
    shutil.copy(Path(__file__).with_name(HERE), postgres.folder)
    return postgres


def lines(done: Done) -> list[str]:
    return [" ".join(line.split()) for line in done.data.splitlines()]


def rows(done: Done) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.data.splitlines()]


def computed(shell: Shell, *words: str) -> None:
    done = shell.run("run", HERE, *words)
    assert done.code in (exit_code.OK, exit_code.TOLERATED), done


def executed(shell: Shell, run_id: str) -> Done:
    """Let a worker execute a run, and return how `watch` ends."""
    with start(shell, HERE) as running:
        Worker(running)
        done = shell.run("watch", HERE, run_id)
        running.signal(signal.SIGTERM)
        assert running.end().code == exit_code.OK
    return done


def test_failed_items_are_listed(shell: Shell) -> None:
    """SCAT-25: key, error, attempts, worker; a page at a time; secrets hidden."""
    computed(shell, "total")
    listed = shell.run("items", HERE, "items")
    assert (listed.code, listed.messages) == (exit_code.OK, "")
    head, *found = lines(listed)
    assert head == "index key attempts worker error"
    assert [line.split()[:3] for line in found] == [["1", "1", "2"], ["2", "2", "2"], ["5", "5", "2"], ["9", "9", "2"]]
    assert "ValueError: 1 is broken" in found[0]
    assert "hunter2" not in listed.data
    page = shell.run("items", HERE, "items", "--limit", "2")
    assert len(lines(page)) == 3
    assert "for those behind them: --after 2" in page.messages
    rest = shell.run("items", HERE, "items", "--after", "2", "--json")
    assert [row["key"] for row in rows(rest)] == [5, 9]
    [row, _] = rows(rest)
    assert (row["state"], row["item"], row["attempts"], row["error_type"]) == ("failed", 5, 2, "ValueError")
    assert isinstance(row["error"], dict)
    assert "is broken" in str(row["error"]["traceback"])


def test_items_of_other_states_are_listed(shell: Shell) -> None:
    """SCAT-25."""
    computed(shell, "total")
    done = shell.run("items", HERE, "items", "--state", "done", "--limit", "3")
    assert lines(done) == ["index key", "0 0", "3 3", "4 4"]
    none = shell.run("items", HERE, "items", "--state", "pending")
    assert (none.code, none.data) == (exit_code.OK, "")
    assert "has no pending items of items" in none.messages
    assert shell.run("items", HERE, "items", "--state", "pending", "--json").messages == ""


def test_errors_are_counted_by_type(shell: Shell) -> None:
    """SCAT-25."""
    computed(shell, "total")
    head, first, second = lines(shell.run("items", HERE, "items", "--group-by", "error"))
    assert head == "items error example"
    assert first.startswith("3 ValueError")
    assert second.startswith("1 KeyError")
    found = rows(shell.run("items", HERE, "items", "--group-by", "error", "--json"))
    assert [(row["error_type"], row["count"]) for row in found] == [("ValueError", 3), ("KeyError", 1)]


def test_failed_items_are_run_again_by_a_worker(shell: Shell) -> None:
    """SCAT-25, CLI-06: the id of the run goes to standard output, and what depends on the items is run too."""
    computed(shell, "total")
    assert shell.run("get", HERE, "total").data == "28\n"
    (shell.folder / "mended").touch()
    again = shell.run("redrive", HERE, "items")
    assert (again.code, again.messages) == (exit_code.OK, "")
    run_id = again.data.strip()
    assert executed(shell, run_id).code == exit_code.OK
    assert shell.run("items", HERE, "items", "--run", run_id).messages.endswith("has no failed items of items\n")
    nothing = shell.run("redrive", HERE, "items")
    assert (nothing.code, nothing.data) == (exit_code.USAGE, "")
    assert "no item of the scatter failed" in nothing.messages
    found = rows(shell.run("redrive", HERE, "items", "--only", "all", "--json"))
    assert [(row["targets"], row["only"], row["of_run"]) for row in found] == [(["total"], "all", run_id)]


def test_batches_are_listed_and_run_again(shell: Shell) -> None:
    """SCAT-25, BATCH-08: as lists, first as they were read, then what left them."""
    computed(shell, "pairs")
    found = rows(shell.run("items", HERE, "pairs", "--json"))
    assert [(row["key"], row["item"], row["index"]) for row in found] == [([4, 5], [4, 5], 2), ([3], [3], 3)]
    head, whole, left = lines(shell.run("items", HERE, "pairs"))
    assert (head, whole.startswith("2 (4, 5)"), left.startswith("3 (3,)")) == (
        "index key attempts worker error",
        True,
        True,
    )
    behind = shell.run("items", HERE, "pairs", "--after", found[0]["place"], "--json")
    assert [row["item"] for row in rows(behind)] == [[3]]
    assert rows(shell.run("items", HERE, "pairs", "--after", rows(behind)[0]["place"], "--json")) == []
    numbers: list[int] = []
    for line in shell.run("items", HERE, "pairs", "--json").data.splitlines():
        json.loads(line, parse_int=lambda text: numbers.append(int(text)))
    assert len(numbers) > 0
    assert max(numbers) < 1 << 53, "readers in JavaScript"
    (shell.folder / "mended").touch()
    run_id = shell.run("redrive", HERE, "pairs").data.strip()
    assert executed(shell, run_id).code == exit_code.OK
    done = rows(shell.run("items", HERE, "pairs", "--run", run_id, "--state", "done", "--json"))
    assert [(row["item"], row["index"]) for row in done] == [([0, 1], 0), ([2, 3], 1), ([4, 5], 2), ([3], 3)]


def test_a_partition_s_items_are_its_own(shell: Shell) -> None:
    """CLI-02: `-p`; a run says by itself which one."""
    computed(shell, "daily", "-p", "2025-01-02")
    [row] = rows(shell.run("items", HERE, "daily", "-p", "2025-01-02", "--json"))
    assert (row["key"], row["item"]) == ({"name": "b"}, {"name": "b"})
    [run] = rows(shell.run("runs", HERE, "--json"))
    [same] = rows(shell.run("items", HERE, "daily", "--run", str(run["id"]), "--json"))
    assert same == row
    missing = shell.run("items", HERE, "daily")
    assert (missing.code, "has partitions" in missing.messages) == (exit_code.USAGE, True)
    never = shell.run("items", HERE, "daily", "-p", "2025-01-03")
    assert (never.code, "was never run" in never.messages) == (exit_code.FAILED, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["items", HERE], "which asset?"),
        (["items", HERE, "item"], "Did you mean 'items'"),
        (["items", HERE, "plain", "--run", "0190a000-0000-7000-8000-000000000000"], "no run '0190a000"),
        (["items", HERE, "items", "--state", "open"], "invalid choice"),
        (["items", HERE, "items", "--group-by", "error", "--state", "done"], "--state done cannot be given"),
        (["items", HERE, "items", "--group-by", "error", "--after", "3"], "--after cannot be given"),
        (["redrive", HERE, "items", "--only", "some"], "invalid choice"),
    ],
)
def test_wrong_usage_shows_the_way_out(shell: Shell, words: list[str], message: str) -> None:
    """G-05, CLI-06."""
    done = shell.run(*words)
    assert (done.code, done.data) == (exit_code.USAGE, ""), done
    assert message in done.messages


def test_an_asset_that_is_no_scatter_has_no_items(shell: Shell) -> None:
    computed(shell, "plain")
    for command in ("items", "redrive"):
        done = shell.run(command, HERE, "plain")
        assert (done.code, done.data) == (exit_code.USAGE, "")
        assert "asset 'plain' is no scatter" in done.messages
