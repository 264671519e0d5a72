"""What a body would execute, as a hash: the function and the helpers of its package that it names, transitively.

Source is compared as a syntax tree without docstrings, decorators and positions, so that neither formatting nor the
options of an asset count. A constant counts by the statements that bind it, not by its value, which may come from the
environment. The signature of the body itself is not followed: it names upstream assets, which have fingerprints. Nor
are imports inside a function, which may not have happened yet. Where there is no source, bytecode stands in. Read
`code_hash`, then `_Walk`.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import linecache
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary

_LONG = 1_000
Named: TypeAlias = Any
"""Whatever a name stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeHash:
    """The hash of a body and its helpers.

    Attributes:
        hash: 32 hexadecimal digits, equal for equal code.
        function: Qualified name of the body.
        line: Line of its definition, from 1; 0 where it is not known.
    """

    hash: str
    function: str
    line: int


_known: WeakKeyDictionary[types.FunctionType, CodeHash] = WeakKeyDictionary()


def code_hash(fn: object) -> CodeHash:
    """Return the hash of a body: a function, method, partial or callable object, or what stands for one.

    It is kept for as long as the function lives, so that many assets with one body cost one hash. Never raises: what
    cannot be read counts by its name.
    """
    try:
        function, bound = _function(fn)
        found = _known.get(function)
        if found is None:
            found = _known[function] = _Walk(function).hash()
        if not bound:
            return found
        return CodeHash(hash=_digest([found.hash, *bound]), function=found.function, line=found.line)
    except Exception:  # attributes of user objects are anybody's code
        named = isinstance(fn, types.FunctionType | types.BuiltinFunctionType | type)
        name = fn.__qualname__ if named else type(fn).__qualname__
        return CodeHash(hash=_digest([name]), function=name, line=0)


def _function(fn: Named) -> tuple[types.FunctionType, list[str]]:
    """Return the function behind a callable, and the constants bound to it."""
    bound: list[str] = []
    for _ in range(100):
        if isinstance(fn, functools.partial):
            bound += _constants([*fn.args, *sorted(fn.keywords.items())])
            fn = fn.func
        elif isinstance(fn, types.MethodType):
            fn = fn.__func__
        elif inner := _behind(fn):
            fn = inner
        elif isinstance(fn, types.FunctionType):
            return fn, bound
        elif isinstance(call := inspect.getattr_static(_class(fn), "__call__", None), types.FunctionType):
            fn = call
        else:
            break
    raise TypeError("there is no function behind it")


_class: Callable[[object], type[Any]] = type


def _behind(fn: Named) -> Named:
    """Return what a handle or a wrapper stands for, or None."""
    names = ("__wrapped__",) if isinstance(fn, types.FunctionType) else ("__wrapped__", "body")
    return next((inner for name in names if callable(inner := getattr(fn, name, None))), None)


def _constants(values: Iterable[object]) -> list[str]:
    """Write down values that are the same in every process; leave out the rest."""
    return [_written(value) for value in values if _is_constant(value)]


