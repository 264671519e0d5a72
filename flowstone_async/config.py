"""Values that callers configure: durations, and how a bad one is refused."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from flowstone_async.errors import ConfigError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def seconds(value: timedelta | float | str, *, what: str = "duration", zero: bool = False) -> float:
    """Return a duration in seconds.

    Args:
        value: A `timedelta`, a number of seconds, or text such as `"500ms"`, `"30s"`, `"15m"`, `"24h"`, `"7d"`.
        what: The option's name, for the message.
        zero: Whether zero is allowed.

    Raises:
        ConfigError: The value is unreadable, negative, not finite, or zero where that is not allowed.
    """
    found = _read(value)
    if found is None or not math.isfinite(found) or found < 0 or (found == 0 and not zero):
        least = "zero or more" if zero else "more than zero"
        raise ConfigError(
            f"{what}={value!r} is not a duration",
            hint=f'Give a timedelta, seconds, or text such as "500ms", "30s", "15m", "24h", "7d"; {least}.',
        )
    return found


def _read(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str) and (match := _TEXT.fullmatch(value.strip())):
        return float(match[1]) * _UNITS[match[2]]
    return None
