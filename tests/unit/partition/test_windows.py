"""Time windows: which keys they have, where they open, and how they answer (PART-01, PART-08, PART-10)."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flowstone_async.definition.calendar_windows import CalendarWindows, Daily, Monthly, Weekly
from flowstone_async.definition.instant_windows import Every, Hourly
from flowstone_async.definition.windows import TimeWindows
from flowstone_async.errors import ConfigError, PartitionError

unhurried = settings(deadline=None)  # a zone is probed once per process

days = Daily("2025-01-01", tz="Europe/Paris")
hours = Hourly("2025-01-01", tz="Europe/Paris")

zones = st.sampled_from(
    [
        *("UTC", "Europe/Paris", "America/New_York", "America/Sao_Paulo", "America/St_Johns", "America/Toronto"),
        *("Asia/Kathmandu", "Asia/Kolkata", "Asia/Gaza", "Africa/Casablanca", "Africa/Monrovia", "Europe/Dublin"),
        *("Australia/Lord_Howe", "Antarctica/Troll", "Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati"),
        *("Asia/Manila", "America/Juneau", "Asia/Pyongyang", "America/Caracas", "Pacific/Chatham", "Asia/Tehran"),
    ]
)
moments = st.datetimes(datetime(1840, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
kinds = st.sampled_from([Hourly, Daily, Weekly, Monthly])
lengths = st.sampled_from(["1s", "15m", "1h", "7h", "1d", 0.5])


@st.composite
def sets(draw: st.DrawFn) -> TimeWindows[Any]:
    tz, start = draw(zones), draw(moments)
    if draw(st.integers(0, 4)) == 0:
        return Every(draw(lengths), start, tz=tz)
    kind: type[TimeWindows[Any]] = draw(kinds)
    return kind(start, tz=tz)


@unhurried
@given(sets(), moments)
def test_windows_tile_time(windows: TimeWindows[Any], moment: datetime) -> None:
    """PART-10: every instant is in exactly one window, and a window ends where the next one starts."""
    assume(windows.opens(windows.start) <= moment)
    key = windows.key_of(moment)
    start, end = windows.window(key)
    assert start <= moment < end
    following = windows.next(key)
    assert following is not None
    assert windows.window(following).start == end
    assert windows.previous(following) == key
    assert windows.key_of(start) == key
    assert windows.key_of(end - timedelta(microseconds=1)) == key
    assert windows.key_of(end) == following
    assert windows.contains(key)


@unhurried
@given(sets(), st.integers(0, 3_000_000))
def test_index_and_key_are_inverse(windows: TimeWindows[Any], index: int) -> None:
    """PART-10: by arithmetic, over centuries."""
    try:
        key = windows.key_at(index)
    except PartitionError:
        assume(False)  # behind the last year
        return
    assert windows.index_of(key) == index
    assert windows.validate(key) == key
    if index:
        previous = windows.previous(key)
        assert previous is not None
        assert windows.index_of(previous) == index - 1


@unhurried
@given(sets(), st.integers(0, 80_000), st.integers(0, 60))
def test_a_range_counts_what_it_lists(windows: TimeWindows[Any], first: int, length: int) -> None:
    """PART-10: ranges include both ends."""
    keys = windows.between(windows.key_at(first), windows.key_at(first + length))
    listed = list(keys)
    assert keys.count == len(keys) == len(listed) == length + 1
    assert listed == [windows.key_at(index) for index in range(first, first + length + 1)]
    assert all(low < high for low, high in pairwise(listed))
    assert listed[::-1] == list(reversed(keys))
    assert (keys.first, keys.last) == (listed[0], listed[-1])


@unhurried
@given(sets(), moments)
def test_keys_end_at_the_last_closed_window(windows: TimeWindows[Any], now: datetime) -> None:
    """PART-01, PART-09: `all()` ends there; open sets accept future keys all the same."""
    closed = windows.last_closed(now)
    keys = windows.keys(now)
    assert windows.count(now) == keys.count
    assert keys.last == closed
    if closed is None:
        assert windows.window(windows.start).end > now
        return
    assert windows.window(closed).end <= now
    current = windows.next(closed)
    assert current is not None
    assert windows.window(current).end > now


@unhurried
@given(sets(), st.integers(0, 80_000))
def test_shown_keys_can_be_typed(windows: TimeWindows[Any], index: int) -> None:
    """CLI-02."""
    key = windows.key_at(index)
    assert windows.parse(windows.format(key)) == key


@unhurried
@given(sets(), st.integers(0, 1000), st.booleans())
def test_repr_reads_like_the_constructor(windows: TimeWindows[Any], index: int, ended: bool) -> None:
    """PART-01: and sets of one rule are equal."""
    names = {kind.__name__: kind for kind in (Hourly, Daily, Weekly, Monthly, Every)}
    if ended and not isinstance(windows, Every):
        end = windows.key_at(index)
        windows = type(windows)(windows.opens(windows.start), end=end, tz=windows.tz)
        assert windows.end == end
    again = eval(repr(windows), names)
    assert again == windows
    assert hash(again) == hash(windows)
    assert again.identity() == windows.identity()
    assert pickle.loads(pickle.dumps(windows)) == windows


@pytest.mark.parametrize(
    ("windows", "text", "identity", "shown"),
    [
        (days, "daily from 2025-01-01 (Europe/Paris)", "daily:2025-01-01..@Europe/Paris", None),
        (
            Daily("2025-01-01", end="2025-12-31"),
            "daily from 2025-01-01 to 2025-12-31 (UTC)",
            "daily:2025-01-01..2025-12-31@UTC",
            "Daily('2025-01-01', end='2025-12-31')",
        ),
        (
            Weekly("2025-01-01"),
            "weekly from 2024-12-30 (UTC)",
            "weekly:2024-12-30..@UTC",
            "Weekly('2024-12-30')",
        ),
        (
            hours,
            "hourly from 2025-01-01T00:00:00+01:00 (Europe/Paris)",
            "hourly:2024-12-31T23:00:00+00:00..@Europe/Paris",
            "Hourly('2025-01-01T00:00:00+01:00', tz='Europe/Paris')",
        ),
        (
            Every(timedelta(minutes=15), date(2025, 1, 1)),
            "every 15m from 2025-01-01T00:00:00+00:00 (UTC)",
            "every 15m:2025-01-01T00:00:00+00:00..@UTC",
            "Every('15m', '2025-01-01T00:00:00+00:00')",
        ),
    ],
)
def test_sets_describe_themselves(windows: TimeWindows[Any], text: str, identity: str, shown: str | None) -> None:
    """PART-01."""
    assert windows.describe() == text
    assert windows.identity() == identity
    assert shown is None or repr(windows) == shown


def test_other_rules_are_other_sets() -> None:
    """PART-09: assets with the same set are matched key by key."""
    same = {Daily("2025-01-01"), Daily(date(2025, 1, 1)), Daily(start="2025-01-01", end=None, tz="UTC")}
    assert len(same) == 1
    other = {
        *(Daily("2025-01-02"), Daily("2025-01-01", end="2025-01-02"), Daily("2025-01-01", tz="Europe/Paris")),
        *(Monthly("2025-01-01"), Hourly("2025-01-01"), Every("1h", "2025-01-01"), Every("15m", "2025-01-01")),
    }
    assert len(other | same) == 8
    assert Every("60s", "2025-01-01") == Every("1m", "2025-01-01") == Every(60, "2025-01-01T00:00Z")


def test_the_first_window_holds_the_start_and_is_known_by_its_first_day() -> None:
    """PART-01: weekly and monthly keys are first days."""
    assert Weekly("2025-01-01").start == date(2024, 12, 30)
    assert Weekly("2025-01-06").start == date(2025, 1, 6)
    assert Monthly("2025-01-15", end="2025-03-31").whole()[-1] == date(2025, 3, 1)
    assert Hourly("2025-01-01T09:30", tz="Asia/Kolkata").start == datetime(2025, 1, 1, 3, 30, tzinfo=UTC)
    assert Every("15m", "2025-01-01T09:07").start == datetime(2025, 1, 1, 9, 7, tzinfo=UTC)
    assert Daily(datetime(2025, 1, 1, 23, 30, tzinfo=UTC), tz="Europe/Paris").start == date(2025, 1, 2)


def test_a_date_as_an_end_means_all_windows_that_start_on_it() -> None:
    """PART-10: ranges include both ends."""
    assert Hourly("2025-01-01", end="2025-01-01").whole().count == 24
    assert Every("15m", "2025-01-01").range("2025-01-01", date(2025, 1, 2)).count == 2 * 96
    assert Every("7h", "2025-01-01").range("2025-01-02", "2025-01-02").last == datetime(2025, 1, 2, 18, tzinfo=UTC)
    assert hours.range("2025-01-01T22:00", "2025-01-02T01:00").count == 4
    assert Weekly("2025-01-01").range("2025-01-01", "2025-01-31").count == 5
    assert Monthly("2025-01-01").range("2025-01-15", "2025-12-15").count == 12
    january = days.range("2025-01-01", "2025-01-31")
    assert january == days.range(date(2025, 1, 1), date(2025, 1, 31))
    assert len(january) == 31


@pytest.mark.parametrize(
    ("windows", "key", "words"),
    [
        (days, "2025-01-15", r"of type str, but date is needed: daily from.*\n  Pass datetime.date\(2025, 1, 15\)"),
        (days, "x", r"of type str, but date is needed: .*\n  Pass a date"),
        (days, datetime(2025, 1, 15, tzinfo=UTC), "of type datetime, but date is needed"),
        (days, None, r"no partition was given.*\n  Pass partition=datetime.date\(2025, 1, 1\)"),
        (days, 20250115, "of type int, but date is needed"),
        (days, 1.5, "cannot be a float"),
        (days, (date(2025, 1, 15),), "of type tuple, but date is needed"),
        (days, date(2024, 12, 31), r"2024-12-31 is before the first partition .*\n  Valid keys: 2025-01-01 on"),
        (
            Daily("2025-01-01", end="2025-01-31"),
            date(2025, 2, 1),
            r"2025-02-01 is behind the last partition .*\n  Valid keys: 2025-01-01 to 2025-01-31",
        ),
        (days, date(9999, 12, 31), "not in the years"),
        (
            Weekly("2025-01-01"),
            date(2025, 1, 8),
            r"is a Wednesday, .*Monday\n  Nearest keys: 2025-01-06 and 2025-01-13\.",
        ),
        (Weekly("2025-01-01", end="2025-01-08"), date(2025, 1, 8), r"Nearest keys: 2025-01-06\."),
        (Monthly("2025-01-01"), date(2025, 2, 3), r"day 3 of .*\n  Nearest keys: 2025-02-01 and 2025-03-01"),
        (hours, date(2025, 1, 15), "of type date, but datetime is needed"),
        (hours, datetime(2025, 1, 15, 9), "is a naive datetime, but an aware one is needed"),  # noqa: DTZ001
        (
            hours,
            datetime(2025, 1, 15, 9, 30, tzinfo=UTC),
            r"10:30:00\+01:00 starts no window .*\n  Nearest keys: 2025-01-15T10:00:00\+01:00 and .*T11:00",
        ),
        (Every("15m", "2025-01-01"), datetime(2025, 1, 1, 0, 10, tzinfo=UTC), r"Nearest keys: .*T00:00.* and .*T00:15"),
        (hours, datetime(9999, 12, 31, 23, tzinfo=UTC), "not in the years"),
        (hours, datetime(1, 1, 1, tzinfo=UTC), "not in the years"),
    ],
)
def test_a_wrong_key_is_refused_with_the_right_ones(windows: TimeWindows[Any], key: object, words: str) -> None:
    """PART-08: another type, or outside of the set; the valid range or the nearest keys are named."""
    with pytest.raises(PartitionError, match=words):
        windows.validate(key)
    assert not windows.contains(key)


def test_the_error_carries_facts() -> None:
    """PART-08, ERR-01."""
    with pytest.raises(PartitionError) as caught:
        Daily("2025-01-01", end="2025-01-31").validate(date(2025, 2, 1))
    assert caught.value.partition == date(2025, 2, 1)
    assert caught.value.details == {"valid_from": "2025-01-01", "valid_to": "2025-01-31"}
    with pytest.raises(PartitionError) as caught:
        Weekly("2025-01-01").validate(date(2025, 1, 8))
    assert caught.value.details == {"nearest": ["2025-01-06", "2025-01-13"]}


def test_keys_come_back_as_the_store_gives_them() -> None:
    """PART-05: hourly keys are instants, in UTC."""
    key = hours.validate(datetime(2025, 1, 15, 10, tzinfo=ZoneInfo("Europe/Paris")))
    assert (key, key.tzinfo) == (datetime(2025, 1, 15, 9, tzinfo=UTC), UTC)


@pytest.mark.parametrize(
    ("kind", "args", "options", "words"),
    [
        (Daily, ["x"], {}, r"start='x': 'x' is no date\n  Write it like"),
        (Daily, ["2025-02-30"], {}, "is no date"),
        (Daily, [20250101], {}, "is no date"),
        (Daily, [datetime(2025, 1, 1)], {}, r"naive datetime.*\n  Pass datetime.date\(2025, 1, 1\)"),  # noqa: DTZ001
        (Hourly, [datetime(2025, 1, 1)], {}, r"naive datetime.*\n  .*is read in UTC"),  # noqa: DTZ001
        (Hourly, ["x"], {}, "is no point in time"),
        (Hourly, [7], {}, "is no point in time"),
        (Daily, ["2025-01-02"], {"end": "2025-01-01"}, "end='2025-01-01' is before start='2025-01-02'"),
        (Daily, ["2025-01-01"], {"end": "x"}, "end='x'"),
        (Daily, ["9999-01-01"], {}, "not in the years"),
        (Daily, ["2025-01-01"], {"tz": "Europe/Pariss"}, "is not a time zone\n  Did you mean 'Europe/Paris'"),
        (Daily, ["2025-01-01"], {"tz": "../UTC"}, "is not a time zone"),
        (Daily, ["2025-01-01"], {"tz": UTC}, "is not the name of a time zone"),
        (Every, ["0s", "2025-01-01"], {}, "every='0s' is not a duration"),
        (Every, ["400d", "2025-01-01"], {}, "no length of a window"),
        (Every, [1e-9, "2025-01-01"], {}, "no length of a window"),
    ],
)
def test_a_set_that_cannot_be_is_a_config_error(
    kind: Callable[..., object], args: list[object], options: dict[str, object], words: str
) -> None:
    """PART-01: durations and datetimes by the conventions."""
    with pytest.raises(ConfigError, match=words):
        kind(*args, **options)


def test_ranges_that_cannot_be_are_refused() -> None:
    """PART-08."""
    for first, last, words in (
        ("2025-02-01", "2025-01-01", "ends before it starts\n  Swap"),
        ("2024-12-31", "2025-01-01", "'2024-12-31' is before the first partition"),
        ("x", "2025-01-01", "is no date"),
        ("2025-01-01", "9999-12-31", "not in the years"),
    ):
        with pytest.raises(PartitionError, match=words):
            days.range(first, last)


def test_typed_ranges() -> None:
    """CLI-02: `-p KEY|A..B`."""
    assert days.parse_range("2025-01-01..2025-01-31").count == 31
    assert list(days.parse_range("2025-01-05")) == [date(2025, 1, 5)]
    assert hours.parse_range("2025-01-01..2025-01-01").count == 24
    for text in ("..", "2025-01-01..", "2025-01-02..2025-01-01", "x..y", ""):
        with pytest.raises(PartitionError):
            days.parse_range(text)


def test_local_text_names_an_instant_or_is_refused() -> None:
    """PART-10, CLI-02: the repeated hour has to be told apart, the skipped one does not exist."""
    assert hours.parse("2025-01-15T10:00") == datetime(2025, 1, 15, 9, tzinfo=UTC)
    assert hours.parse("2025-10-26T02:00+01:00") == datetime(2025, 10, 26, 1, tzinfo=UTC)
    assert hours.parse("dt:2025-01-15T09:00:00+00:00") == datetime(2025, 1, 15, 9, tzinfo=UTC)
    with pytest.raises(PartitionError, match=r"twice\n  Say which: .*\+02:00 or .*\+01:00"):
        hours.parse("2025-10-26T02:00")
    with pytest.raises(PartitionError, match="never"):
        hours.parse("2025-03-30T02:30")
    with pytest.raises(PartitionError, match="is not a datetime"):
        hours.parse("2025-01-15")
    with pytest.raises(PartitionError, match="not in the years"):
        hours.parse("0001-01-01T00:00+14:00")


def test_last_closed_is_yesterday_for_a_daily_set() -> None:
    """SCHED-04: at 02:00, the window that has just closed."""
    assert days.last_closed(datetime(2025, 1, 15, 1, tzinfo=UTC)) == date(2025, 1, 14)
    assert days.last_closed(datetime(2025, 1, 14, 23, tzinfo=UTC)) == date(2025, 1, 14)
    assert days.last_closed(datetime(2025, 1, 14, 22, 59, tzinfo=UTC)) == date(2025, 1, 13)
    assert days.last_closed(datetime(2024, 6, 1, tzinfo=UTC)) is None
    ended = Daily("2025-01-01", end="2025-01-31")
    assert ended.last_closed(datetime(2026, 1, 1, tzinfo=UTC)) == date(2025, 1, 31)
    assert ended.last_closed(datetime(2025, 1, 31, 12, tzinfo=UTC)) == date(2025, 1, 30)
    with pytest.raises(ConfigError, match="naive datetime"):
        days.last_closed(datetime(2025, 1, 15))  # noqa: DTZ001


def test_ends() -> None:
    """PART-01: with an end a set is finite."""
    ended = Daily("2025-01-01", end="2025-01-31")
    assert (ended.finite, days.finite) == (True, False)
    assert ended.whole().count == 31
    assert ended.next(date(2025, 1, 31)) is None
    assert ended.previous(date(2025, 1, 1)) is None
    with pytest.raises(ConfigError, match="has no end"):
        days.whole()
    for index in (-1, 31):
        with pytest.raises(PartitionError, match=f"no key at index {index}"):
            ended.key_at(index)
    for windows in (days, hours, Every("1s", "2025-01-01"), Monthly("2025-01-01"), Weekly("2025-01-01")):
        with pytest.raises(PartitionError, match="no key at index"):
            windows.key_at(10**15)
    with pytest.raises(PartitionError, match="is before the first"):
        days.key_of(datetime(2024, 1, 1, tzinfo=UTC))


def test_calendar_sets_are_in_step_whatever_their_ends() -> None:
    """PART-09: what `last(n)` counts on."""
    assert days.in_step_with(Daily("2020-01-01", tz="Europe/Paris"))
    assert not days.in_step_with(Daily("2025-01-01"))
    assert not days.in_step_with(Weekly("2025-01-01", tz="Europe/Paris"))
    assert hours.in_step_with(Hourly("2020-01-01", tz="Europe/Paris"))
    assert Every("15m", "2025-01-01").in_step_with(Every("15m", "2025-01-02", tz="Europe/Paris"))
    assert not Every("15m", "2025-01-01").in_step_with(Every("15m", "2025-01-01T00:01"))
    assert days.position(date(2024, 12, 30)) == -2
    assert hours.position(datetime(2024, 12, 31, 20, tzinfo=UTC)) == -3
    assert isinstance(days, CalendarWindows)
