"""Windows over changes of the clock: no local day or hour is lost or doubled (PART-10)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowstone_async.definition.calendar_windows import Daily, Monthly, Weekly
from flowstone_async.definition.instant_windows import Every, Hourly
from flowstone_async.definition.local_time import load_zone, offset_at, offset_changes
from flowstone_async.errors import PartitionError

HOUR = timedelta(hours=1)

zones = st.timezone_keys().filter(lambda name: not name.startswith(("posix", "right", "posixrules", "localtime")))


def local(tz: str, moments: list[datetime]) -> list[str]:
    return [moment.astimezone(ZoneInfo(tz)).strftime("%H:%M %z") for moment in moments]


@pytest.mark.parametrize(
    ("tz", "day", "hours"),
    [
        ("Europe/Paris", "2025-03-30", 23),
        ("Europe/Paris", "2025-10-26", 25),
        ("Europe/Paris", "2025-06-01", 24),
        ("America/Sao_Paulo", "2018-11-04", 23),  # midnight does not exist
        ("America/Sao_Paulo", "2018-02-17", 25),  # 23:00 to 24:00 comes twice
        ("America/Toronto", "1919-03-31", 23.5),  # 23:30 jumped to 00:30
        ("Australia/Lord_Howe", "2025-10-05", 23.5),
        ("Australia/Lord_Howe", "2025-04-06", 24.5),
        ("Asia/Kolkata", "2025-01-01", 24),
        ("Pacific/Apia", "2011-12-29", 24),
        ("Pacific/Apia", "2011-12-31", 24),
    ],
)
def test_a_local_day_is_one_partition_of_its_own_length(tz: str, day: str, hours: float) -> None:
    """PART-10."""
    days = Daily("1900-01-01", tz=tz)
    start, end = days.window(date.fromisoformat(day))
    assert (end - start) / HOUR == hours


@pytest.mark.parametrize(
    ("tz", "first", "hours"),
    [
        ("Europe/Paris", "2025-10-26T01:00", ["01:00 +0200", "02:00 +0200", "02:00 +0100", "03:00 +0100"]),
        ("Europe/Paris", "2025-03-30T00:00", ["00:00 +0100", "01:00 +0100", "03:00 +0200", "04:00 +0200"]),
        ("Australia/Lord_Howe", "2025-04-06T01:00+11", ["01:00 +1100", "01:30 +1030", "02:00 +1030", "03:00 +1030"]),
        ("Australia/Lord_Howe", "2025-10-05T01:00", ["01:00 +1030", "02:30 +1100", "03:00 +1100", "04:00 +1100"]),
        ("America/St_Johns", "2006-10-28T23:00", ["23:00 -0230", "00:00 -0230", "23:01 -0330", "00:00 -0330"]),
        ("Asia/Kathmandu", "2025-01-01T00:00", ["00:00 +0545", "01:00 +0545", "02:00 +0545", "03:00 +0545"]),
    ],
)
def test_the_repeated_hour_is_two_and_the_skipped_one_is_none(tz: str, first: str, hours: list[str]) -> None:
    """PART-10."""
    keys = Hourly("2000-01-01", tz=tz)
    start = datetime.fromisoformat(first)
    start = start if start.tzinfo else start.replace(tzinfo=ZoneInfo(tz))
    index = keys.index_of(start)
    assert local(tz, [keys.key_at(index + step) for step in range(4)]) == hours
    assert local(tz, list(keys.between(keys.key_at(index), keys.key_at(index + 3)))) == hours


def test_the_skipped_hour_is_no_key() -> None:
    """PART-10: nobody can name it by its instant either; its local time is refused when typed."""
    hours = Hourly("2025-01-01", tz="Europe/Paris")
    with pytest.raises(PartitionError, match="never"):
        hours.parse("2025-03-30T02:00")
    assert hours.range("2025-03-30", "2025-03-30").count == 23
    assert hours.range("2025-10-26", "2025-10-26").count == 25


def test_a_day_that_the_calendar_skipped_is_no_key() -> None:
    """PART-10: 2011-12-30 never came in Apia."""
    days = Daily("2011-12-01", tz="Pacific/Apia")
    with pytest.raises(
        PartitionError, match=r"does not exist in Pacific/Apia.*\n  Nearest keys: 2011-12-29 and 2011-12-31"
    ):
        days.validate(date(2011, 12, 30))
    assert days.next(date(2011, 12, 29)) == date(2011, 12, 31)
    assert list(days.range("2011-12-28", "2012-01-01")) == [date(2011, 12, each) for each in (28, 29, 31)] + [
        date(2012, 1, 1)
    ]
    assert days.range("2011-12-30", "2011-12-31").first == date(2011, 12, 31)
    assert days.index_of(date(2011, 12, 31)) == 29
    assert days.key_at(29) == date(2011, 12, 31)
    assert days.position(date(2011, 11, 30)) == -1
    assert Daily("2012-01-01", tz="Pacific/Apia").position(date(2011, 12, 29)) == -2


def test_a_day_that_came_twice_is_one_partition() -> None:
    """PART-10: 1892-07-04 came twice in Apia."""
    start, end = Daily("1892-07-01", tz="Pacific/Apia").window(date(1892, 7, 4))
    assert end - start == timedelta(days=2)


def test_elapsed_time_does_not_look_at_clocks() -> None:
    """PART-01: `Every` follows elapsed time from its start."""
    quarters = Every("6h", "2025-03-29", tz="Europe/Paris")
    starts = local("Europe/Paris", list(quarters.between(quarters.start, quarters.key_at(6))))
    assert starts == [
        *("00:00 +0100", "06:00 +0100", "12:00 +0100", "18:00 +0100"),
        *("00:00 +0100", "07:00 +0200", "13:00 +0200"),
    ]


@settings(max_examples=60, deadline=None)
@given(zones, st.integers(1900, 2060))
@example("America/Sao_Paulo", 2018)
@example("Africa/Casablanca", 2031)
@example("Pacific/Apia", 2011)
@example("Asia/Gaza", 2040)
def test_a_year_of_any_zone_has_every_day_and_hour_once(tz: str, year: int) -> None:
    """PART-10: days and hours tile the year, and hours never straddle a day."""
    days = list(Daily(f"{year}-01-01", tz=tz).range(f"{year}-01-01", f"{year}-12-31"))
    assert days == sorted(set(days))
    assert len(days) in {364, 365, 366}
    every_day = Daily(f"{year}-01-01", tz=tz)
    windows = [every_day.window(day) for day in days]
    assert all(low.end == high.start for low, high in pairwise(windows))
    assert all(timedelta(hours=20) <= end - start <= timedelta(hours=49) for start, end in windows)
    hours = Hourly(f"{year}-01-01", tz=tz)
    keys = hours.range(f"{year}-01-01", f"{year}-12-31")
    listed = list(keys)
    assert keys.count == len(listed)
    assert all(timedelta(0) < high - low <= HOUR for low, high in pairwise(listed))
    assert {window.start for window in windows} <= set(listed)


@settings(max_examples=30, deadline=None)
@given(zones, st.integers(1850, 2400), st.integers(0, 600))
def test_months_and_weeks_are_made_of_whole_days(tz: str, year: int, steps: int) -> None:
    """PART-10."""
    days = Daily("1850-01-01", tz=tz)
    for windows in (Weekly(f"{year}-01-01", tz=tz), Monthly(f"{year}-01-01", tz=tz)):
        key = windows.key_at(steps)
        start, end = windows.window(key)
        assert days.opens(key) == start
        assert days.key_of(end) == windows.next(key)


@settings(max_examples=30, deadline=None)
@given(zones, st.integers(1850, 2100))
def test_changes_of_a_zone_are_found_by_probing(tz: str, year: int) -> None:
    """PART-10: none hides between two probes, at any hour of the year."""
    zone = load_zone(tz)
    changes = offset_changes(zone, year)
    for at, before, after in changes:
        assert offset_at(zone, at - timedelta(seconds=1)) == before != after == offset_at(zone, at)
    start = datetime(year, 1, 1, tzinfo=UTC)
    offset = offset_at(zone, start - timedelta(seconds=1))
    expected = {change.at: change.after for change in changes}
    at = start
    for _ in range(366 * 6):
        offset = next((after for moment, after in expected.items() if at - 4 * HOUR < moment <= at), offset)
        if at.year == year:
            assert offset_at(zone, at) == offset
        at += 4 * HOUR


@pytest.mark.parametrize("tz", ["Europe/Paris", "Africa/Casablanca", "Australia/Lord_Howe", "America/Sao_Paulo"])
def test_far_years_repeat_near_ones(tz: str) -> None:
    """PART-10: rules of the calendar come again after 400 years, so that a far key costs no long search."""
    zone = load_zone(tz)
    for year in (2500, 3333, 9000):
        for change in offset_changes(zone, year):
            assert change.at.year == year
            assert offset_at(zone, change.at - timedelta(seconds=1)) == change.before
            assert offset_at(zone, change.at) == change.after
    hours = Hourly("2025-01-01", tz=tz)
    far = hours.key_of(datetime(9998, 12, 31, 12, tzinfo=UTC))
    assert hours.key_at(hours.index_of(far)) == far
