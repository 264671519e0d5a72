"""Run every benchmark: `python -m benchmarks [--json] [--quick]`."""

from __future__ import annotations

import subprocess
import sys

MODULES = ("startup", "overhead", "plan", "runs")


def main() -> int:
    codes = [subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=False).returncode for name in MODULES]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
