"""The example that asks before it deploys does what it says, each command in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.commands import ROOT, flowstone
from tests.support.postgres import short_folder

EXAMPLE = str(ROOT / "examples" / "deploy_with_approval.py")


def test_nothing_is_deployed_before_somebody_has_said_yes() -> None:
    """APPR-04, APPR-13, APPR-14: every process was restarted in between; nobody is asked twice."""
    with short_folder() as folder:
        first, second = _python(folder), _python(folder)
        assert "asked: Deploy 4f2a to production?" in first
        assert "asked:" not in second
        assert "it waits for 'approve_production'" in second
        listed = flowstone(folder, "inbox", EXAMPLE, "--json").end()
        assert json.loads(listed.out)["show"] == {"sha": "4f2a", "tests": 1312}
        words = ("approve_production", "--by", "you", "--form", '{"note": "ok"}')
        assert flowstone(folder, "approve", EXAMPLE, *words).end().code == 0
        assert _python(folder) == "4f2a is on 100 % of production, says you: ok\n"


def _python(folder: Path) -> str:
    """Run the example in a folder and return what it prints."""
    return subprocess.run(
        [sys.executable, EXAMPLE], cwd=folder, capture_output=True, text=True, timeout=120, check=True
    ).stdout
