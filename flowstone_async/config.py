"""Values that callers configure: durations, numbers, switches, words, and how a bad one is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeAlias

from flowstone_async.errors import ConfigError

Duration: TypeAlias = timedelta | float | str
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ENDLESS = 10.0**300
_LONGEST = 2_900_000 * 86_400.0
"""What still is an instant once it is added to now, in seconds."""
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
    if found is not None and _LONGEST < found < math.inf:
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
    """Return a text, or None for none.

    Raises:
        ConfigError: It is something else, or empty.
    """
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigError(f"{what}={value!r}", hint="Give a text, or leave it out.")
    return value


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
