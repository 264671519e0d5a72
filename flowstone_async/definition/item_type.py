"""What type items are of, as far as annotations and values tell: None where they do not."""

from __future__ import annotations

import types
from collections.abc import AsyncIterable, Collection, ItemsView, Iterable, Mapping
from itertools import islice
from typing import Any, NewType, TypeAlias, Union, cast, get_args, get_origin

from typing_extensions import is_typeddict

from flowstone_async.definition.annotations import resolve
from flowstone_async.definition.asset import Scope
from flowstone_async.definition.assignable import Annotation, assignable, bare, is_kind, type_arguments, union_of
from flowstone_async.definition.item_source import CustomSource, FixedSource, FunctionSource, ItemReader
from flowstone_async.definition.kind import item_type, type_of

Described: TypeAlias = FixedSource | FunctionSource | CustomSource
_LOOKED_AT = 1000
"""Most containers among given items that are looked into."""
_SCANNED = (list, tuple, set, frozenset, dict)


def described_type(spec: Described, scope: Scope) -> object:
    """Return the type of the items of a source that tells by itself."""
    match spec:
        case FixedSource(items=items):
            return _given_type(items)
        case FunctionSource(function=function):
            return item_type(resolve(function, scope).types.get("return"))
        case CustomSource(source=source):
            return _page_type(source, scope)


def element_type(annotation: Annotation) -> Annotation:
    """Return the type of what is iterated in a value of an annotated type.

    Example:
        >>> element_type(dict[str, int])
        <class 'str'>
    """
    plain = bare(annotation)
    if get_origin(plain) in (Union, types.UnionType):
        elements = [element_type(each) for each in get_args(plain)]
        return None if None in elements else union_of(elements)
    if isinstance(plain, NewType):
        return element_type(plain.__supertype__)
    if plain is range:
        return int
    for kind, arguments in type_arguments(plain).items():
        if arguments and kind is tuple:
            return union_of(each for each in arguments if each is not ...)
        if arguments and _first_is_element(kind):
            return arguments[0]
    return None


def is_iterable(annotation: Annotation) -> bool:
    """Tell whether every value of a type has items, text and bytes not counted; unknown counts as yes."""
    plain = bare(annotation)
    if get_origin(plain) in (Union, types.UnionType):
        return all(map(is_iterable, get_args(plain)))
    if isinstance(plain, NewType):
        return is_iterable(plain.__supertype__)
    textual = any(is_kind(plain, each) for each in (str, bytes, bytearray))
    return not textual and (assignable(plain, Iterable[Any]) or assignable(plain, AsyncIterable[Any]))


def is_mapping(annotation: Annotation) -> bool:
    """Tell whether items of a type arrive as an `Item`."""
    plain = bare(annotation)
    return is_typeddict(get_origin(plain) or plain) or is_kind(get_origin(plain) or plain, Mapping)


def _first_is_element(kind: type) -> bool:
    """Tell whether the first type argument is what is iterated; of a class of the user's, nobody knows."""
    known = kind.__module__ in ("builtins", "collections", "collections.abc", "typing") or kind.__module__ == _STREAMS
    return known and issubclass(kind, Iterable | AsyncIterable) and kind is not ItemsView


_STREAMS = "flowstone_async.definition.stream"


def _given_type(items: Iterable[Any]) -> object:
    """Return the type of given items; None for what is not a plain collection, or would take long to look through."""
    if isinstance(items, range):
        return int
    if not isinstance(items, _SCANNED) or not items:
        return None
    given = cast("Collection[object]", items)
    kinds = set(map(type, given))
    if kinds.isdisjoint((list, tuple, set, frozenset, dict)):
        return union_of(kinds)
    return union_of({type_of(each): None for each in islice(given, _LOOKED_AT)})


def _page_type(source: ItemReader[Any], scope: Scope) -> object:
    """Return what a source object says it reads: its `item_type`, else `read(...) -> AsyncIterator[Page[T]]`."""
    said = getattr(source, "item_type", None)
    if said is not None:
        return cast("object", said)
    arguments = get_args(bare(item_type(resolve(source.read, scope).types.get("return"))))
    return arguments[0] if arguments else None
