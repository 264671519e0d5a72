"""Names of types: what is stored of a gate's type, so that other processes find it and check payloads against it.

A class is `module:qualname`; generics, unions and literals are composed of these. A type of the module that defines the
asset is looked for where the asset is defined *here*, whatever that module is called in this process: `__main__` in a
script is `jobs` for whoever imports it.
"""

from __future__ import annotations

import importlib
import sys
import typing
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import GenericAlias, ModuleType, NoneType, UnionType
from typing import Any, Literal, NewType, TypeAlias
from weakref import WeakValueDictionary

import typing_extensions

from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.assignable import Annotation, render, union_of
from flowstone_async.definition.body import function_of
from flowstone_async.errors import ConfigError

Named: TypeAlias = Any
"""The name of a type, as JSON: None, text, or an object that composes names."""

_ALIASES: tuple[type, ...] = (
    typing_extensions.TypeAliasType,
    getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType),
)
_LOCAL = "<locals>."


class UnknownType(Exception):
    """A type cannot be found by its name.

    Attributes:
        name: What was looked for.
        reason: Why it is not there.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Home:
    """Where an asset is defined, for the names that its body can use.

    Attributes:
        local: Names local to where it was defined.
        globals: Names of its module.
    """

    local: Mapping[str, object] = field(default_factory=dict[str, object])
    globals: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def module(self) -> str | None:
        """What that module is called in this process."""
        name = self.globals.get("__name__")
        return name if isinstance(name, str) else None


NOWHERE = Home()


def home_of(definition: AssetDefinition) -> Home:
    """Return where an asset is defined."""
    return Home(definition.scope.names, getattr(function_of(definition.body), "__globals__", {}))


class TypeNames:
    """Names types and finds them again. It remembers those that only this process can have: local to a function."""

    def __init__(self) -> None:
        self._seen: WeakValueDictionary[str, Annotation] = WeakValueDictionary()

    def name(self, annotation: Annotation) -> Named:
        """Return the name of a type.

        Raises:
            ConfigError: It has none by which another process could find it.
        """
        if annotation is None or annotation is NoneType:
            return None
        if annotation is Any or isinstance(annotation, _ALIASES):
            return f"{annotation.__module__}:{annotation.__name__}"
        origin, arguments = _parts(annotation)
        if origin is typing.Annotated:
            return self._annotated(annotation, arguments)
        if origin in (typing.Union, UnionType):
            return {"union": [self.name(each) for each in arguments]}
        if origin is Literal:
            return {"literal": [self._value(each) for each in arguments]}
        if origin is not None:
            parts = ["..." if each is ... else self.name(each) for each in arguments]
            return {"of": self.name(origin), "with": parts}
        if isinstance(annotation, type | NewType):
            return self._class(annotation)
        raise _nameless(annotation, "it is no class")

    def _annotated(self, annotation: Annotation, arguments: tuple[Any, ...]) -> Named:
        if any(_adds_conditions(each) for each in annotation.__metadata__):
            raise _nameless(annotation, "what Annotated adds to it has no name")
        return self.name(arguments[0])

    def _class(self, kind: Annotation) -> str:
        name = f"{kind.__module__}:{kind.__qualname__}"
        if _within(sys.modules.get(kind.__module__), kind.__qualname__) is not kind:
            self._seen[name] = kind
        return name

    def _value(self, value: object) -> object:
        if isinstance(value, Enum):
            return {"enum": self._class(type(value)), "member": value.name}
        return {"bytes": b64encode(value).decode()} if isinstance(value, bytes) else value

    def find(self, named: Named, home: Home, was: str | None) -> Annotation:
        """Return the type that has a name.

        Args:
            named: The name.
            home: Where the asset is defined.
            was: What the module that defines it was called where the name was made.

        Raises:
            UnknownType: It is not there.
        """

        def found(part: Named) -> Annotation:
            if part is None:
                return NoneType
            if isinstance(part, str):
                return ... if part == "..." else self._found(part, home, was)
            match part:
                case {"union": parts}:
                    return union_of([found(each) for each in parts])
                case {"literal": values}:
                    return Literal[tuple(_literal(each, found) for each in values)]
                case {"of": origin, "with": parts}:
                    return _composed(found(origin), tuple(found(each) for each in parts))
                case _:
                    raise UnknownType(repr(part), "a later version of flowstone-async has written it")

        return found(named)

    def _found(self, name: str, home: Home, was: str | None) -> Annotation:
        module, _, path = name.partition(":")
        if module == was:
            at_home = _named(home.local, path) or _named(home.globals, path)
            if at_home is not None:
                return at_home
        seen = self._seen.get(name)
        if seen is not None:
            return seen
        kind = _within(_imported(name, module), path)
        if kind is None:
            local = "a type that is local to a function is known only where that function runs"
            raise UnknownType(name, local if _LOCAL in path else f"module {module} has no {path}")
        return kind


def _parts(annotation: Annotation) -> tuple[Annotation, tuple[Any, ...]]:
    """Return what a generic type was made of: its origin and arguments; None and nothing for any other."""
    generic: Mapping[str, Any] = getattr(annotation, "__pydantic_generic_metadata__", {})
    if generic.get("origin") is not None:
        return generic["origin"], generic["args"]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is not None and not arguments and not (origin is tuple and isinstance(annotation, GenericAlias)):
        return (None, ()) if isinstance(annotation, type) else _bare_alias(annotation, origin)
    return origin, arguments


def _bare_alias(annotation: Annotation, origin: Annotation) -> tuple[Annotation, tuple[Any, ...]]:
    """Refuse what `typing` has an alias of (`typing.List`), without saying of what: `list` says the same."""
    raise _nameless(annotation, f"write {render(origin)} for it")


def _adds_conditions(metadata: object) -> bool:
    of = type(metadata).__module__.partition(".")[0]
    return of in ("annotated_types", "pydantic") or hasattr(metadata, "__get_pydantic_core_schema__")


def _nameless(annotation: object, reason: str) -> ConfigError:
    return ConfigError(
        f"payloads of type {render(annotation)} cannot be checked by another process: {reason}",
        hint="Give a class: a pydantic model, a dataclass, a TypedDict. A model's fields may be of any type.",
    )


def _named(names: Mapping[str, object], path: str) -> Annotation | None:
    """Return a class that goes by a name, or that calls itself so."""
    first, *rest = path.rpartition(_LOCAL)[2].split(".")
    try:
        found = _within(names[first], ".".join(rest)) if rest else names[first]
    except KeyError:
        found = None
    if _called(found, path):
        return found
    return next((each for each in [*names.values()] if _called(each, path)), None)


def _called(value: object, path: str) -> bool:
    if not issubclass(type(value), (type, NewType, *_ALIASES)):  # others may do anything when they are looked at
        return False
    return path == (getattr(value, "__qualname__", None) or getattr(value, "__name__", None))


def _imported(name: str, module: str) -> ModuleType:
    loaded = sys.modules.get(module)
    if loaded is not None:
        return loaded
    try:
        return importlib.import_module(module)
    except Exception as error:  # importing a module runs anybody's code
        reason = f"module {module} cannot be imported here ({type(error).__name__}: {error})"
        raise UnknownType(name, reason) from error


def _within(place: object, path: str) -> Annotation | None:
    for part in path.split("."):
        place = getattr(place, part, None)
    return place


def _literal(value: Any, found: Callable[[Named], Annotation]) -> object:
    match value:
        case {"enum": kind, "member": str(member)}:
            members: Mapping[str, object] = found(kind).__members__
            if member not in members:
                raise UnknownType(str(kind), f"it has no member {member} here")
            return members[member]
        case {"bytes": str(text)}:
            return b64decode(text)
        case _:
            return value


def _composed(origin: Annotation, arguments: tuple[Any, ...]) -> Annotation:
    try:
        return origin[arguments[0] if len(arguments) == 1 else arguments]
    except Exception as error:  # __class_getitem__ is anybody's code
        raise UnknownType(render(origin), f"it does not take {len(arguments)} type arguments here") from error
