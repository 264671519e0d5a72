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

from flowstone_async.store.embedded.locks import is_held
from tests.support.postgres import short_folder
from tools import demo

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.faults)])
def test_the_demo_is_killed_and_reads_no_file_again_that_was_on_record(times: int) -> None:
    """`make demo`: what it says is what the log of calls says; it leaves its folder only, and can be repeated."""
    with short_folder() as folder:
        for _ in range(times):
            said = _python(folder, str(ROOT / "tools" / "demo.py"))
            [recorded, total] = _numbers(r"It is dead, and ([\d,]+) of ([\d,]+) files are on record", said)
            assert total // 3 <= recorded < total
            calls = [line.split(" ", 1) for line in (folder / ".flowstone/census-calls.log").read_text().splitlines()]
            first, second = ({file for by, file in calls if by == pid} for pid in dict.fromkeys(by for by, _ in calls))
            assert len(first | second) == total
            assert len(first) + len(second) == len(calls)
            assert len(first & second) <= len(first) - recorded
            assert _numbers(r"([\d,]+) by the first process, ([\d,]+) of them recorded", said) == [len(first), recorded]
            assert _numbers(r"([\d,]+) by the second: ([\d,]+) again", said) == [len(second), len(first & second)]
            [whole, broken] = _numbers(r" lines in ([\d,]+) files; ([\d,]+) more are no valid Python", said)
            assert whole + broken == total
            assert "most imported" in said
            assert len(said.splitlines()) < 30
            assert [each.name for each in folder.iterdir()] == [".flowstone"]
            assert not is_held(folder / ".flowstone/server.lock")


def test_the_demo_tells_of_a_file_that_was_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not say what it says if it were not so."""
    monkeypatch.setattr(demo, "CALLS", tmp_path / "calls")
    (tmp_path / "calls").write_text("1 a.py\n1 b.py\n2 b.py\n2 c.py\n")
    demo.show_proof(demo.Progress(recorded=1, total=3))
    with pytest.raises(SystemExit, match="this is a bug"):
        demo.show_proof(demo.Progress(recorded=2, total=3))


def _python(folder: Path, *words: str) -> str:
    """Run Python in a folder and return what it prints."""
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300, check=True
    ).stdout


def _numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    assert found, text
    return [int(each.replace(",", "")) for each in found.groups()]


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


def test_the_rest_app_lets_in_whom_it_knows_and_its_client_follows_a_run() -> None:
    """The engine's own REST under a path of the app; asked twice, the client gets the same run."""
    with short_folder() as folder, served("examples.rest_app:app", folder) as address:
        for _ in range(2):
            said = _python(ROOT, "-m", "examples.rest_app", address, "2025-01-15").splitlines()
            assert (said[0], said[-2], said[-1]) == ("run.started ", "run.finished ", "/about with 90 visits")
            assert "asset.succeeded report" in said
        with httpx.Client(base_url=f"{address}/flow/api/v1", headers={"X-Api-Key": "key-of-eve"}) as client:
            assert len(client.get("/runs").json()["runs"]) == 1
            assert client.post("/runs", json={"targets": ["report"]}).status_code == httpx.codes.FORBIDDEN
            assert client.get("/runs", headers={"X-Api-Key": "nobody"}).status_code == httpx.codes.UNAUTHORIZED


def test_the_approval_app_awaits_a_decision() -> None:
    """APPR-04, APPR-12, APPR-16: nobody decides who has none of the roles; a small trade asks nobody."""
    with short_folder() as folder, served("examples.approval_app:app", folder) as address:
        said = _python(ROOT, "-m", "examples.approval_app", address, "500").splitlines()
        assert said[:2] == ["asked: Buy 500 shares?", "decided by ada"]
        assert said[2] == "{'state': 'booked', 'trade': '500 shares'}"
        refused = _python(ROOT, "-m", "examples.approval_app", address, "600", "reject").splitlines()
        assert refused[2] == "{'state': 'refused', 'by': 'ada', 'reason': 'I know'}"
        with httpx.Client(base_url=address, headers={"X-Api-Key": "key-of-eve"}, timeout=60) as eve:
            small = eve.post("/trades/7").raise_for_status().json()["run"]
            assert eve.get(f"/trades/{small}").json() == {"state": "booked", "trade": "7 shares"}
            eve.post("/trades/700").raise_for_status()
            while not (waiting := eve.get("/flow/api/v1/approvals").json()["approvals"]):
                pass
            answer = eve.post(f"/flow/api/v1/approvals/{waiting[0]['id']}/approve", json={})
            assert (answer.status_code, answer.json()["code"]) == (httpx.codes.FORBIDDEN, "NOT_ALLOWED")
            assert eve.get("/trades/00000000-0000-7000-8000-000000000000").status_code == httpx.codes.NOT_FOUND


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
