"""What every benchmark shares: its options, its output, and how a figure is taken."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """How a benchmark was called.

    Attributes:
        json: One JSON object per line instead of a sentence.
        quick: Fewer repetitions.
    """

    json: bool
    quick: bool

    def repeat(self, full: int, quick: int) -> int:
        """Return the number of repetitions."""
        return quick if self.quick else full


def options(description: str | None) -> Options:
    """Read the options from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    given = parser.parse_args()
    return Options(json=given.json, quick=given.quick)


def show(given: Options, name: str, *, floor: float, figure: float, unit: str, aim: str = "", **more: float) -> None:
    """Print one figure beside its floor; `ratio` is engine over floor in time, so 1.0 is the floor."""
    facts = {"name": name, unit: round(figure, 4), **{key: round(value, 4) for key, value in more.items()}}
    slower = (floor, figure) if unit.endswith("_per_s") else (figure, floor)
    ratio = slower[0] / slower[1] if slower[1] else 0.0
    facts |= {"floor": round(floor, 4), "ratio": round(ratio, 2) if ratio else None}
    if given.json:
        print(json.dumps(facts), flush=True)
    else:
        extra = "".join(f", {key} {value:,.3f}" for key, value in more.items())
        goal = f"; aim {aim}" if aim else ""
        print(f"{name}: {figure:,.3f} {unit}{extra}; floor {floor:,.3f}, ratio {ratio:,.2f}{goal}", flush=True)


async def median_seconds(times: int, work: Callable[[], Awaitable[object]]) -> float:
    """Return the median duration of some calls, garbage collected before each."""
    taken: list[float] = []
    for _ in range(times):
        gc.collect()
        begun = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
