"""Standard output carries data and nothing else; messages go to standard error (CLI-05)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.cli.process import PROGRAM, Shell


def test_only_json_is_on_standard_output_whatever_bodies_print(memory: Shell) -> None:
    done = memory.run("run", "flow.py", "noisy", "--json")
    events = [json.loads(line) for line in done.data.splitlines()]
    assert done.code == 0
    assert [event["type"] for event in events if event["type"].startswith("run.")] == [
        "run.started",
        "run.succeeded",
        "run.finished",
    ]
    for noise in ("the import", "a body", "a process", "a descriptor"):
        assert f"noise of {noise}" in done.messages


@pytest.mark.parametrize(
    "words", [["plan", "base"], ["status"], ["status", "base"], ["why", "base"], ["doctor"], ["runs"]], ids=" ".join
)
def test_json_of_commands_that_look(memory: Shell, words: list[str]) -> None:
    done = memory.run(words[0], "flow.py", *words[1:], "--json")
    assert done.code == 0
    for line in done.data.splitlines():
        json.loads(line)


def test_a_failure_is_an_event_and_a_message(memory: Shell) -> None:
    done = memory.run("run", "flow.py", "broken", "--param", "key=hunter22", "--json")
    finished = json.loads(done.data.splitlines()[-1])
    assert (finished["type"], finished["state"]) == ("run.finished", "failed")
    assert finished["error"]["message"].startswith("asset 'broken' failed: ValueError")
    assert "error: asset 'broken' failed: ValueError: no way with ***" in done.messages
    assert "hunter" not in done.data + done.messages


def test_a_reader_that_leaves_changes_no_outcome(memory: Shell) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [*PROGRAM, "run", "flow.py", "broken", "--store", "memory"]
    done = subprocess.run(words, cwd=memory.folder, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 1
    assert b"BrokenPipe" not in done.stderr
    assert b"asset 'broken' failed" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_failure_of_a_run_but_one_of_a_command_that_looks(memory: Shell) -> None:
    ended: dict[str, subprocess.CompletedProcess[str]] = {}
    for command in ("run", "why"):
        with Path("/dev/full").open("w") as full:
            words = [*PROGRAM, command, "flow.py", "base", "--store", "memory"]
            ended[command] = subprocess.run(
                words, cwd=memory.folder, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
    assert (ended["run"].returncode, ended["why"].returncode) == (0, 1)
    for done in ended.values():
        assert "standard output: No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_is_closed_is_no_failure(memory: Shell, closed: str) -> None:
    (memory.folder / "quiet.py").write_text((memory.folder / "flow.py").read_text().replace("print(", "repr("))
    command = f"{' '.join(PROGRAM)} run quiet.py base --store memory {closed}"
    done = subprocess.run(command, shell=True, cwd=memory.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("run.finished" in done.stdout) == (closed == "2>&-")


def test_a_folder_that_is_gone_is_said(memory: Shell) -> None:
    gone = memory.folder / "gone"
    command = f"mkdir {gone}; cd {gone}; rmdir {gone}; {' '.join(PROGRAM)} run base"
    done = subprocess.run(command, shell=True, cwd=memory.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: the current directory is not there any more")
