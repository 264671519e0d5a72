"""Resolving annotations when a pipeline is validated, not when a function is decorated.

So that `from __future__ import annotations`, names imported under `TYPE_CHECKING` and types local to a function all
work.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import inspect
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from flowstone_async.definition.asset import Body, Scope


def capture(frame: FrameType | None) -> Scope:
    """Keep the names that are local where a body is defined; nothing at module level."""
    if frame is None or frame.f_locals is frame.f_globals:
        return Scope()
    return Scope(_Locals(frame))


class _Locals(dict[str, object]):
    """The locals of a frame, read again when asked: a name may be bound after the decorator ran."""

    def __init__(self, frame: FrameType) -> None:
        super().__init__(frame.f_locals)
        self._frame = frame

    def __missing__(self, name: str) -> object:
        return self._frame.f_locals[name]


def resolve(body: Body, scope: Scope) -> dict[str, object]:
    """Return the annotations of a body's parameters and `return`, as objects.

    A name that cannot be found makes its annotation absent from the result, as if it were not annotated.
    """
    function = _annotated(body)
    names: dict[str, object] = dict(scope.names)
    for _ in range(64):
        try:
            return typing.get_type_hints(function, localns=_Fallback(names, scope.names), include_extras=True)
        except NameError as error:
            if not _import_for_checking(function, error.name or "", names):
                break
        except (TypeError, AttributeError, SyntaxError):
            break
    return _one_by_one(function, names)


class _Fallback(dict[str, object]):
    def __init__(self, names: Mapping[str, object], late: Mapping[str, object]) -> None:
        super().__init__(names)
        self._late = late

    def __missing__(self, name: str) -> object:
        return self._late[name]


def _annotated(body: Body) -> Any:
    body = inspect.unwrap(body)
    if isinstance(body, functools.partial):
        return _annotated(body.func)
    if inspect.isroutine(body):
        return body
    return getattr(type(body), "__call__", body)


def _one_by_one(function: Any, names: Mapping[str, object]) -> dict[str, object]:
    known = {**vars(builtins), **getattr(function, "__globals__", {}), **names}
    found: dict[str, object] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        try:
            single = {"__annotations__": {name: annotation}}
            holder = type("holder", (), single)
            found[name] = typing.get_type_hints(holder, globalns=known, localns=dict(names), include_extras=True)[name]
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue
    return found


def _import_for_checking(function: Any, name: str, names: dict[str, object]) -> bool:
    """Import `name` as the module does under `if TYPE_CHECKING:`; False if it does not."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    statement = _checked_imports(file).get(name) if file else None
    if module is None or statement is None or name in names:
        return False
    source, attribute, level = statement
    try:
        target = "." * level + source
        found = importlib.import_module(target, module.__package__ if level else None)
        names[name] = getattr(found, attribute) if attribute else sys.modules[source.partition(".")[0]]
    except (ImportError, AttributeError):
        return False
    return True


@functools.lru_cache(maxsize=256)
def _checked_imports(file: str) -> Mapping[str, tuple[str, str | None, int]]:
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, tuple[str, str | None, int]] = {}
    for block in (node for node in ast.walk(tree) if isinstance(node, ast.If) and _is_type_checking(node.test)):
        for node in block.body:
            if isinstance(node, ast.ImportFrom):
                found |= {a.asname or a.name: (node.module or "", a.name, node.level) for a in node.names}
            elif isinstance(node, ast.Import):
                found |= {a.asname or a.name.partition(".")[0]: (a.name, None, 0) for a in node.names}
    return found


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"
