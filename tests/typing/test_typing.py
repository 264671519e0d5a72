"""Pyright is content with what users write, and rejects every line of `bad.py` that is marked so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def _errors(folder: Path, file: Path) -> Mapping[int, Sequence[str]]:
    """Return the messages of pyright's errors in a copy of a file, by line."""
    shutil.copy(file, folder)
    config = {
        "include": [file.name],
        "extraPaths": [str(ROOT)],
        "pythonVersion": "3.11",
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(folder)]
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["summary"]["filesAnalyzed"] == 1, done.stderr
    found: dict[int, list[str]] = {}
    for each in answer["generalDiagnostics"]:
        if each["severity"] == "error":
            found.setdefault(each["range"]["start"]["line"] + 1, []).append(each["message"])
    return found


@pytest.mark.parametrize(
    "name",
    ["levels.py", "inference.py", "batches.py", "steps.py", "approvals.py", "returned.py", "returned_requests.py"],
)
def test_what_users_write_is_typed(tmp_path: Path, name: str) -> None:
    """API.md, "How the typing works"; ASSET-01, ASSET-02, ASSET-03, PART-08, RUN-03, RUN-04, RUN-19."""
    assert _errors(tmp_path, HERE / name) == {}


def test_every_bad_line_is_rejected_and_nothing_else(tmp_path: Path) -> None:
    """API.md, "How the typing works"."""
    lines = (HERE / "bad.py").read_text(encoding="utf-8").splitlines()
    bad = {number: line for number, line in enumerate(lines, start=1) if "# bad: " in line}
    found = _errors(tmp_path, HERE / "bad.py")
    assert {number: line for number, line in bad.items() if number not in found} == {}, "accepted"
    assert {number: messages for number, messages in found.items() if number not in bad} == {}, "rejected"
    assert len(bad) > 30


def test_the_levels_run() -> None:
    """The file that is checked is a program too."""
    program = [sys.executable, str(HERE / "levels.py")]
    done = subprocess.run(
        program, check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert "Hello, World! 30 Metrics(n=3)" in lines
    assert lines[-1] == f"{[f'http://x/{i}' for i in range(10)]} 100"
