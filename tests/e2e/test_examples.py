"""The examples run as their documents say."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.postgres import short_folder

ROOT = Path(__file__).parents[2]


def test_the_census_is_taken_once_and_reused() -> None:
    """`make demo`: every package is computed, then every one is reused; the table and the way on are printed."""
    with short_folder() as folder:
        arguments = [sys.executable, str(ROOT / "examples" / "stdlib_census.py")]
        ran = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    first, second = (line.split() for line in ran.stdout.splitlines() if " reused, " in line)
    computed = int(first[0])
    assert computed > 100
    assert (first[2], first[4]) == ("0", "0"), ran.stderr
    assert (second[0], second[2], second[4]) == ("0", str(computed), "0")
    assert "most imported" in ran.stdout
    assert "flowstone plan" in ran.stdout


def test_the_web_app_awaits_submits_and_refuses() -> None:
    """The ASGI example under uvicorn: the engine opens with the app; a bad day is the client's mistake."""
    with short_folder() as folder, served("examples.web_app:app", folder) as address:
        with httpx.Client(base_url=address, timeout=60) as client:
            assert client.get("/total/2025-01-02").json() == {"day": "2025-01-02", "total": 30}
            submitted = client.post("/total/2025-01-03")
            assert submitted.status_code == httpx.codes.ACCEPTED
            run = submitted.json()["run"]
            assert client.get(f"/runs/{run}").json()["run"] == run
            assert client.get("/runs/00000000-0000-7000-8000-000000000000").status_code == httpx.codes.NOT_FOUND
            refused = client.get("/total/2024-12-31")
            assert refused.status_code == httpx.codes.UNPROCESSABLE_ENTITY
            assert refused.json()["hint"]


@contextmanager
def served(app: str, folder: Path) -> Iterator[str]:
    """Serve an ASGI app with uvicorn on a free port, and stop it as an operator would."""
    arguments = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT), "--port", "0", app]
    server = subprocess.Popen(arguments, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        said: list[str] = []
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0]
                break
        else:
            pytest.fail("".join(said))
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert server.returncode in (0, -signal.SIGTERM)
