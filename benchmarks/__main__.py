"""Run every benchmark: `python -m benchmarks [--json] [--quick]`."""

from __future__ import annotations

import subprocess
import sys

MODULES = ("startup", "overhead", "plan", "runs", "claim", "latency", "scatter", "mapping", "limits", "gates")


def main() -> int:
    commands = ([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]] for name in MODULES)
    return max(subprocess.run(command, check=False).returncode for command in commands)


if __name__ == "__main__":
    sys.exit(main())
