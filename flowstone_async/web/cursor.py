"""Places in lists, as clients hold them: opaque, and read back as strictly as anything that comes from outside."""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TypeVar, cast

from flowstone_async.web.refusal import Problem, Refused, unfit

P = TypeVar("P", str, int)

LONGEST = 4096
_MOST = 2**31 - 1
_PARTS = 2


def to_cursor(kind: str, place: str | int) -> str:
    """Return what a client gives to go on behind a place of a list of that kind."""
    text = json.dumps([kind, place], separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).rstrip(b"=").decode("ascii")


def from_cursor(kind: str, given: str | None, form: type[P]) -> P | None:
    """Return the place that a cursor stands for, or None without one.

    Raises:
        Refused: It is none that a list of that kind gave.
    """
    if given is None:
        return None
    found = _read(given)
    if not isinstance(found, list) or len(cast("list[object]", found)) != _PARTS:
        raise _strange()
    of, place = cast("list[object]", found)
    if of != kind or type(place) is not form:
        raise _strange()
    if (isinstance(place, int) and not 0 <= place <= _MOST) or (isinstance(place, str) and not _is_storable(place)):
        raise _strange()
    return place


def _read(given: str) -> object:
    try:
        return json.loads(urlsafe_b64decode(given.encode("ascii") + b"=" * (-len(given) % 4)))
    except (ValueError, RecursionError, binascii.Error):
        return None


def _is_storable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _strange() -> Refused:
    problem = Problem("query.cursor", "it is no cursor of this list")
    return unfit([problem], "query", hint="Pass `next` of the page before on as it is, or leave it out to begin anew.")
