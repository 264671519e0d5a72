"""Whether a value of one annotation may be given to a parameter of another, and how annotations are written.

The rules are those of type checkers with one exception: type arguments are covariant also where a type checker calls
them invariant. Every reader gets its own copy of a value, so that a `list[bool]` read as a `list[int]` can do no harm.
What cannot be decided at run time counts as assignable.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, Flag
from typing import Any, Literal, NewType, TypeAlias, Union

import typing_extensions

Annotation: TypeAlias = Any
"""An annotation as an object: a class, a generic alias, a union, a special form."""

_ALIASES: tuple[type, ...] = (
    typing_extensions.TypeAliasType,
    getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType),
)
_WRAPPERS = {typing_extensions.Required, typing_extensions.NotRequired, typing_extensions.ReadOnly, typing.Final}
_UNCHECKED: tuple[Annotation, ...] = (Any, object, inspect.Parameter.empty)
_NEVER: tuple[Annotation, ...] = (typing.NoReturn, typing_extensions.Never)
_CALLABLE: Annotation = typing.get_origin(Callable[..., Any])
_TOWER: dict[object, tuple[type, ...]] = {float: (int,), complex: (int, float)}


def assignable(source: object, target: object) -> bool:
    """Tell whether every value of `source` fits `target`.

    Args:
        source: What an upstream produces; an annotation, resolved.
        target: What a parameter takes; an annotation, resolved.

    Returns:
        False if some value of `source` does not fit. True if all fit, if either side is `Any`, `object`, a type
        variable, not annotated or not resolved, and wherever it cannot be decided.

    Example:
        >>> assignable(list[int], Sequence[float]), assignable(int, str | None)
        (True, False)
    """
    try:
        return _fits(source, target)
    except (RecursionError, TypeError):  # recursive aliases; classes that refuse issubclass()
        return True


def _fits(source: Annotation, target: Annotation) -> bool:
    source, target = bare(source), bare(target)
    if _undecidable(source) or _undecidable(target) or source == target or source in _NEVER:
        return True
    if _is_union(source):
        return all(_fits(choice, target) for choice in typing.get_args(source))
    if typing.get_origin(source) is Literal:
        return all(_literal_fits(value, target) for value in typing.get_args(source))
    if _is_union(target):
        choices = typing.get_args(target)
        return any(_fits(source, choice) for choice in choices) or _members_fit(source, target)
    if isinstance(target, NewType) or target in _NEVER:
        return isinstance(source, NewType) and _fits(source.__supertype__, target)
    if isinstance(source, NewType):
        return _fits(source.__supertype__, target)
    if typing.get_origin(target) is Literal:
        return _members_fit(source, target)
    return _class_fits(source, target)


def bare(annotation: Annotation) -> Annotation:
    """Return an annotation without what only decorates it: `Annotated`, `Final`, `Required`, the name of an alias."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated or origin in _WRAPPERS:
        return bare(typing.get_args(annotation)[0])
    if isinstance(annotation, _ALIASES):
        return bare(annotation.__value__)
    if isinstance(origin, _ALIASES):
        arguments = dict(zip(origin.__type_params__, typing.get_args(annotation), strict=False))
        return bare(substitute(origin.__value__, arguments))
    if annotation is typing_extensions.LiteralString:
        return str
    return types.NoneType if annotation is None else annotation


def _undecidable(annotation: object) -> bool:
    return annotation in _UNCHECKED or isinstance(annotation, str | typing.ForwardRef | typing.TypeVar)


def _is_union(annotation: object) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _literal_fits(value: object, target: object) -> bool:
    target = bare(target)
    if _is_union(target):
        return any(_literal_fits(value, choice) for choice in typing.get_args(target))
    if typing.get_origin(target) is Literal:
        return any(type(other) is type(value) and other == value for other in typing.get_args(target))
    return _fits(type(value), target)


