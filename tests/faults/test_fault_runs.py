"""A few fault runs that break everything there is to break; `make faults` does two hundred."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.driver import FAULTS, PARTS, schedule

ROOT = Path(__file__).parents[2]
_PATIENCE = 100.0
_CLEANING = 15.0


def test_a_few_seeds_cover_every_fault() -> None:
    for first in (1, 1 + PARTS, 1 + 40 * PARTS):
        assert {fault for seed in range(first, first + PARTS) for fault in schedule(seed)} == set(FAULTS)
    assert schedule(7) == schedule(7)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process has stopped is told by /proc")
def test_every_run_ends_once_and_whole_whatever_breaks() -> None:
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.faults", "--seeds", f"1-{PARTS}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        said, _ = driver.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        driver.send_signal(signal.SIGTERM)
        said, _ = driver.communicate(timeout=_CLEANING)
        pytest.fail(f"the fault runs did not end within {_PATIENCE:g} s:\n{said}")
    assert driver.returncode == 0, said
    assert f"{PARTS} fault runs, {PARTS} whole" in said
