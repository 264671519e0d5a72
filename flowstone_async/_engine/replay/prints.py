"""What a step was called with, as a hash that is the same in every process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from flowstone_async.definition.body import function_of
from flowstone_async.errors import StorageError
from flowstone_async.io.codec import codec_for

_ANY = codec_for(None)


def function_name(fn: Callable[..., Any]) -> str:
    """Return the module and name of a function."""
    function = function_of(fn)
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(fn).__qualname__)}"


def print_of(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return a hash of the arguments. What cannot be stored (a client, a connection) counts by its type alone."""
    if not args and not kwargs:
        return ""
    try:
        bound = inspect.signature(fn).bind(*args, **kwargs).arguments.items()
    except (TypeError, ValueError):  # the call itself tells, if it is wrong
        bound = [*enumerate(args), *kwargs.items()]
    digest = blake2b(digest_size=16)
    for name, value in bound:
        digest.update(f"{name}\0{_print(value)}\0".encode())
    return digest.hexdigest()


def _print(value: object) -> str:
    try:
        found = _ANY.prepare(value).fingerprint
    except StorageError:
        found = None
    return found or f"{type(value).__module__}.{type(value).__qualname__}"
