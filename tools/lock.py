"""Write requirements.lock: what the core, tested extras and the tests need, with hashes and without addresses.

    make lock                  # keeps every pin that still fits
    make lock ARGS=--upgrade   # moves them to the newest that fit

Needs uv on PATH. uv's own lock names a registry for every file, and it refuses to read the groups of a project that
it does not manage, so the requirements go in by hand.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements.lock"
EXTRAS = ("aws", "embedded", "ui")


def main() -> None:
    """Resolve for every platform and supported Python at once."""
    uv = shutil.which("uv")
    if uv is None:
        sys.exit("uv is not on PATH: pipx install uv")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    requirements = [
        *project["project"]["dependencies"],
        *(each for extra in EXTRAS for each in project["project"]["optional-dependencies"][extra]),
        *project["dependency-groups"]["dev"],
    ]
    oldest = project["project"]["requires-python"].removeprefix(">=")
    shape = ["--universal", "--python-version", oldest, "--generate-hashes", "--no-header", "--no-annotate"]
    command = [uv, "pip", "compile", "--quiet", *shape, "--output-file", LOCK, *sys.argv[1:], "-"]
    sys.exit(subprocess.run(command, cwd=ROOT, input="\n".join(requirements), text=True, check=False).returncode)


if __name__ == "__main__":
    main()
