"""A value on one line, for people."""

from __future__ import annotations

from rich.pretty import traverse

_ITEMS, _TEXT, _DEPTH, _WIDTH = 5, 80, 3, 200


def preview(value: object) -> str:
    """Return the beginning of a value on one line; the rest of a large one is not looked at."""
    try:
        text = traverse(value, max_length=_ITEMS, max_string=_TEXT, max_depth=_DEPTH).render(max_width=10 * _WIDTH)
    except Exception as error:  # `__repr__` is anybody's code
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
