"""What to do about a value that cannot be kept: said by what is wrong with it, not only by its declared type."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Iterator

from flowstone_async.definition.assignable import render
from flowstone_async.definition.kind import type_of
from flowstone_async.io.fingerprint import Misfit

_PICKLE = 'use an I/O manager with format="pickle"'
_YIELD = "Let the body yield the items itself: an async generator is a stream. Or return a list of them."
_BARE_DICT = re.compile(r"\b(?:dict|Mapping)\b(?!\[)")


def limit(error: Exception) -> Misfit:
    """Return which limit of JSON a value exceeds, as `to_json` and `from_json` tell of it."""
    text = str(error)
    if "Unicode" in text:
        hint = f'Take it out, as text.encode("utf-8", "replace").decode() does, return bytes, or {_PICKLE}.'
        return Misfit("text has a lone surrogate, which UTF-8 cannot hold", hint=hint)
    if "digits" in text or "range" in text:
        return Misfit("an integer has more than 4300 digits", hint=f"Return it as text, or {_PICKLE}.")
    return Misfit("it is nested too deeply", hint=f"Return it in flatter form, or {_PICKLE}.")


def remedy(name: str, misfit: Misfit, value: object) -> str:
    """Return the way out for a value that does not fit its declared type.

    Args:
        name: The declared type.
        misfit: What is wrong.
        value: The value; None where it is an item of several.
    """
    if misfit.hint is not None:
        return misfit.hint
    if misfit.problem.startswith("expected str, found ") and _BARE_DICT.search(name):
        declared = render(type_of(value))
        shown = declared if "dict[" in declared else "dict[int, str], for example"
        return f"Keys are text unless a type is declared for them: declare {shown}."
    if _is_read_once(value):
        return _YIELD
    return f"Return exactly {name}, correct the annotation, or {_PICKLE}."


def remedy_for_readers(value: object) -> str:
    """Return the way out for a value that cannot be copied for each of its readers."""
    return _YIELD if _is_read_once(value) else "io.Memory(copy=False) hands out the same object to all of them."


def _is_read_once(value: object) -> bool:
    return isinstance(value, AsyncIterable | Iterator)
