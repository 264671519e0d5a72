"""How long a fresh process takes to import the package, show help, run hello world; the floor is `python -c pass`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Options, options, show

HELLO = """
from flowstone_async import Pipeline

pipe = Pipeline("hello")

@pipe.asset
async def greeting() -> str:
    return "Hello, World!"

print(pipe.run_sync(greeting))
"""


def milliseconds(arguments: list[str], times: int) -> float:
    taken: list[float] = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        taken.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(taken[1:])


def main() -> None:
    given: Options = options(__doc__)
    times = given.repeat(11, 5)
    floor = milliseconds(["-c", "pass"], times)
    with tempfile.TemporaryDirectory() as folder:
        hello = Path(folder) / "hello.py"
        hello.write_text(HELLO)
        figures = {
            "import": (["-c", "from flowstone_async import Pipeline"], "150 ms"),
            "help": (["-m", "flowstone_async.cli", "--help"], "200 ms"),
            "hello": ([str(hello)], "300 ms"),
        }
        for name, (arguments, aim) in figures.items():
            show(given, name, floor=floor, figure=milliseconds(arguments, times), unit="ms", aim=aim)


if __name__ == "__main__":
    main()
