"""Records as text: JSON in ASCII, so that a NUL or a lone surrogate is stored as well as any other character."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import cast

from flowstone_async.errors import Failure
from flowstone_async.store.records import EventRecord
from flowstone_async.types import AssetKey, Input


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    if isinstance(value, set | frozenset):
        return list(cast("Iterable[object]", value))
    raise TypeError(f"{type(value).__name__} is not JSON-compatible")


encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=_plain).encode
decode = json.JSONDecoder().decode

_FAILURE = tuple(field.name for field in fields(Failure))
_failure_values = attrgetter(*_FAILURE)


def failure_text(failure: Failure | None) -> str | None:
    """Return a failure as text."""
    return None if failure is None else encode(dict(zip(_FAILURE, _failure_values(failure), strict=True)))


def failure(text: str | None) -> Failure | None:
    """Return the failure that was written as `text`."""
    return None if text is None else Failure(**decode(text))


def inputs(text: str) -> tuple[Input, ...]:
    """Return the inputs that were written as `text`: a list of lists."""
    return tuple(
        Input(kind, name, fingerprint, None if key is None else AssetKey(*key), materialization)
        for kind, name, fingerprint, key, materialization in decode(text)
    )


def events(text: str) -> list[EventRecord]:
    """Return the events that were written as `text`: a list of lists."""
    return [EventRecord(no, kind, datetime.fromisoformat(at), body) for no, kind, at, body in decode(text)]


def mapping(text: str | None) -> dict[str, object]:
    """Return the mapping that was written as `text`; an empty one for None."""
    return {} if text is None else decode(text)


def legible(text: str) -> str:
    """Return `text` with what Postgres refuses (NUL, lone surrogates) written out."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
