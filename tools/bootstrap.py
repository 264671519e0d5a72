"""Make the project's `.venv` from requirements.lock with nothing but python3 and pip, ensurepip or uv.

    python3 tools/bootstrap.py [--no-uv] [--force]

Works on a Debian without python3-venv. A stamp inside the environment says what it was made from: an environment that
matches is left alone, one whose lock has changed is updated in place, and one that has no stamp (an install that was
interrupted), was made elsewhere or has lost its interpreter is made again from nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

OLDEST_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"
ENVIRONMENT = ROOT / ".venv"
STAMP = ENVIRONMENT / ".stamp"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def main() -> None:
    """Bring the environment up to date and say what was done."""
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(
            "flowstone_async needs Python 3.11 or newer; {} is {}.{}.\n"
            "Name another one: make setup PYTHON=python3.12".format(sys.executable, *sys.version_info[:2])
        )
    options = _options()
    _wait_for_others()
    wanted = {"home": _home(), "contents": _contents()}
    found = _stamp()
    if found == wanted and not options.force and _answers():
        STAMP.touch()
        return
    started = time.monotonic()
    uv = None if options.no_uv else shutil.which("uv")
    if options.force or found is None or found["home"] != wanted["home"] or not _answers():
        _make(uv)
    STAMP.unlink(missing_ok=True)
    _install(uv)
    STAMP.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    print(f".venv is ready: Python {sys.version.split()[0]}, {time.monotonic() - started:.1f} s")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make .venv from requirements.lock.")
    no_uv = bool(os.environ.get("NO_UV"))
    parser.add_argument("--no-uv", action="store_true", default=no_uv, help="use pip also where uv is installed")
    parser.add_argument("--force", action="store_true", help="make the environment again from nothing")
    return parser.parse_args()


def _wait_for_others() -> None:
    """Let one bootstrap of this checkout work at a time: take a lock that ends with the process."""
    try:
        import fcntl
    except ImportError:
        return  # Windows
    fcntl.flock(os.open(LOCK, os.O_RDONLY), fcntl.LOCK_EX)


def _home() -> str:
    """What an environment cannot survive a change of: its place and its interpreter."""
    return f"{ENVIRONMENT} {sys.version.split()[0]}"


def _contents() -> str:
    """Hash what decides the installed files; the settings of linters in pyproject.toml do not."""
    import tomllib

    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    parts = [project["build-system"], project["project"], project["tool"]["hatch"]]
    return hashlib.sha256(LOCK.read_bytes() + json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _stamp() -> dict[str, str] | None:
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) and stamp.keys() == {"home", "contents"} else None


def _answers() -> bool:
    try:
        return subprocess.run([PYTHON, "-c", ""], check=False).returncode == 0
    except OSError:
        return False


def _make(uv: str | None) -> None:
    if ENVIRONMENT.is_symlink() or ENVIRONMENT.is_file():
        sys.exit(f"{ENVIRONMENT.name} is not a folder of this checkout; remove it and try again.")
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    if uv:
        _run(uv, "venv", "--quiet", "--python", sys.executable, ENVIRONMENT)
        return
    import venv

    venv.create(ENVIRONMENT, with_pip=_has("ensurepip"), symlinks=os.name != "nt")


def _install(uv: str | None) -> None:
    """Install what is locked, then the project itself, built by the locked hatchling without a further download."""
    print(f"Installing {LOCK.name} into .venv with {'uv' if uv else 'pip'} ...", flush=True)
    if uv:
        _run(uv, "pip", "sync", "--quiet", "--python", PYTHON, "--require-hashes", LOCK)
        _run(uv, "pip", "install", "--quiet", "--python", PYTHON, "--no-deps", "--no-build-isolation", "-e", ROOT)
        return
    pip = [*_pip(), "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
    _run(*pip, "--require-hashes", "-r", LOCK)
    _run(*pip, "--no-deps", "--no-build-isolation", "-e", ROOT)


def _pip() -> list[str | Path]:
    """Pip inside the environment, else the interpreter's own pip aimed at it."""
    if subprocess.run([PYTHON, "-c", "import pip"], check=False, stderr=subprocess.DEVNULL).returncode == 0:
        return [PYTHON, "-m", "pip"]
    if not _has("pip"):
        sys.exit(
            f"{sys.executable} has neither pip nor ensurepip. Install one of them (on Debian and Ubuntu: "
            "apt install python3-pip), or uv, and try again."
        )
    return [sys.executable, "-m", "pip", "--python", PYTHON]


def _has(module: str) -> bool:
    """Tell whether a module is there, and not just what is left of its folder."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def _run(*command: str | Path) -> None:
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError:
        sys.exit(f"This step failed, see above: {' '.join(map(str, command))}\nThe next `make setup` starts over.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted; the next `make setup` starts over.")
