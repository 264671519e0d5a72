"""A census of this interpreter's standard library: `flowstone run examples/stdlib_census.py report`.

The body of a scatter is called once for each Python source file. What it returns is kept in a real Postgres that runs
from `./.flowstone`, so that killing it halfway costs no more than the files it was at: run it again and it goes on, as
`make demo` shows. A file that is not valid Python fails alone, and the report lists it.
"""

from __future__ import annotations

import ast
import asyncio
import os
import sysconfig
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from flowstone_async import Gathered, Pipeline

STDLIB = Path(sysconfig.get_path("stdlib"))
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.BoolOp, ast.IfExp)
CALLS = Path(".flowstone/census-calls.log")
"""If it is there, each call of the body adds a line to it: process and file. By that `make demo` counts."""

# What the parser thinks of code that is odd on purpose.
warnings.filterwarnings("ignore", module="<unknown>")

pipe = Pipeline("stdlib_census")


@dataclass
class Census:
    """What a file or a package is made of."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    branches: int = 0
    imports: dict[str, int] = field(default_factory=dict)

    def add(self, other: Census) -> None:
        """Add what another one is made of."""
        self.files += other.files
        self.lines += other.lines
        self.functions += other.functions
        self.branches += other.branches
        self.imports = dict(Counter(self.imports) + Counter(other.imports))


@dataclass
class Report:
    """What all packages are made of.

    Attributes:
        broken: Files that are not valid Python.
    """

    whole: Census
    packages: dict[str, Census]
    broken: list[str]


@pipe.asset(run_in="thread")
def files() -> list[str]:
    """List the source files of the standard library."""
    paths = (path.relative_to(STDLIB) for path in STDLIB.rglob("*.py"))
    return sorted(path.as_posix() for path in paths if path.parts[0] not in {"site-packages", "dist-packages"})


@pipe.scatter(files, max_concurrent=4, retry=False, tolerate=0.05)
async def census(file: str) -> Census:
    """Read and parse one file; parsing would hold the event loop up, so a thread does it."""
    note(file)
    return await asyncio.to_thread(taken, STDLIB / file)


@census.gather
async def report(results: Gathered[Census]) -> Report:
    """Add the files up, as they come from the store."""
    gathered = Report(Census(), {}, [failure.item async for failure in results.failures()])
    async for file, found in results.items():
        package = file.partition("/")[0].removesuffix(".py")
        gathered.packages.setdefault(package, Census()).add(found)
        gathered.whole.add(found)
    return gathered


def taken(path: Path) -> Census:
    """Parse a file and count what it is made of."""
    source, imports = path.read_bytes(), Counter[str]()
    found = Census(files=1, lines=source.count(b"\n"))
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                found.functions += 1
            case ast.Import(names=names):
                imports.update(alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str() as module, level=0):
                imports[module.partition(".")[0]] += 1
            case _ if isinstance(node, BRANCHES):
                found.branches += 1
            case _:
                pass
    found.imports = dict(imports)
    return found


def note(file: str) -> None:
    """Write a call down, before anything else is done: in one write, so that it is there whatever happens next."""
    if CALLS.exists():
        with CALLS.open("ab", buffering=0) as log:
            log.write(f"{os.getpid()} {file}\n".encode())
