"""Instants typed on the command line (`submit --at`)."""

from datetime import UTC, datetime, timedelta

import pytest

from flowstone_async.cli.instant import read_instant
from flowstone_async.cli.usage import UsageError

NOW = datetime(2025, 1, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("+15m", NOW + timedelta(minutes=15)),
        ("+500ms", NOW + timedelta(milliseconds=500)),
        ("2025-01-15T09:30+01:00", datetime(2025, 1, 15, 8, 30, tzinfo=UTC)),
        ("2025-01-15T09:30:05Z", datetime(2025, 1, 15, 9, 30, 5, tzinfo=UTC)),
        ("2025-01-15 09:30:05.25-03:30", datetime(2025, 1, 15, 13, 0, 5, 250_000, tzinfo=UTC)),
    ],
)
def test_instants_and_times_from_now(text: str, instant: datetime) -> None:
    assert read_instant(text, NOW, what="--at") == instant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2025-01-15T09:30", "time zone"),
        ("2025-01-15", "time zone"),
        ("tomorrow", "no instant"),
        ("", "no instant"),
        ("15m", "no instant"),
        ("+", "not a duration"),
        ("+soon", "not a duration"),
        ("+-5m", "not a duration"),
        ("+0s", "not a duration"),
        ("+99999999999d", "after the year 9999"),
        ("2025-13-15T09:30Z", "no instant"),
    ],
)
def test_anything_else_is_refused_with_the_forms(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        read_instant(text, NOW, what="--at")
    assert refused.value.message.startswith("--at")
    assert "+15m" in (refused.value.hint or "")
