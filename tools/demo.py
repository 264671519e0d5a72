"""Kill a scatter halfway and run it again: `make demo`.

    python tools/demo.py

`flowstone run examples/stdlib_census.py report` is started on an embedded Postgres in ./.flowstone, and killed as soon
as the store says that a third of the files is on record: by SIGKILL, so that it can put nothing in order. Then the same
command is started again. The body writes each call down: that log tells which files were read twice.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

from examples.stdlib_census import CALLS, Report, files, pipe, report
from flowstone_async import Engine, NothingToCancel, RunHandle

STORE = Path(".flowstone")
OUTPUT = STORE / "census-output.log"
EXAMPLE = os.path.relpath(Path(__file__).parents[1] / "examples" / "stdlib_census.py")
COMMAND = ("flowstone", "run", EXAMPLE, "report")
BEFORE_LOOKING_AGAIN = 0.05
BAR = 30


class Progress(NamedTuple):
    """How far the census is, by the store.

    Attributes:
        recorded: Files of which the store has what came of them.
        total: Files; 0 until all are listed.
    """

    recorded: int = 0
    total: int = 0


Look: TypeAlias = Callable[[], Awaitable[Progress]]


async def main() -> None:
    """Run the demo."""
    cast("TextIOWrapper", sys.stdout).reconfigure(line_buffering=True)
    print(f"A census of Python's standard library, in a real Postgres that runs from ./{STORE}\n")
    async with Engine(pipe, slots=0) as engine:
        await begin_anew(engine)
        earlier = {run.id for run in await engine.runs(asset=report)}
    CALLS.write_bytes(b"")
    async with (engine := Engine(pipe)).looking():
        progress = partial(look, engine, earlier)
        killed = await kill_halfway(progress)
        await run_again(progress)
        show_proof(killed)
        show_report(await engine.get(report))
    print(
        f"\nEverything is in ./{STORE} (rm -rf {STORE} removes it). Next, with .venv/bin/ before each:\n"
        f"  flowstone plan {EXAMPLE} report      what would run, and why\n"
        f"  flowstone invalidate {EXAMPLE} census --cascade --yes\n"
        f"  {' '.join(COMMAND)}       kill it yourself"
    )


async def begin_anew(engine: Engine) -> None:
    """Forget the census of an earlier demo, also of one that was interrupted."""
    for run in await engine.runs(state="running", asset=report):
        with suppress(NothingToCancel):
            await (await engine.find(run.id)).cancel()
    await engine.invalidate(files, cascade=True)


# -- the two processes ------------------------------------------------------------------------------------------------


async def kill_halfway(progress: Look) -> Progress:
    """Start the command, kill it when a third of the files is on record, and return how far it was."""
    async with command() as process:
        now = Progress()
        while process.returncode is None and (not now.total or now.recorded * 3 < now.total):
            show(now)
            await asyncio.sleep(BEFORE_LOOKING_AGAIN)
            now = await progress()
        with suppress(ProcessLookupError):
            process.kill()
        code = await process.wait()
    now = await progress()
    show(now, last=True)
    if code == -signal.SIGKILL:
        print(f"$ kill -9 {process.pid}\n  It is dead, and {now.recorded:,} of {now.total:,} files are on record.")
    else:
        check(code)
        print("  This machine is so fast that all was done before it could be killed: nothing is left to go on with.")
    return now


async def run_again(progress: Look) -> None:
    """Start the same command again, and watch it to its end."""
    async with command() as process:
        while process.returncode is None:
            show(await progress())
            await asyncio.sleep(BEFORE_LOOKING_AGAIN)
    check(process.returncode)
    show(await progress(), last=True)


@asynccontextmanager
async def command() -> AsyncGenerator[Process]:
    """Start the command in a process, which is gone afterwards."""
    words = [sys.executable, "-m", "flowstone_async.cli", *COMMAND[1:]]
    with OUTPUT.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*words, stdout=output, stderr=output)
    print(f"$ {' '.join(COMMAND)}      (process {process.pid})")
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def check(code: int | None) -> None:
    """End the demo if the command failed, with what it said."""
    if code:
        sys.exit(f"{' '.join(COMMAND)} failed with exit code {code}:\n{OUTPUT.read_text(errors='replace')}")


async def look(engine: Engine, earlier: Collection[str]) -> Progress:
    """Return how far the run is that is none of the earlier ones."""
    for run in await engine.runs(asset=report):
        if run.id not in earlier:
            handle: RunHandle[Report] = await engine.find(run.id)
            counts = (await handle.status()).scatter
            if counts is not None:
                return Progress(counts.done + counts.failed, counts.total if counts.sealed else 0)
    return Progress()


# -- what is shown ----------------------------------------------------------------------------------------------------


def show(now: Progress, *, last: bool = False) -> None:
    """Show progress: redrawn in place on a terminal, a line at the end elsewhere."""
    filled = BAR * now.recorded // max(now.total, 1)
    text = f"  {'━' * filled:<{BAR}}  {now.recorded:,} of {now.total:,} files"
    if sys.stdout.isatty():
        print(f"\r{text}", end="\n" if last else "", flush=True)
    elif last:
        print(text)


def show_proof(killed: Progress) -> None:
    """Compare the calls of the body with what was on record when the first process was killed."""
    calls = [line.split(" ", 1) for line in CALLS.read_text().splitlines()]
    pids = list(dict.fromkeys(pid for pid, _ in calls))
    first, *others = ({file for pid, file in calls if pid == each} for each in pids)
    second = set[str]().union(*others)
    twice = len(first & second)
    in_hand = len(first) - killed.recorded
    if len(calls) != len(first) + len(second) or twice > in_hand:
        sys.exit("A file was read again that was on record: this is a bug, please report it.")
    print(
        f"  Calls that the body logged: {len(first):,} by the first process, {killed.recorded:,} of them recorded;\n"
        f"  {len(second):,} by the second: {twice:,} again that were in hand at the kill, none that was recorded."
    )


def show_report(found: Report) -> None:
    """Print the report."""
    whole = found.whole
    print(
        f"\n{len(found.packages):,} packages, {whole.lines:,} lines in {whole.files:,} files; "
        f"{len(found.broken)} more are no valid Python, on purpose\n"
    )
    print(f"{'package':<18}{'files':>8}{'lines':>10}{'functions':>12}{'branches each':>16}")
    for name, each in sorted(found.packages.items(), key=lambda item: item[1].lines, reverse=True)[:8]:
        branches = each.branches / max(each.functions, 1)
        print(f"{name:<18}{each.files:>8,}{each.lines:>10,}{each.functions:>12,}{branches:>16.1f}")
    imports = Counter(whole.imports).most_common(6)
    print("most imported: " + ", ".join(f"{name} ({times:,})" for name, times in imports))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the next `make demo` begins anew.")
