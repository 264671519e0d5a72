"""Cursors: what a source may say about where to continue, and what is kept of it."""

from __future__ import annotations

import math
from typing import cast

from flowstone_async.errors import ConfigError

_DEEPEST = 32
_ALLOWED = "Give None, True or False, an int, a float, text, or lists and dicts of these (dicts with text as keys)"


def kept(cursor: object, *, what: str = "the cursor of a page") -> object:
    """Return a copy of a cursor, as it comes back from where it is stored.

    Args:
        cursor: None, a bool, int, finite float or text, or lists and dicts of these; dicts have text as keys.
        what: What it is, for the message.

    Raises:
        ConfigError: It is or contains anything else, which would be lost or come back as something else.
    """
    return _kept(cursor, what, _DEEPEST)


def _kept(value: object, what: str, depth: int) -> object:
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return value
    if depth == 0:
        raise ConfigError(f"{what} is nested more than {_DEEPEST} deep", hint="Give a flatter one.")
    if kind is float and math.isfinite(cast("float", value)):
        return value
    if kind is str and _is_text(cast("str", value)):
        return value
    if kind is list:
        return [_kept(each, what, depth - 1) for each in cast("list[object]", value)]
    if kind is dict:
        entries = cast("dict[object, object]", value)
        if all(type(key) is str and _is_text(key) for key in entries):
            return {key: _kept(each, what, depth - 1) for key, each in entries.items()}
    raise ConfigError(
        f"{what} holds {_shown(value)}, which cannot be stored as it is", hint=f"{_ALLOWED}{_way(value)}."
    )


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    kind = type(value)
    if kind is float or kind is str:
        return repr(value)
    return "a dict with keys that are no text" if kind is dict else f"a {kind.__name__}"


def _way(value: object) -> str:
    if isinstance(value, tuple):
        return "; for a tuple, a list"
    return "; for a date or time, value.isoformat()" if hasattr(value, "isoformat") else ""
