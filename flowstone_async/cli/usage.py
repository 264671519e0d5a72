"""What is wrong with a command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal


class UsageError(Exception):
    """The command line says something that cannot be done; nothing has run.

    Attributes:
        message: What was found, what was expected.
        hint: The way forward, or None.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return "Did you mean 'x'?" for the nearest known word, or None."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else None


def read_duration(text: str, *, what: str, hint: str = "Write it like 500ms, 30s, 15m or 24h.") -> float:
    """Return a duration in seconds.

    Args:
        text: What was typed.
        what: The option.
        hint: What may be typed.

    Raises:
        UsageError: It is no duration.
    """
    from flowstone_async.config import seconds
    from flowstone_async.errors import ConfigError

    try:
        return seconds(text, what=what)
    except ConfigError as error:
        raise UsageError(error.message, hint) from error


def read_timeout(text: str | None) -> float | Literal[False] | None:
    """Return the limit that `--timeout` names: seconds, False for none, None if it says nothing.

    Raises:
        UsageError: It is no duration.
    """
    if text is None:
        return None
    if text == "none":
        return False
    return read_duration(text, what="--timeout", hint="Write it like 500ms, 30s, 15m or 24h; none is no limit.")


def read_age(text: str, *, what: str) -> float | None:
    """Return the age that an option names, in seconds; None for `none`.

    Raises:
        UsageError: It is no duration.
    """
    if text == "none":
        return None
    return read_duration(text, what=what, hint="Write it like 12h or 30d; none keeps everything.")
