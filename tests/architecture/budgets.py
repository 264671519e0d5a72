"""The budgets of the code base, each a function from source files to findings.

`test_budgets.py` runs them over the checkout, and over small bad files to show that each of them can fail.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

FILE_LINES = 400
TEST_LINES = 600  # a test file is a list
BODY_LINES = 60
USUAL_BODY_LINES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A Python file, read and parsed once.

    Attributes:
        name: Its path below the folder it was found in, with forward slashes.
    """

    name: str
    text: str
    tree: ast.Module


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something that breaks a budget, printed as an editor can jump to it."""

    name: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.name}:{self.line}: {self.problem}"


def read_sources(root: Path, names: Iterable[str]) -> list[Source]:
    """Read and parse the Python files among `names`, which are paths below `root`."""
    python = sorted(name for name in names if name.endswith(".py"))
    texts = [(name, (root / name).read_text(encoding="utf-8")) for name in python]
    return [Source(name=name, text=text, tree=ast.parse(text)) for name, text in texts]


def tracked_files(root: Path) -> list[str]:
    """List the files that git tracks or would add, as paths below `root`."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return sorted(name for name in listed if name and (root / name).is_file())


def long_files(source: Source) -> Iterator[Finding]:
    """Find a file of more than 400 lines, 600 for a test."""
    lines, most = source.text.count("\n"), TEST_LINES if source.name.startswith("tests/") else FILE_LINES
    if lines > most:
        yield Finding(source.name, 1, f"{lines} lines, at most {most}: is it still one noun?")


def long_functions(source: Source) -> Iterator[Finding]:
    """Find functions whose body, without its docstring, has more than 60 lines."""
    for function, lines in _bodies(source):
        if lines > BODY_LINES:
            yield Finding(source.name, function.lineno, f"{function.name}() has {lines} lines, at most {BODY_LINES}")


def too_many_longish_functions(sources: Iterable[Source]) -> Iterator[Finding]:
    """Find the functions of more than 40 lines, when they are more than one in twenty."""
    bodies = [(lines, source.name, function) for source in sources for function, lines in _bodies(source)]
    longish = [body for body in bodies if body[0] > USUAL_BODY_LINES]
    if len(longish) * 20 > len(bodies):
        for lines, name, function in longish:
            yield Finding(name, function.lineno, f"{function.name}() is one of too many: {lines} lines")


def import_cycles(package: str) -> Iterator[Finding]:
    """Find a circle of modules that import each other, wherever in a module the imports stand."""
    graph = grimp.build_graph(package, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        yield Finding(package, 1, "import cycle: " + " <- ".join(error.args[1]))


def hidden_imports(source: Source) -> Iterator[Finding]:
    """Find imports of our own modules that only a type checker sees."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in ast.walk(node):
                if any(module.split(".")[0] == "flowstone_async" for module in _imported(statement)):
                    yield Finding(source.name, node.lineno, "own module behind TYPE_CHECKING: the layer is wrong")


def stray_tasks(source: Source) -> Iterator[Finding]:
    """Find tasks without a parent; `create_task` of a task group is fine."""
    strays = {f"asyncio.{name}" for name in ("create_task", "ensure_future", "gather", "shield")}
    for node, name in _uses(source):
        if name in strays or name.endswith(("loop.create_task", "loop().create_task")):
            yield Finding(source.name, _line(node), f"{name}: every task has a parent and a name")


def wall_clocks(source: Source) -> Iterator[Finding]:
    """Find readings of the wall clock, which belong to a Clock."""
    clocks = {"time.time", "time.time_ns", "datetime.date.today"}
    clocks |= {f"datetime.datetime.{name}" for name in ("now", "today", "utcnow")}
    for node, name in _uses(source):
        if name in clocks:
            yield Finding(source.name, _line(node), f"{name}: take the time from a Clock")


def broad_excepts(source: Source) -> Iterator[Finding]:
    """Find handlers that catch everything, unless they end by raising it on."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and not _raises_on(node):
            caught = ast.unparse(node.type) if node.type else "everything"
            yield Finding(source.name, node.lineno, f"except {caught}: only where the allow-list gives a reason")


def sleeps(source: Source) -> Iterator[Finding]:
    """Find tests that wait for time to pass; `sleep(0)` only gives way."""
    sleeping = {f"{module}.sleep" for module in ("anyio", "asyncio", "time", "trio")}
    aliases = _aliases(source)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and _full_name(node.func, aliases) in sleeping and not _is_zero(node.args):
            yield Finding(source.name, node.lineno, f"{ast.unparse(node)}: wait on an event or a clock instead")


_ADDRESSES = re.compile(
    r"""(?<![\w.~}\])-])/(?:home|root|work|Users)/[\w.-]+  # a folder of one machine
    | \b[A-Z]:\\\\?Users\b
    | (?:pypi|pythonhosted|npmjs|yarnpkg)\.(?:org|com|io)   # where packages come from
    | https?://[^\s/"']*(?:artifactory|devpi|nexus|proxy|mirror|registry)
    | --(?:(?:extra-)?index-url|find-links|trusted-host)\b
    """,
    re.VERBOSE,
)


def machine_addresses(root: Path, name: str) -> Iterator[Finding]:
    """Find absolute paths of somebody's machine and hosts of package registries in a text file."""
    try:
        text = (root / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    for match in _ADDRESSES.finditer(text):
        yield Finding(name, text.count("\n", 0, match.start()) + 1, f"names a machine or a registry: {match.group()}")


_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _bodies(source: Source) -> Iterator[tuple[_Function, int]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            yield node, (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def _imported(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module)):
            return [module]
        case _:
            return []


def _uses(source: Source) -> Iterator[tuple[ast.AST, str]]:
    """Yield every dotted name and imported name with the full name that it stands for."""
    aliases = _aliases(source)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute):
            yield node, _full_name(node, aliases)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node, f"{node.module}.{alias.name}"


def _aliases(source: Source) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return aliases


def _full_name(node: ast.expr, aliases: dict[str, str]) -> str:
    match node:
        case ast.Name(id=name):
            return aliases.get(name, name)
        case ast.Attribute(value=value, attr=attribute):
            return f"{_full_name(value, aliases)}.{attribute}"
        case ast.Call(func=function):
            return f"{_full_name(function, aliases)}()"
        case _:
            return "?"


def _is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(type_ is None or ast.unparse(type_) in {"BaseException", "Exception"} for type_ in caught)


def _raises_on(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def _is_zero(arguments: list[ast.expr]) -> bool:
    return len(arguments) == 1 and isinstance(arguments[0], ast.Constant) and arguments[0].value == 0


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 1)