def _members_fit(source: Annotation, target: object) -> bool:
    """Tell whether all members of an enum or of `bool`, which is one in this respect, fit."""
    if source is bool:
        return _literal_fits(value=True, target=target) and _literal_fits(value=False, target=target)
    closed = is_kind(source, Enum) and not is_kind(source, Flag)
    return closed and all(_literal_fits(member, target) for member in source)


def _class_fits(source: Annotation, target: Annotation) -> bool:
    given, wanted = typing.get_origin(source) or source, typing.get_origin(target) or target
    if typing_extensions.is_typeddict(wanted):
        return typing_extensions.is_typeddict(given) and _keys_fit(source, target)
    if typing_extensions.is_typeddict(given):
        values = typing_extensions.get_type_hints(given).values()
        return _fits(dict[str, union_of(values)], target)
    if not isinstance(given, type) or not isinstance(wanted, type):
        return True
    if wanted is _CALLABLE:
        return _callable_fits(source, target)
    if wanted is type and given is type:
        return all(_fits(*pair) for pair in zip(typing.get_args(source), typing.get_args(target), strict=False))
    if typing_extensions.is_protocol(wanted) and not wanted.__module__.startswith("typing"):
        return _has_methods(given, wanted)
    return issubclass(given, _TOWER.get(wanted, ())) or (issubclass(given, wanted) and _arguments_fit(source, target))


def _keys_fit(source: Annotation, target: Annotation) -> bool:
    source, target = typing.get_origin(source) or source, typing.get_origin(target) or target
    given = typing_extensions.get_type_hints(source, include_extras=True)
    wanted = typing_extensions.get_type_hints(target, include_extras=True)
    required = wanted.keys() - optional_keys(target, wanted)
    return required <= given.keys() - optional_keys(source, given) and all(
        _fits(given[key], wanted[key]) for key in wanted.keys() & given.keys()
    )


def optional_keys(kind: Annotation, hints: Mapping[str, Annotation]) -> frozenset[str]:
    """Return the keys that a dict of a `TypedDict` need not have.

    Its own `__optional_keys__` knows nothing of `NotRequired` where annotations are postponed.

    Args:
        kind: The `TypedDict`.
        hints: Its resolved annotations, with extras.
    """
    marked = {key: typing.get_origin(hint) for key, hint in hints.items()}
    needed = {key for key, mark in marked.items() if mark is typing_extensions.Required}
    free = {key for key, mark in marked.items() if mark is typing_extensions.NotRequired}
    return frozenset((kind.__optional_keys__ | free) - needed)


def _callable_fits(source: Annotation, target: Annotation) -> bool:
    if typing.get_origin(source) is not _CALLABLE:
        kind = typing.get_origin(source) or source
        return kind is type or any("__call__" in vars(base) for base in kind.__mro__)
    given, wanted = typing.get_args(source), typing.get_args(target)
    if not given or not wanted:
        return True
    (takes, returns), (passes, expects) = given, wanted
    if not _fits(returns, expects):
        return False
    if not isinstance(takes, list) or not isinstance(passes, list):
        return True
    return len(takes) == len(passes) and all(map(_fits, passes, takes))  # pyright: ignore[reportUnknownArgumentType]


def _has_methods(given: type, protocol: type) -> bool:
    """Judge a protocol by its methods; attributes may be set where nobody can see it."""
    members = typing_extensions.get_protocol_members(protocol)
    return all(hasattr(given, name) for name in members if callable(getattr(protocol, name, None)))


def _arguments_fit(source: Annotation, target: Annotation) -> bool:
    wanted_kind = typing.get_origin(target) or target
    wanted = typing.get_args(target)
    given = _arguments_for(source, wanted_kind)
    if given is None or target is wanted_kind:
        return True
    if wanted_kind is tuple:
        return _items_fit(given, wanted)
    variables = getattr(wanted_kind, "__parameters__", ())
    for index, (one, other) in enumerate(zip(given, wanted, strict=False)):
        contravariant = index < len(variables) and getattr(variables[index], "__contravariant__", False)
        if not (_fits(other, one) if contravariant else _fits(one, other)):
            return False
    return True


