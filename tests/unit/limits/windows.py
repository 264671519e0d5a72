"""Looking at when something was granted, without the library."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence


def most_in_any_window(times: Iterable[float], per: float) -> int:
    """Return the most instants that any half-open window of length `per` holds, wherever it starts; linear in them."""
    inside: deque[float] = deque()
    most = 0
    for time in sorted(times):
        inside.append(time)
        while time - inside[0] >= per:
            inside.popleft()
        most = max(most, len(inside))
    return most


def most_at_once(times: Iterable[float]) -> int:
    """Return the most instants that are the same."""
    counts: dict[float, int] = {}
    for time in times:
        counts[time] = counts.get(time, 0) + 1
    return max(counts.values(), default=0)


def excess_over_stretch(times: Sequence[float], n: int, per: float, burst: int) -> float:
    """Return by how many grants any stretch of at most `per` exceeds `burst + n * length / per`; 0 or less if none."""
    worst = -float(burst)
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            length = times[last] - begin
            if length >= per:
                break
            worst = max(worst, last - first + 1 - burst - n * length / per)
    return worst


def most_possible(n: int, per: float, asks: Iterable[tuple[float, int]]) -> int:
    """Return how many of some wishes, so many at each instant, a limit can grant that is exact to the moment."""
    inside: deque[float] = deque()
    total = 0
    for time, want in asks:
        while inside and time - inside[0] >= per:
            inside.popleft()
        granted = min(want, n - len(inside))
        inside.extend([time] * granted)
        total += granted
    return total
