"""Assets that write down every call in the current folder, and wait there where a test holds them.

`calls` gets a line for each beginning and end of a body; `held` names assets whose bodies wait at the socket `gates`,
as the test's `Gates` (tests/e2e/gates.py) has it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from flowstone_async import Context, Keys, LeaseExpired, Pipeline, dep

LETTERS = Keys(*"abcdefghijklmnopqrstuvwx")
BULK = 8 << 20

pipe = Pipeline("chain")


@contextmanager
def written(ctx: Context, process: str) -> Generator[None]:
    """Write a call of a body down: when it begins, ends and is cancelled."""
    name = ctx.asset if ctx.partition is None else f"{ctx.asset}:{ctx.partition}"
    words = [name, ctx.run_id, process]
    _write("start", words)
    try:
        yield
    except asyncio.CancelledError:
        _write("cancelled", words)
        raise
    _write("end", words)


@asynccontextmanager
async def called(ctx: Context) -> AsyncGenerator[None]:
    """Write a call of a body down, and hold it if a test wants that."""
    with written(ctx, str(os.getpid())):
        await pause(ctx.asset if ctx.partition is None else f"{ctx.asset}:{ctx.partition}")
        yield


async def lost(event: LeaseExpired) -> None:
    """Write down, in `lost`, that a worker's lease is over: a hook."""
    _append("lost", event.worker)


def _write(what: str, words: list[str]) -> None:
    _append("calls", " ".join([what, *words, str(time.monotonic_ns())]))


def _append(name: str, line: str) -> None:
    # One write of a short line: lines of several processes do not mix.
    descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


async def pause(name: str) -> None:
    """Wait if a test holds what has this name."""
    held = Path("held")
    if not held.exists() or name not in held.read_text().split():
        return
    reader, writer = await asyncio.open_unix_connection("gates")
    try:
        writer.write(f"{name} {os.getpid()}\n".encode())
        await reader.readline()
    finally:
        writer.close()


@pipe.asset
async def first(ctx: Context) -> list[int]:
    async with called(ctx):
        return list(range(100))


@pipe.asset
async def second(first: list[int], ctx: Context) -> list[int]:
    async with called(ctx):
        return [2 * number for number in first]


@pipe.asset
async def third(second: list[int], ctx: Context) -> int:
    async with called(ctx):
        return sum(second)


@pipe.asset(partitions=LETTERS)
async def letter(partition: str, ctx: Context) -> str:
    async with called(ctx):
        return partition


@pipe.asset(partitions=LETTERS)
async def doubled(letter: str, partition: str, ctx: Context) -> str:
    async with called(ctx):
        return 2 * letter


@pipe.asset
async def word(doubled: Mapping[str, str] = dep(doubled, over=LETTERS.all()), *, ctx: Context) -> str:
    async with called(ctx):
        return "".join(doubled[key] for key in sorted(doubled))


@pipe.asset
async def bulky(ctx: Context) -> bytes:
    async with called(ctx):
        return os.urandom(BULK)
