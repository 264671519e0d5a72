"""Values that callers configure: durations, numbers, switches, words, and how a bad one is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from flowstone_async.errors import ConfigError

Duration: TypeAlias = timedelta | float | str
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST = 2_900_000 * 86_400.0
"""What still is an instant once it is added to now, in seconds."""
STORABLE = "Leave out NUL and halves of surrogate pairs: decode text with the encoding that it has."
"""What to do about a text that cannot be stored."""
_MOST_SHOWN = 200
_FIRST_YEAR, _LAST_YEAR = 2, 9998
_ENDLESS = 10.0**300
"""Seconds that no clock can count; more than a float can hold raises."""
_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def seconds(value: Duration, *, what: str = "duration", zero: bool = False) -> float:
    """Return a duration in seconds.

    Args:
        value: A `timedelta`, a number of seconds, or text such as `"500ms"`, `"30s"`, `"15m"`, `"24h"`, `"7d"`.
        what: The option's name, for the message.
        zero: Whether zero is allowed.

    Raises:
        ConfigError: The value is unreadable, negative, not finite, over 2,900,000 days, or zero where that is refused.
    """
    found = _read(value)
    if found is not None and LONGEST < found < math.inf:
        raise ConfigError(
            f"{what}={value!r} ends after the year 9999",
            hint="At most 2900000d; where there is to be no end, see what the option takes for none.",
        )
    if found is None or not math.isfinite(found) or found < 0 or (found == 0 and not zero):
        least = "zero or more" if zero else "more than zero"
        raise ConfigError(
            f"{what}={value!r} is not a duration",
            hint=f'Give a timedelta, seconds, or text such as "500ms", "30s", "15m", "24h", "7d"; {least}.',
        )
    return found


def instant(value: object, *, what: str) -> datetime:
    """Return an instant, in UTC.

    Args:
        value: What was given.
        what: The option's name, for the message.

    Raises:
        ConfigError: It is no aware datetime, or too near to the first or the last that there is to be stored.
    """
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ConfigError(
            f"{what}={value!r} is no aware datetime", hint="Give one with a time zone: datetime(…, tzinfo=UTC)."
        )
    if not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        hint = f"Give one of the years {_FIRST_YEAR} to {_LAST_YEAR}."
        raise ConfigError(f"{what}={value!r} cannot be stored in every time zone", hint=hint)
    return value.astimezone(UTC)


def whole(value: object, *, what: str, least: int = 1) -> int:
    """Return a whole number.

    Args:
        value: What was given.
        what: The option's name, for the message.
        least: The least that is allowed.

    Raises:
        ConfigError: It is no whole number, or less than that.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{what}={value!r}", hint=f"Give a whole number of {least} or more.")
    return value


def switch(value: object, *, what: str) -> bool:
    """Return a switch.

    Raises:
        ConfigError: It is neither True nor False.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{what}={value!r}", hint="Allowed are True and False.")
    return value


def word(value: object, allowed: Sequence[str], *, what: str) -> str:
    """Return one of a few words.

    Raises:
        ConfigError: It is none of `allowed`, which are listed.
    """
    if not isinstance(value, str) or value not in allowed:
        listed = ", ".join(f'"{each}"' for each in allowed)
        raise ConfigError(f"{what}={value!r}", hint=f"Allowed are {listed}.")
    return value


def text(value: object, *, what: str) -> str | None:
    """Return a text that can be stored, or None for none.

    Raises:
        ConfigError: It is something else, or empty, or holds what no database and no message takes.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{what}={value!r}"[:_MOST_SHOWN], hint="Give a text, or leave it out.")
    reason = unstorable(value)
    if reason is not None:
        raise ConfigError(f"{what}={value!r}"[:_MOST_SHOWN] + f" cannot be stored: it holds {reason}", hint=STORABLE)
    return value


def unstorable(text: str) -> str | None:
    """Return what a text holds that cannot be stored, or shown elsewhere; None if it can."""
    if "\0" in text:
        return "NUL"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair"
    return None


def _read(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float):
        return float(value) if abs(value) < _ENDLESS else math.inf
    if isinstance(value, str) and (match := _TEXT.fullmatch(value.strip())):
        return float(match[1]) * _UNITS[match[2]]
    return None
