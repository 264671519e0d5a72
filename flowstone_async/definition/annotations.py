"""Reading annotations when a pipeline is validated, not when a function is decorated.

So that `from __future__ import annotations`, names imported under `TYPE_CHECKING` and types local to a function all
work. Each annotation is read by itself: one that cannot be read does not hide the others.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import inspect
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from flowstone_async.definition.asset import Scope
from flowstone_async.definition.body import Body, function_of

_GUESSES = 64
"""Names in one annotation that only a type checker's imports provide, before it is given up."""


@dataclass(frozen=True, slots=True)
class Hints:
    """The annotations of a body.

    Attributes:
        types: Parameter, or `"return"` -> annotation as an object. Absent where there is none, or where a name in it
            exists for type checkers only and cannot be imported.
        unread: Parameter, or `"return"` -> why its annotation cannot be read.
    """

    types: Mapping[str, Any] = field(default_factory=dict[str, Any])
    unread: Mapping[str, str] = field(default_factory=dict[str, str])


def capture(frame: FrameType | None) -> Scope:
    """Keep the names that are local where a body is defined; nothing at module level."""
    if frame is None or frame.f_locals is frame.f_globals:
        return Scope()
    return Scope(_Locals(frame))


class _Locals(dict[str, object]):
    """The locals of a frame as they were, and those bound after the decorator ran."""

    def __init__(self, frame: FrameType) -> None:
        super().__init__(frame.f_locals)
        self._frame = frame

    def __missing__(self, name: str) -> object:
        return self._frame.f_locals[name]


def resolve(body: Body, scope: Scope) -> Hints:
    """Return the annotations of a body's parameters and `return`, as objects."""
    function = function_of(body)
    names = _Names(scope.names)
    try:
        return Hints(typing.get_type_hints(function, localns=names, include_extras=True))
    except Exception:  # an annotation is an expression of the user's, which may raise anything
        return _one_by_one(body, function, names)


class _Names(dict[str, object]):
    """What annotations may name beside globals: what was found on the way, then the locals of the defining scope."""

    def __init__(self, scope: Mapping[str, object]) -> None:
        super().__init__()
        self._scope = scope

    def __missing__(self, name: str) -> object:
        return self._scope[name]


def _one_by_one(body: Body, function: Body, names: _Names) -> Hints:
    types: dict[str, Any] = {}
    unread: dict[str, str] = {}
    elsewhere = _Elsewhere(body, function)
    for name, annotation in _written(function).items():
        try:
            types[name] = _read(function, annotation, names, elsewhere)
        except _OnlyChecked:
            continue
        except Exception as error:  # as above
            unread[name] = str(error).partition("\n")[0] or type(error).__name__
    return Hints(types, unread)


def _written(function: Body) -> Mapping[str, object]:
    if sys.version_info >= (3, 14):  # where annotations are code, which may name what does not exist
        import annotationlib

        return annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
    return getattr(function, "__annotations__", {})


def _read(function: Body, annotation: object, names: _Names, elsewhere: _Elsewhere) -> object:
    holder = SimpleNamespace(
        __annotations__={"it": annotation}, __type_params__=getattr(function, "__type_params__", ())
    )
    space = {**vars(builtins), **getattr(function, "__globals__", {})}
    for _ in range(_GUESSES):
        try:
            return typing.get_type_hints(holder, globalns=space, localns=names, include_extras=True)["it"]
        except NameError as error:
            if error.name is None or error.name in names:
                raise
            names[error.name] = found = elsewhere.find(error.name)
            if found is _NOWHERE:
                raise
    raise NameError(f"more than {_GUESSES} of its names exist for type checkers only")


class _OnlyChecked(Exception):
    """A name exists for type checkers only."""


_NOWHERE = object()


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """Names that a type checker sees and the function does not: of its class, and imported under `TYPE_CHECKING`."""

    body: Body
    function: Body

    def find(self, name: str) -> object:
        """Return what a name stands for, or `_NOWHERE`.

        Raises:
            _OnlyChecked: It is bound under `TYPE_CHECKING`, and cannot be had at run time.
        """
        for kind in _classes(self.body):
            if name in vars(kind):
                return vars(kind)[name]
        module = sys.modules.get(getattr(self.function, "__module__", None) or "")
        file = getattr(module, "__file__", None)
        known: Mapping[str, _Import | None] = {} if file is None else _checked_names(file, _stamp(file))
        if name not in known:
            return _NOWHERE
        try:
            return _imported(known[name], getattr(module, "__package__", None))
        except (ImportError, AttributeError) as error:
            raise _OnlyChecked from error


def _classes(body: Body) -> Sequence[type]:
    """Return the classes that a method or a callable object was written in."""
    owner: Any = body.__self__ if inspect.ismethod(body) else body
    if inspect.isroutine(owner) or isinstance(owner, functools.partial):
        return ()
    return (owner if isinstance(owner, type) else type(owner)).__mro__[:-1]


@dataclass(frozen=True, slots=True)
class _Import:
    """One name of an import statement: a module's attribute, a module, or (without `as`) its top package."""

    module: str
    attribute: str | None = None
    top: bool = False


def _imported(statement: _Import | None, package: str | None) -> object:
    if statement is None:
        raise ImportError
    found = importlib.import_module(statement.module, package)
    if statement.attribute is None:
        return sys.modules[statement.module.partition(".")[0]] if statement.top else found
    try:
        return getattr(found, statement.attribute)
    except AttributeError:
        return importlib.import_module(f"{found.__name__}.{statement.attribute}")


def _stamp(file: str) -> int:
    try:
        return Path(file).stat().st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=256)
def _checked_names(file: str, stamp: int) -> Mapping[str, _Import | None]:
    """Return what a module binds under `if TYPE_CHECKING:`; None for what is not imported."""
    del stamp
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, _Import | None] = {}
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and _is_type_checking(block.test):
            for statement in block.body:
                found.update(_bound(statement))
    return found


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _bound(statement: ast.stmt) -> Iterator[tuple[str, _Import | None]]:
    for node in ast.walk(statement):
        match node:
            case ast.ImportFrom(module=module, names=names, level=level):
                source = "." * level + (module or "")
                yield from ((each.asname or each.name, _Import(source, each.name)) for each in names)
            case ast.Import(names=names):
                for each in names:
                    name = each.asname or each.name.partition(".")[0]
                    yield name, _Import(each.name, top=each.asname is None)
            case ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name, None
            case _:
                pass
