"""The judge of rates on a virtual clock: strict in every window, and hardly less than the limit (RATE-01)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.limits.history import EXACT, Entry, History
from flowstone_async.limits.rate import Pace
from tests.unit.limits.windows import excess_over_stretch, most_at_once, most_in_any_window, most_possible

PERS = st.sampled_from([0.1, 1 / 3, 1.0, 7.7, 60.0, 3600.0])


@st.composite
def paces(draw: st.DrawFn) -> Pace:
    n = draw(st.integers(1, 400))
    return Pace(n, draw(PERS), draw(st.one_of(st.just(n), st.integers(1, n))))


# Shares of `per` between one arrival and the next, and how many arrive then.
ARRIVALS = st.lists(
    st.tuples(st.one_of(st.just(0.0), st.floats(0, 0.02), st.floats(0, 1.5)), st.integers(1, 60)), max_size=60
)


def granted(pace: Pace, arrivals: list[tuple[float, int]], start: float = 0.0) -> Iterator[float]:
    """Ask for permits as they arrive; yield when each is granted."""
    history, now = History(), start
    for share, count in arrivals:
        now += share * pace.per
        for _ in range(count):
            if history.room(now, pace):
                history.add(now, 1, pace)
                yield now


@given(paces(), ARRIVALS, st.sampled_from([0.0, 0.1, 1e6 / 3]))
def test_no_window_sees_more_than_n_and_no_moment_more_than_the_burst(
    pace: Pace, arrivals: list[tuple[float, int]], start: float
) -> None:
    """RATE-01, whatever the arrivals, by a check that knows nothing of how it is done."""
    times = list(granted(pace, arrivals, start))
    assert most_in_any_window(times, pace.per) <= pace.n
    assert most_at_once(times) <= pace.burst
    assert excess_over_stretch(times, *pace) < 1e-6 * max(1.0, pace.n)


@given(paces(), ARRIVALS)
def test_waiting_as_long_as_was_said_is_enough_and_less_is_not(pace: Pace, arrivals: list[tuple[float, int]]) -> None:
    """RATE-02: `outlook` is exact."""
    history, now = History(), 0.0
    for share, count in arrivals:
        now += share * pace.per
        for _ in range(count):
            if not history.room(now, pace):
                wait = history.outlook(now, pace).after(1)
                assert wait > 0
                assert wait < 1e-6 or not history.room(now + wait * (1 - 1e-6), pace)
                now += wait
                assert history.room(now, pace)
            history.add(now, 1, pace)


@given(paces(), ARRIVALS, st.integers(1, 1000))
def test_nobody_is_told_a_later_time_than_he_is_served_at(
    pace: Pace, arrivals: list[tuple[float, int]], ahead: int
) -> None:
    """RATE-03: only what is certain is refused. `after(k)` never exceeds what the k-th in line really waits."""
    history, now = History(), 0.0
    for share, count in arrivals:
        now += share * pace.per
        took = min(count, history.room(now, pace))
        if took:
            history.add(now, took, pace)
    told, begun = history.outlook(now, pace).after(ahead), now
    served = 0
    while served < ahead:
        room = history.room(now, pace)
        if room:
            history.add(now, min(room, ahead - served), pace)
            served += min(room, ahead - served)
        else:
            now += history.outlook(now, pace).after(1)
    assert told <= (now - begun) * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize(
    "pace",
    [
        *(Pace(n, 1.0, n) for n in (1, 2, 3, 10, 64, 100, 128, 129, 200, 1000, 5000)),
        *(Pace(n, 60.0, burst) for n, burst in ((10, 1), (60, 5), (100, 99), (1000, 10), (5000, 1), (5000, 500))),
    ],
    ids=str,
)
def test_at_most_two_percent_fewer_are_granted(pace: Pace) -> None:
    """RATE-01: asked for all the time, in a fine rhythm that has nothing to do with the rate."""
    history, total, last = History(), 0, 0.0
    step = pace.per / max(3 * pace.n, 600) * (1 + 1e-3 * math.pi)
    ticks = int(12 * pace.per / step)
    for tick in range(ticks):
        now = tick * step
        for _ in range(min(history.room(now, pace), pace.n)):
            history.add(now, 1, pace)
            total += 1
        last = now
    whole = math.floor(last / pace.per)
    assert total >= 0.98 * pace.n * whole
    assert total <= pace.n * (whole + 1)


@pytest.mark.parametrize("n", [50, 127, 128, 129, 200, 1000, 3000])
@pytest.mark.parametrize("span", [0.0, 1 / 128])
def test_at_most_two_percent_fewer_are_granted_if_they_come_one_by_one(n: int, span: float) -> None:
    """RATE-01: where many grants share an entry, each of which counts until the last of them is old enough."""
    pace, history, total = Pace(n, 10.0, n), History(), 0
    instants = [number * 10.0 / n / 1.3 for number in range(8 * n)]
    for now in instants:
        if history.room(now, pace):
            history.add(now, 1, pace, span * pace.per)
            total += 1
    possible = most_possible(n, 10.0, ((now, 1) for now in instants))
    assert 0.98 * possible <= total <= possible
    assert len(list(history)) <= 2 * EXACT + 2


@given(st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 30), st.floats(0, 0.1)), max_size=40), st.integers(1, 50))
def test_permits_that_are_used_later_are_counted_from_their_use(blocks: list[tuple[float, int, float]], n: int) -> None:
    """RATE-06: a block that is good for a while is strict too, wherever in that while its permits are used."""
    pace, history, now = Pace(n, 1.0, n), History(), 0.0
    times: list[float] = []
    for wait, want, span in blocks:
        now += wait
        count = min(want, history.room(now, pace))
        if count:
            history.add(now, count, pace, span)
            times += [now + span * ((len(times) + number) % 3) / 2 for number in range(count)]
    assert most_in_any_window(times, 1.0) <= n


def test_memory_is_bounded_whatever_is_asked() -> None:
    """RATE-02: a key remembers a bounded number of entries, also if very different rates are asked in turn."""
    history, now = History(), 0.0
    fast, slow = Pace(1000, 1.0, 1000), Pace(10**9, 3600.0, 10**9)
    for number in range(40_000):
        now += 0.01
        pace = slow if number % 2 else fast
        assert history.room(now, pace)
        history.add(now, 1, pace)
    assert history.used(now, 3600.0) >= 40_000
    assert len(list(history)) < 8 * 1024
    rates = History()
    for number in range(100_000):
        rates.add(number * 1e-5, 1, Pace(10**6, 1.0, 10**6))
    assert len(list(rates)) <= 2 * EXACT + 2


@given(st.lists(st.tuples(st.floats(0, 2), st.sampled_from([0.5, 5.0, 50.0])), max_size=150))
def test_each_call_is_judged_by_its_own_rate_against_all_grants(calls: list[tuple[float, float]]) -> None:
    """RATE-02: with several rates on one key, each is granted exactly if fewer than its n were in its own window."""
    history, now, times = History(), 0.0, [0.0]
    history.add(now, 1, Pace(5, 50.0, 5))
    assert history.used(now, 50.0) == 1  # grants are remembered as long as the longest `per` that was asked about
    for wait, per in calls:
        now += wait
        pace = Pace(5, per, 5)
        in_window = sum(time + per > now or now - time < per for time in times)
        assert bool(history.room(now, pace)) == (in_window < 5)
        if history.room(now, pace):
            history.add(now, 1, pace)
            times.append(now)


def test_what_was_not_used_is_taken_back() -> None:
    history, pace = History(), Pace(3, 10.0, 3)
    history.add(0.0, 2, pace, 1.0)
    history.add(0.5, 1, pace, 1.0)
    assert history.room(0.6, pace) == 0
    history.take_back(0.0, 1)
    assert history.room(0.6, pace) == 1
    history.take_back(7.0, 1)  # of no grant
    assert history.room(0.6, pace) == 1


def test_a_history_is_told_by_its_entries() -> None:
    known = History([Entry(-0.9, -0.8, 2), Entry(-0.1, 0.0, 1)])
    assert known.used(0.0, 1.0) == 3
    outlook = known.outlook(0.0, Pace(3, 1.0, 3))
    assert [round(outlook.after(count), 9) for count in (1, 2, 3, 4, 6)] == [0.2, 0.2, 1.0, 1.2, 2.0]
    assert known.outlook(0.0, Pace(3, 1.0, 3), blocked=5.0).after(1) == 5.0
