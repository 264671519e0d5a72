"""A census of this interpreter's standard library: `make demo`.

Every Python source file of the standard library (more than 1,500) is read and parsed. One partition is one top-level
package; a report gathers all of them. Everything is durable, in a real Postgres that runs from `./.flowstone`: run it
again, or kill it halfway and run it again, and only what is missing is computed.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowstone_async import BackfillReport, Custom, Engine, Pipeline, dep

STDLIB = Path(sysconfig.get_path("stdlib"))
STORE = ".flowstone"
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.BoolOp, ast.IfExp)

pipe = Pipeline("stdlib_census")


@functools.cache
def top_level() -> list[str]:
    """Name every top-level package and module of the standard library."""
    entries = (each for each in STDLIB.iterdir() if each.name not in {"site-packages", "__pycache__"})
    code = (each for each in entries if each.suffix == ".py" or (each.is_dir() and any(each.rglob("*.py"))))
    return sorted({each.stem for each in code})


packages = Custom(top_level)


@dataclass
class Census:
    """What one package is made of."""

    files: int = 0
    unreadable: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    branches: int = 0
    imports: dict[str, int] = field(default_factory=dict)


@dataclass
class Row:
    """One line of the report."""

    package: str
    files: int
    lines: int
    functions: int
    branches_per_function: float


@dataclass
class Report:
    """What all packages are made of."""

    packages: int
    files: int
    unreadable: int
    lines: int
    largest: list[Row]
    most_imported: list[tuple[str, int]]


@pipe.asset(partitions=packages, run_in="thread")
def census(partition: str) -> Census:
    """Read and parse every source file of one package."""
    found = Census()
    imports: Counter[str] = Counter()
    for path in sources(partition):
        source = path.read_bytes()
        found.files += 1
        found.lines += source.count(b"\n")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):  # the test suite has files that are broken on purpose
            found.unreadable += 1
            continue
        for node in ast.walk(tree):
            count(node, found, imports)
    found.imports = dict(imports)
    return found


def sources(package: str) -> Iterator[Path]:
    """Yield the source files of a top-level package or module."""
    module, folder = STDLIB / f"{package}.py", STDLIB / package
    if module.is_file():
        yield module
    if folder.is_dir():
        yield from sorted(path for path in folder.rglob("*.py") if "site-packages" not in path.parts)


def count(node: ast.AST, found: Census, imports: Counter[str]) -> None:
    """Count one node of a syntax tree."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            found.functions += 1
        case ast.ClassDef():
            found.classes += 1
        case ast.Import(names=names):
            imports.update(alias.name.partition(".")[0] for alias in names)
        case ast.ImportFrom(module=str() as module, level=0):
            imports[module.partition(".")[0]] += 1
        case _ if isinstance(node, BRANCHES):
            found.branches += 1
        case _:
            pass


@pipe.asset
async def report(by_package: Mapping[str, Census] = dep(census, over=packages.all())) -> Report:
    """Gather all packages."""
    imports: Counter[str] = Counter()
    for each in by_package.values():
        imports.update(each.imports)
    largest = sorted(by_package.items(), key=lambda item: item[1].lines, reverse=True)[:12]
    return Report(
        packages=len(by_package),
        files=sum(each.files for each in by_package.values()),
        unreadable=sum(each.unreadable for each in by_package.values()),
        lines=sum(each.lines for each in by_package.values()),
        largest=[row(name, each) for name, each in largest],
        most_imported=imports.most_common(8),
    )


def row(package: str, each: Census) -> Row:
    """Return one line of the report."""
    return Row(package, each.files, each.lines, each.functions, round(each.branches / max(each.functions, 1), 1))


# -- the program ----------------------------------------------------------------------------------------------------


async def main(store: str = f"embedded:{STORE}") -> None:
    """Take the census twice: once for real, once to show that everything is reused."""
    total = len(top_level())
    async with Engine(pipe, store=store) as engine:
        for title in ("Taking the census", "Taking it again"):
            begun = time.monotonic()
            done = await engine.backfill(census, parallel=4, on_progress=functools.partial(show, title, total))
            gathered = await engine.run(report)
            seconds = time.monotonic() - begun
            show(title, total, done, last=True)
            print(f"  {done.succeeded} computed, {done.skipped} reused, {done.failed} failed, in {seconds:.2f} s")
            for partition, error in done.errors.items():
                print(f"  {partition}: {error.message}", file=sys.stderr)
        print_table(gathered)
    print(
        f"\nThe values, their lineage and every run are in a real Postgres in {STORE} (rm -rf {STORE} removes it).\n"
        "Try next:\n"
        "  .venv/bin/flowstone plan examples/stdlib_census.py report\n"
        "  .venv/bin/flowstone get examples/stdlib_census.py census -p asyncio\n"
        "  .venv/bin/flowstone invalidate examples/stdlib_census.py census -p asyncio --cascade --yes\n"
        "  .venv/bin/flowstone run examples/stdlib_census.py report"
    )


def show(title: str, total: int, now: BackfillReport, *, last: bool = False) -> None:
    """Show progress: redrawn in place on a terminal, a line at the end elsewhere."""
    finished = now.succeeded + now.skipped + now.failed
    if sys.stdout.isatty():
        filled = 30 * finished // max(total, 1)
        bar = "━" * filled + " " * (30 - filled)
        print(f"\r{title}  {bar}  {finished}/{total} packages", end="\n" if last else "", flush=True)
    elif last:
        print(f"{title}: {finished}/{total} packages")


def print_table(gathered: Report) -> None:
    """Print the report."""
    print(
        f"\n{gathered.packages} packages, {gathered.lines:,} lines in {gathered.files:,} files "
        f"({gathered.unreadable} of them not valid Python, on purpose)\n"
    )
    print(f"{'package':<18}{'files':>8}{'lines':>10}{'functions':>12}{'branches each':>16}")
    for each in gathered.largest:
        print(
            f"{each.package:<18}{each.files:>8,}{each.lines:>10,}{each.functions:>12,}{each.branches_per_function:>16}"
        )
    print("\nmost imported: " + ", ".join(f"{name} ({times:,})" for name, times in gathered.most_imported))


if __name__ == "__main__":
    asyncio.run(main())