def _written(value: Named) -> str:
    """Write a constant down: as one would, or by its hash where that would take long."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_written, cast('tuple[object, ...]', value)))})"
    if not isinstance(value, str | bytes) or len(value) <= _LONG:
        return repr(value)
    data = value.encode("utf-8", "backslashreplace") if isinstance(value, str) else value
    return f"{type(value).__name__} {len(value)} {blake2b(data, digest_size=16).hexdigest()}"


def _is_constant(value: Named) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_constant, cast("tuple[object, ...]", value)))
    return _class(value) in (bool, int, float, complex, str, bytes, types.NoneType)


def _digest(texts: Iterable[str]) -> str:
    return blake2b("\0".join(texts).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _Constant:
    """A name of a module that is neither a function nor a class."""

    module: str
    name: str


_Unit: TypeAlias = types.FunctionType | type | _Constant
_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Chain: TypeAlias = tuple[str, ...]
_Stamp: TypeAlias = tuple[int, int] | None


class _Walk:
    """Goes from a function through everything of its package that it names."""

    def __init__(self, root: types.FunctionType) -> None:
        self._root = root
        self._package = str(root.__module__).partition(".")[0]
        self._seen: set[_Unit] = {root}
        self._left: list[_Unit] = [root]

    def hash(self) -> CodeHash:
        """Return the hash over everything that is reached."""
        texts: list[str] = []
        while self._left:
            text, named = self._read(self._left.pop())
            texts.append(text)
            for unit in named:
                if unit not in self._seen:
                    self._seen.add(unit)
                    self._left.append(unit)
        # The root comes first; of the rest the order of the walk says nothing.
        root, *rest = texts
        code = self._root.__code__
        return CodeHash(hash=_digest([root, *sorted(rest)]), function=self._root.__qualname__, line=code.co_firstlineno)

    def _read(self, unit: _Unit) -> tuple[str, list[_Unit]]:
        if isinstance(unit, types.FunctionType):
            closure = dict(_closure(unit))
            facts = _function_facts(unit.__code__, unit.__code__.co_filename, unit.__doc__)
            chains = facts.body if unit is self._root else facts.body | facts.signature
            text = facts.text + repr(sorted(_constants(closure.items())))
            return text, self._resolve(chains, {**unit.__globals__, **closure}, unit.__module__)
        module = sys.modules[unit.__module__ if isinstance(unit, type) else unit.module]
        file = module.__file__ or ""
        key = unit.__qualname__ if isinstance(unit, type) else unit.name
        facts = _other_facts(file, _stamp(file), key, is_class=isinstance(unit, type))
        if facts is None and isinstance(unit, type):
            return key, [each for each in vars(unit).values() if isinstance(each, types.FunctionType)]
        return (facts.text, self._resolve(facts.body, vars(module), module.__name__)) if facts else (key, [])

    def _resolve(self, chains: Iterable[_Chain], scope: Mapping[str, Named], module: str) -> list[_Unit]:
        found = (self._unit(chain, scope, module) for chain in chains)
        return [unit for unit in found if unit is not None]

    def _unit(self, chain: _Chain, scope: Mapping[str, Named], module: str) -> _Unit | None:
        """Return what a dotted name stands for, if it is code of the package."""
        name, *rest = chain
        value = scope.get(name)
        if isinstance(value, types.ModuleType):
            return self._unit(tuple(rest), vars(value), value.__name__) if rest else None
        if rest or name not in scope:
            return None  # attributes of anything but a module belong to what the name itself stands for
        if not isinstance(value, type):
            try:
                value, _ = _function(value)
            except Exception:  # a proxy may raise anything; it is a constant like any other object
                return self._binding(name, module)
        return value if self._is_ours(value.__module__) else None

    def _binding(self, name: str, module: str) -> _Constant | None:
        """Return the constant that a name of a module is, also where it was imported from another."""
        for _ in range(100):
            found = sys.modules.get(module)
            path = getattr(found, "__file__", None) or ""
            file = _parsed(path, _stamp(path)) if self._is_ours(module) else None
            if found is None or file is None:
                break
            if name in file.bindings:
                return _Constant(module, name)
            if name not in file.imports:
                break
            source, name = file.imports[name]
            module = importlib.util.resolve_name(source, found.__package__) if source.startswith(".") else source
        return None

    def _is_ours(self, module: str | None) -> bool:
        return str(module).partition(".")[0] == self._package


def _closure(function: types.FunctionType) -> Iterator[tuple[str, Named]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _names(code: types.CodeType) -> set[str]:
    """Return the global and enclosing names that code uses, nested functions included."""
    return {name for each in (code, *_codes(code)) for name in (*each.co_names, *each.co_freevars)}


def _bytecode(code: types.CodeType, doc: str | None) -> str:
    constants = [
        _bytecode(each, None) if isinstance(each, types.CodeType) else repr(each)
        for each in code.co_consts
        if not isinstance(each, frozenset) and (doc is None or each != doc)
    ]
    return repr((code.co_code, constants, code.co_names, code.co_varnames))


@dataclass(frozen=True, slots=True)
class _Facts:
    """What one function, class or binding is: its text, and the dotted names in its body and signature."""

    text: str
    body: frozenset[_Chain]
    signature: frozenset[_Chain] = frozenset()


@functools.lru_cache(maxsize=50_000)
def _function_facts(code: types.CodeType, file: str, doc: str | None) -> _Facts:
    names = _names(code)
    parsed = _parsed(file, _stamp(file))
    # A file that was edited under the running program does not say what runs.
    nodes = parsed.functions.get(code.co_firstlineno, []) if parsed and code in parsed.codes else []
    nodes = [node for node in nodes if getattr(node, "name", "<lambda>") == code.co_name]
    if not nodes:
        return _Facts(_digest([_bytecode(code, doc)]), frozenset((name,) for name in names))
    body = (chain for chain in _chains(map(_body, nodes)) if chain[0] in names)
    text = _digest(_dump(node, skip=("name",)) for node in nodes)
    return _Facts(text, frozenset(body), frozenset(_chains(node.args for node in nodes)))


@functools.lru_cache(maxsize=50_000)
def _other_facts(file: str, stamp: _Stamp, name: str, *, is_class: bool) -> _Facts | None:
    parsed = _parsed(file, stamp)
    if parsed is None:
        return None
    nodes = [parsed.classes[name]] if is_class and name in parsed.classes else []
    nodes = nodes if is_class else parsed.bindings.get(name, [])
    return _Facts(_digest(map(_dump, nodes)), frozenset(_chains(nodes))) if nodes else None


@dataclass(frozen=True, slots=True)
class _File:
    """A parsed file.

    Attributes:
        codes: What its functions compile to.
        functions: Functions by the first line of their code.
        classes: Classes by qualified name.
        bindings: The statements that bind each name of the module.
        imports: Names imported from modules: the module as written, and the name there.
    """

    codes: set[types.CodeType] = field(default_factory=set[types.CodeType])
    functions: dict[int, list[_Function]] = field(default_factory=dict[int, "list[_Function]"])
    classes: dict[str, ast.ClassDef] = field(default_factory=dict[str, ast.ClassDef])
    bindings: dict[str, list[ast.stmt]] = field(default_factory=dict[str, "list[ast.stmt]"])
    imports: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])


def _stamp(file: str) -> _Stamp:
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=256)
def _parsed(name: str, _: _Stamp) -> _File | None:
    """Parse a file, or a cell of a notebook; None where there is no source."""
    linecache.checkcache(name)
    try:
        source = "".join(linecache.getlines(name))
        tree = ast.parse(source)
        compiled = compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return None
    file = _File(codes=set(_codes(compiled)))
    _index(tree, "", file)
    for statement in _top_level(tree.body):
        for bound in _bound(statement):
            file.bindings.setdefault(bound, []).append(statement)
        if isinstance(statement, ast.ImportFrom):
            source = "." * statement.level + (statement.module or "")
            file.imports.update((alias.asname or alias.name, (source, alias.name)) for alias in statement.names)
    return file


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield each
            yield from _codes(each)


def _index(node: ast.AST, prefix: str, file: _File) -> None:
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            decorators = getattr(child, "decorator_list", [])
            first = min([child.lineno, *(each.lineno for each in decorators)])
            file.functions.setdefault(first, []).append(child)
            name = f"{prefix}{getattr(child, 'name', '<lambda>')}.<locals>."
        elif isinstance(child, ast.ClassDef):
            file.classes[f"{prefix}{child.name}"] = child
            name = f"{prefix}{child.name}."
        _index(child, name, file)


def _top_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, those under `if`, `try` and `with` included."""
    for statement in body:
        yield statement
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for block in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(statement, block, []))
            for handler in getattr(statement, "handlers", []):
                yield from _top_level(handler.body)


