"""Worker processes for the benchmarks: `python -m benchmarks.workers DSN` is one, until SIGTERM.

It says when it is ready, and at its end what it has sent and how long it has computed.
"""

from __future__ import annotations

import argparse
import asyncio
import pickle
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.overhead import three
from benchmarks.stored import Statement, recorded
from flowstone_async import Engine, Pipeline

_READY = b"ready\n"


@dataclass(slots=True)
class Told:
    """What a worker process tells at its end.

    Attributes:
        cpu: Seconds of its own.
    """

    sent: list[Statement] = field(default_factory=list[Statement])
    cpu: float = 0.0


def timed() -> Pipeline:
    """Return a pipeline that tells when its bodies were called, on the clock that processes share."""
    pipe = Pipeline("timed")

    @pipe.asset
    async def begun() -> float:
        return time.monotonic()

    @pipe.asset
    async def held(begun: float) -> float:
        if WAITS:
            await asyncio.Event().wait()
        return begun

    return pipe


WAITS: list[bool] = []
"""Filled where `held` never ends: in the worker that is to be killed."""


@asynccontextmanager
async def worker(dsn: str, *options: str) -> AsyncGenerator[Process]:
    """Start one worker process, wait until it is ready, and end it."""
    words = ("-m", "benchmarks.workers", dsn, *options)
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=PIPE)
    assert process.stdout is not None
    try:
        if await process.stdout.readline() != _READY:
            raise RuntimeError("a worker process did not become ready")
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


@asynccontextmanager
async def workers(dsn: str, count: int, *, slots: int, folder: Path) -> AsyncGenerator[list[Told]]:
    """Start worker processes that have `slots` together; after the end it is known what they tell."""
    told: list[Told] = []
    places = [folder / f"worker-{number}" for number in range(count)]
    async with AsyncExitStack() as stack:
        for place in places:
            await stack.enter_async_context(worker(dsn, "--slots", str(slots // count), "--tell", str(place)))
        yield told
    for place in places:
        cpu, sent = pickle.loads(place.read_bytes())  # noqa: S301 - our own
        told.append(Told(sent, cpu))


async def work(given: argparse.Namespace) -> Told:
    """Be a worker until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    WAITS.extend([True] * given.waits)
    settings: Any = {"slots": given.slots, "lease": given.lease, "poll": given.poll, "notify": not given.no_notify}
    with recorded() as sent:
        async with Engine(three(), timed(), store=given.dsn, block_warning=False, **settings):
            sys.stdout.buffer.write(_READY)
            sys.stdout.flush()
            before = time.process_time()
            await stop.wait()
            return Told(list(sent), time.process_time() - before)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dsn")
    parser.add_argument("--slots", type=int, default=10)
    parser.add_argument("--lease", default="30s")
    parser.add_argument("--poll", default="1s")
    parser.add_argument("--no-notify", action="store_true")
    parser.add_argument("--waits", action="store_true")
    parser.add_argument("--tell", type=Path)
    parser.add_argument("--profile", type=Path)
    given = parser.parse_args(words)
    if given.profile is not None:
        from cProfile import Profile

        with Profile(time.process_time) as profile:
            told = asyncio.run(work(given))
        profile.dump_stats(given.profile)
    else:
        told = asyncio.run(work(given))
    if given.tell is not None:
        given.tell.write_bytes(pickle.dumps((told.cpu, told.sent)))


if __name__ == "__main__":
    main()
