"""What a step was called with, as a hash that is the same in every process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from flowstone_async._engine.replay.contents import print_of_item
from flowstone_async.definition.body import function_of
from flowstone_async.errors import StorageError
from flowstone_async.io.codec import codec_for

_ANY = codec_for(None)


def function_name(fn: Callable[..., Any]) -> str:
    """Return the module and name of a function."""
    function = function_of(fn)
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(fn).__qualname__)}"


def print_of(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return a hash of the arguments. What cannot be stored (a client, a connection) counts by its type alone.

    What is no plain data, and has a codec of its type, counts by its type in the first part, as it always did, and by
    what it holds in a second part, behind a dot: records of before that have none.
    """
    if not args and not kwargs:
        return ""
    try:
        bound = inspect.signature(fn).bind(*args, **kwargs).arguments.items()
    except (TypeError, ValueError):  # the call itself tells, if it is wrong
        bound = [*enumerate(args), *kwargs.items()]
    digest, held = blake2b(digest_size=16), blake2b(digest_size=16)
    plain = True
    for name, value in bound:
        found = _plain_print(value)
        digest.update(f"{name}\0{found or _type_of(value)}\0".encode())
        if found is None:
            plain = False
            held.update(f"{name}\0{print_of_item(value)}\0".encode())
    return digest.hexdigest() if plain else f"{digest.hexdigest()}.{held.hexdigest()}"


def same_prints(one: str, other: str) -> bool:
    """Tell whether two hashes may be of the same arguments: in as many parts as both have."""
    return all(mine == others for mine, others in zip(one.split("."), other.split("."), strict=False))


def _plain_print(value: object) -> str | None:
    try:
        return _ANY.prepare(value).fingerprint or _type_of(value)
    except StorageError:
        return None


def _type_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
