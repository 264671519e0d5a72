"""Records as text: JSON in ASCII, so that a NUL or a lone surrogate is stored as well as any other character."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
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


_NEITHER_SORTED_NOR_SKIPPED = (False, False)
_NAN = True


def _encoder() -> Callable[[object], str]:
    """Return the standard library's encoder, made once: `JSONEncoder.encode` makes it anew for each call."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=_plain).encode
    pieces = make(
        None, _plain, json.encoder.encode_basestring_ascii, None, ":", ",", *_NEITHER_SORTED_NOR_SKIPPED, _NAN
    )
    return lambda value: "".join(pieces(value, 0))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

encode = _encoder()
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


def events_text(events: Sequence[EventRecord]) -> str:
    """Return events as text: a list of lists, with instants in microseconds since 1970."""
    return encode([(no, kind, (at - _EPOCH) // _MICROSECOND, body) for no, kind, at, body in events])


def events(text: str) -> list[EventRecord]:
    """Return the events that were written as `text`: a list of lists."""
    return [EventRecord(no, kind, _EPOCH + at * _MICROSECOND, body) for no, kind, at, body in decode(text)]


def mapping(text: str | None) -> dict[str, object]:
    """Return the mapping that was written as `text`; an empty one for None."""
    return {} if text is None else decode(text)


def microseconds(instant: datetime) -> str:
    """Return an instant as microseconds since 1970."""
    return str((instant - _EPOCH) // _MICROSECOND)


def legible(text: str) -> str:
    """Return `text` with what Postgres refuses (NUL, lone surrogates) written out."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
