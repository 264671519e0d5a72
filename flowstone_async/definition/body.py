"""What the function behind an asset tells by itself: its name, its kind, its first paragraph, whether it is empty."""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable
from types import CodeType
from typing import Any, Literal, TypeAlias

Body: TypeAlias = Callable[..., Any]
Way: TypeAlias = Literal["coroutine", "async generator", "plain", "generator"]
"""How a body gives its value: awaited, iterated with `async for`, returned, or iterated with `for`."""

# All that the code of an empty body consists of, in any version of Python.
_IDLE = {
    *("CACHE", "CALL_INTRINSIC_1", "COPY_FREE_VARS", "EXTENDED_ARG", "LOAD_CONST", "MAKE_CELL", "NOP", "POP_TOP"),
    *("RERAISE", "RESUME", "RETURN_CONST", "RETURN_GENERATOR", "RETURN_VALUE", "NOT_TAKEN"),
}


def function_of(body: Body) -> Body:
    """Return the function that was written: the one behind a wrapper, a partial, a bound method or an object."""
    return inspect.unwrap(_called(body))


def _called(body: Body) -> Body:
    """Return the function whose kind decides what a call gives; it may wrap the one that was written."""
    while isinstance(body, functools.partial):
        body = body.func
    if inspect.isroutine(body) or isinstance(body, type):
        return body
    return getattr(type(body), "__call__", body)  # noqa: B004 - as written, not bound to the object


def name_of(body: Body) -> str:
    """Return what an asset of this body is called unless it is given a name."""
    while isinstance(body, functools.partial):
        body = body.func
    return getattr(body, "__name__", type(body).__name__)


def first_paragraph(body: Body) -> str | None:
    """Return the first paragraph of the docstring, on one line."""
    text = inspect.getdoc(function_of(body))
    return " ".join(text.split("\n\n", 1)[0].split()) if text else None


def way_of(body: Body) -> Way:
    """Return how a body gives its value."""
    called = _called(body)
    if inspect.isasyncgenfunction(called):
        return "async generator"
    if inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(body):
        return "coroutine"
    return "generator" if inspect.isgeneratorfunction(called) else "plain"


def signature_of(body: Body) -> inspect.Signature:
    """Return the parameters of a body, whatever its annotations name.

    Raises:
        TypeError: It is not callable.
        ValueError: Nothing is known of it, as of some functions written in C.
    """
    if sys.version_info >= (3, 14):  # where looking at a signature reads the annotations
        import annotationlib

        return inspect.signature(body, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(body)


def is_empty(body: Body) -> bool:
    """Tell whether a body is only `...`, `pass` or a docstring; False where there is no source to tell by."""
    code = getattr(function_of(body), "__code__", None)
    return isinstance(code, CodeType) and _is_empty(code)


def _is_empty(code: CodeType) -> bool:
    if code.co_names or any(dis.opname[op] not in _IDLE for op in code.co_code[::2]):
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError, TypeError, ValueError):
        return False
    function = next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)), None)
    return function is not None and all(map(_says_nothing, function.body))


def _says_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass):
        return True
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and (value.value is ... or isinstance(value.value, str))
