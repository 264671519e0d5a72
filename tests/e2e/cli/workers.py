"""Workers in processes of their own, and asking them how they are."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any, NamedTuple

from tests.e2e.cli.process import Running, Shell

_PATIENCE = 40.0


class Probe(NamedTuple):
    """What a probe was answered."""

    status: int
    body: dict[str, Any]

    @property
    def reason(self) -> str:
        return "; ".join(self.body["reasons"])


class Worker:
    """A worker that is ready."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.ready: dict[str, Any] = json.loads(running.wait_for_event("worker.ready"))

    def probe(self, what: str) -> Probe:
        """Ask `live` or `ready`."""
        try:
            with urllib.request.urlopen(f"{self.ready['health']}/health/{what}", timeout=_PATIENCE) as answer:
                return Probe(answer.status, json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                return Probe(error.code, json.load(error))

    def until(self, what: str, status: int, reason: str = "") -> Probe:
        """Ask until it is answered so."""
        deadline = time.monotonic() + _PATIENCE
        while (found := self.probe(what)).status != status or reason not in found.reason:
            assert time.monotonic() < deadline, f"{what} was to be {status} {reason!r}, and is {found}"
        return found


def start(shell: Shell, *words: str) -> Running:
    """Start a worker that tells how it is."""
    return shell.start("worker", *(words or ("flow.py",)), "--health-port", "0")


def submit(shell: Shell, *words: str) -> str:
    """Submit a run and return its id."""
    done = shell.run("submit", *words)
    assert done.code == 0, done
    return done.data.strip()


def state(shell: Shell, run_id: str, target: str = "flow.py") -> str:
    """Return the state of one of the newest runs."""
    runs = map(json.loads, shell.run("runs", target, "--json").data.splitlines())
    return next(run["state"] for run in runs if run["id"] == run_id)
