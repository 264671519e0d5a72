"""Rows as items of a declared model; one that does not fit becomes a `BadRow`."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar, cast, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from flowstone_async.sources.source import BadRow

T = TypeVar("T")

_SLICE = 0.005
_ANYTHING = (object, Any)
_SCALARS = (bool, bytes, complex, float, int, list, set, str, tuple)


class Rows(Generic[T]):
    """Makes items of rows.

    Args:
        model: A pydantic model, dataclass, typed dict, or `dict` for rows as they are.

    Raises:
        TypeError: Rows cannot be of that type.
    """

    def __init__(self, model: type[T]) -> None:
        self._adapter: TypeAdapter[T] | None = None
        if (get_origin(model) or model) in _SCALARS:
            raise TypeError(f"{getattr(model, '__name__', model)} is no type of rows")
        if not _is_plain(model):
            try:
                self._adapter = TypeAdapter(model)
            except (PydanticUserError, NameError) as error:
                raise TypeError(str(error).partition("\n")[0]) from error

    def item(self, row: Mapping[str, Any]) -> T | BadRow:
        """Return a row, by column, as an item."""
        if self._adapter is None:
            return cast("T", dict(row))
        try:
            return self._adapter.validate_python(row)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            message = "; ".join(": ".join(filter(None, (_place(each["loc"]), each["msg"]))) for each in found)
        except Exception as error:  # validators and `__post_init__` are anybody's code
            message = f"{type(error).__name__}: {error}"
        return BadRow(message=message, key=_digest(row))

    async def items(self, rows: Iterable[Mapping[str, Any]]) -> list[T | BadRow]:
        """Return rows as items, letting the event loop run in between."""
        made: list[T | BadRow] = []
        until = time.monotonic() + _SLICE
        for row in rows:
            made.append(self.item(row))
            if time.monotonic() >= until:
                await asyncio.sleep(0)
                until = time.monotonic() + _SLICE
        return made


def model_problem(model: Any) -> str | None:
    """Return why rows cannot be of a type, or None if they can."""
    try:
        Rows(model)
    except TypeError as error:
        return f"{error}: give a pydantic model, a dataclass, a TypedDict, or dict"
    return None


def _is_plain(model: Any) -> bool:
    """Tell whether rows are of a type as they are."""
    if model in (dict, Mapping, *_ANYTHING):
        return True
    return get_origin(model) in (dict, Mapping) and get_args(model)[0] is str and get_args(model)[1] in _ANYTHING


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))


def _digest(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(row).encode("utf-8", "replace")).hexdigest()


def _canonical(value: object) -> str:
    """Return a text that is the same in every process; the order of sets and dicts is not."""
    match value:
        case Mapping():
            entries = cast("Mapping[object, object]", value).items()
            return f"{{{', '.join(sorted(f'{key!r}: {_canonical(each)}' for key, each in entries))}}}"
        case set() | frozenset():
            return f"{{{', '.join(sorted(map(_canonical, cast('set[object]', value))))}}}"
        case list() | tuple():
            return f"[{', '.join(map(_canonical, cast('list[object]', value)))}]"
        case _:
            return repr(value)