def _bound(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))


def _body(node: _Function) -> ast.AST:
    return node.body if isinstance(node, ast.Lambda) else ast.Module(body=node.body, type_ignores=[])


def _chains(nodes: Iterable[ast.AST]) -> set[_Chain]:
    """Return the dotted names that are read, with each of their beginnings."""
    found: set[_Chain] = set()
    for node in (each for root in nodes for each in ast.walk(root)):
        attributes: list[str] = []
        part = node
        while isinstance(part, ast.Attribute):
            attributes.append(part.attr)
            part = part.value
        if isinstance(part, ast.Name):
            found.add((part.id, *reversed(attributes)))
    return found


def _dump(node: object, skip: tuple[str, ...] = ()) -> str:
    """Write a syntax tree in a form that does not depend on the version of Python, without what does not count."""
    if isinstance(node, list):
        return f"[{','.join(_dump(each) for each in node if not _is_docstring(each))}]"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [
        f"{name}={_dump(value)}"
        for name, value in ast.iter_fields(node)
        if name not in ("ctx", "decorator_list", "type_comment", "kind", *skip) and value not in (None, [])
    ]
    return f"{type(node).__name__}({','.join(fields)})"


def _is_docstring(node: object) -> bool:
    """Tell whether a statement is a text alone, which does nothing wherever it stands."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
