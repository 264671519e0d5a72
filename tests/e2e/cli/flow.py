"""The pipeline that the tests of the command line run: each asset does one thing that a command has to cope with."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path

from pydantic import BaseModel, SecretStr

from flowstone_async import Context, Daily, Failed, Pipeline

print("noise of the import")


class Args(BaseModel):
    n: int = 1
    key: SecretStr = SecretStr("")


pipe = Pipeline("flow", params=Args)
days = Daily("2025-01-01", end="2025-01-10")


@pipe.asset
async def base(params: Args) -> int:
    return params.n


@pipe.asset
async def double(base: int) -> int:
    return base * 2


@pipe.asset
async def noisy(double: int) -> dict[str, int]:
    print("noise of a body")
    sys.stdout.write("{}\n")
    subprocess.run(["echo", "noise of a process"], check=True)
    os.write(1, b"noise of a descriptor\n")
    return {"double": double}


@pipe.asset
async def text() -> str:
    return "plain \x1b[31mtext\x1b[0m token=abc"


@pipe.asset
async def raw() -> bytes:
    return b"\x00\xff"


@pipe.asset
async def numbers() -> AsyncIterator[int]:
    for number in range(3):
        yield number


@pipe.asset
async def broken(params: Args) -> int:
    raise ValueError(f"no way with {params.key.get_secret_value()} and password=hunter2")


@pipe.asset
async def below(broken: int) -> int:
    return broken


@pipe.asset
async def lenient(broken: int | Failed) -> str:
    return "fine" if isinstance(broken, Failed) else "finer"


@pipe.asset
async def endless(base: int) -> int:
    """Never come to an end; say so on standard error as soon as it has begun, and when it is cleaned up."""
    try:
        print("BEGUN", file=sys.stderr, flush=True)
        await asyncio.Event().wait()
    finally:
        print("CLEANED UP", file=sys.stderr, flush=True)
    return base


@pipe.asset
async def stubborn() -> None:
    """Never come to an end, and not to that of the clean-up either."""
    try:
        print("BEGUN", file=sys.stderr, flush=True)
        await asyncio.Event().wait()
    finally:
        print("CLEANING UP", file=sys.stderr, flush=True)
        await asyncio.Event().wait()


@pipe.asset(run_in="thread")
def blocking() -> None:
    """Hold a thread that nobody can interrupt."""
    print("BEGUN", file=sys.stderr, flush=True)
    threading.Event().wait()


@pipe.asset
async def hogging() -> None:
    """Hold the event loop itself."""
    print("BEGUN", file=sys.stderr, flush=True)
    while not Path("never").exists():
        pass


@pipe.asset(partitions=days)
async def daily(partition: date, ctx: Context) -> int:
    ctx.metadata(rows=partition.day * 100)
    if partition.day == 3 and not Path("mended").exists():
        raise RuntimeError("the third is broken")
    return partition.day


@pipe.asset(partitions=days)
async def weekly(daily: int) -> int:
    return daily * 7
