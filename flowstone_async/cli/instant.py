"""Instants typed on the command line."""

from __future__ import annotations

from datetime import datetime, timedelta

from flowstone_async.cli.usage import UsageError, read_duration

_FORMS = "Write it like 2025-01-15T09:30+01:00 or 2025-01-15T08:30Z, or like +15m for a time from now."


def read_instant(text: str, now: datetime, *, what: str) -> datetime:
    """Return the instant that a text names.

    Args:
        text: In ISO form with an offset, or `+` and a duration from now.
        now: The instant that durations count from, on the clock that will judge.
        what: The option.

    Raises:
        UsageError: It is neither.
    """
    try:
        if text.startswith("+"):
            return now + timedelta(seconds=read_duration(text[1:], what=what, hint=_FORMS))
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{what} {text}: that is no instant", _FORMS) from error
    if found.tzinfo is None:
        raise UsageError(f"{what} {text}: it does not say of which time zone", _FORMS)
    return found