def _items_fit(given: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    if len(wanted) == 2 and wanted[1] is ...:  # noqa: PLR2004 # tuple[T, ...]
        return all(_fits(item, wanted[0]) for item in given if item is not ...)
    return ... not in given and len(given) == len(wanted) and all(map(_fits, given, wanted))


def _arguments_for(source: Annotation, wanted: type) -> tuple[Any, ...] | None:
    """Return the type arguments of `source` seen as a `wanted`, or None if nothing is known of them."""
    known = type_arguments(source)
    if wanted in known:
        return known[wanted] or (() if typing.get_origin(source) is tuple else None)
    for kind, arguments in known.items():
        if kind in (str, bytes) and issubclass(kind, wanted):
            return (str if kind is str else int,)
        if not arguments or not issubclass(kind, wanted):
            continue
        if kind is tuple:
            return (union_of(item for item in arguments if item is not ...),)
        return (*arguments, int) if kind is Counter else arguments
    return None


def type_arguments(annotation: Annotation) -> dict[type, tuple[Any, ...]]:
    """Return the type arguments of a class and of each of its generic bases.

    Example:
        >>> class Names(list[str]): ...
        >>> type_arguments(Names)[list]
        (<class 'str'>,)
    """
    found: dict[type, tuple[Any, ...]] = {}
    kind = typing.get_origin(annotation) or annotation
    if isinstance(kind, type):
        found[kind] = typing.get_args(annotation)
        given = dict(zip(getattr(kind, "__parameters__", ()), found[kind], strict=False))
        for base in getattr(kind, "__orig_bases__", kind.__bases__):
            if typing.get_origin(base) not in (typing.Generic, typing.Protocol):
                found |= type_arguments(substitute(base, given))
    return found


def substitute(annotation: Annotation, arguments: Mapping[Any, Any]) -> Annotation:
    """Put type arguments in place of type variables; a variable without one stays."""
    if isinstance(annotation, typing.TypeVar):
        return arguments.get(annotation, annotation)
    parameters = getattr(annotation, "__parameters__", ())
    if not parameters or not arguments or isinstance(annotation, type):
        return annotation
    return annotation[tuple(arguments.get(parameter, parameter) for parameter in parameters)]


def union_of(choices: Iterable[Annotation]) -> Annotation:
    """Return the union of some annotations."""
    return Union[tuple(choices) or (Any,)]  # noqa: UP007 # there is no other way for a tuple of them


def is_kind(annotation: Annotation, kind: Annotation) -> bool:
    """Tell whether an annotation is a class, and a subclass of `kind`."""
    return isinstance(annotation, type) and issubclass(annotation, kind)


def render(annotation: object) -> str:
    """Return an annotation as one would write it, without modules.

    Example:
        >>> render(typing.Optional[dict[str, int]])
        'dict[str, int] | None'
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, list):
        return f"[{', '.join(map(render, annotation))}]"  # pyright: ignore[reportUnknownArgumentType]
    if _is_union(annotation):
        return " | ".join(map(render, arguments))
    if origin is Literal:
        return f"Literal[{', '.join(_render_value(value) for value in arguments)}]"
    if origin is typing.Annotated:
        return render(arguments[0])
    if origin is tuple and not arguments:
        return "tuple[()]" if isinstance(annotation, types.GenericAlias) else "tuple"
    if origin is not None and arguments:
        return f"{_name(origin)}[{', '.join(map(render, arguments))}]"
    return _name(annotation)


def _render_value(value: object) -> str:
    return f"{type(value).__name__}.{value.name}" if isinstance(value, Enum) else repr(value)


def _name(annotation: Annotation) -> str:
    known = {None: "None", types.NoneType: "None", ...: "..."}
    if annotation in known:
        return known[annotation]
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    name: str | None = getattr(annotation, "__qualname__", None) or getattr(annotation, "__name__", None)
    return name.rpartition("<locals>.")[2] if name else str(annotation).removeprefix("typing.")
