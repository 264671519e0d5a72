"""Scatters of many small items: what an item costs, and how close bodies that wait come to the ideal.

`memory`: no-op items on the memory store; the floor is a bare loop that awaits the same body. `durable_packed`,
`durable_rows`: the same on the embedded Postgres, with results many in a row and a row each; the floor inserts the same
pages, keys and results with the bare driver, a statement for each page. Each is measured in a process of its own, for
its peak of memory. `io_10ms_200`, `io_10ms_1000`: bodies that wait 10 ms, so many at once; the floor is the ideal,
items / at once x 10 ms. `workers_2`, `workers_4`: no-op items of one scatter on the embedded Postgres, run by so many
processes; the floor is one of them alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import asyncpg
from pydantic_core import to_json

from benchmarks.harness import Options, options, show
from benchmarks.stored import database
from flowstone_async import Engine, Gathered, Pipeline
from flowstone_async.store.embedded.server import EmbeddedServer

PAGE = 1000
WAIT = 0.01
_SIZES = """
SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'flowstone' AND c.relkind = 'r' AND c.relname LIKE 'scatter%'
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one process measured.

    Attributes:
        seconds: From the call of the run to its value.
        floor: Seconds of the floor.
        peak_rss_mb: The most memory that the process had.
        stored: Bytes of the tables of scatters.
    """

    seconds: float
    floor: float
    peak_rss_mb: float
    stored: int


def peak_mb() -> float:
    """Return the most memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def noop(items: int, results: Literal["packed", "rows"], called: list[int] | None = None) -> Pipeline:
    """Return a pipeline that scatters and gathers, an item at a time, and counts its calls where it is told to."""
    pipe = Pipeline("scattered")

    async def source() -> AsyncIterator[int]:
        for no in range(items):
            yield no

    @pipe.scatter(source, page_size=PAGE, results=results)
    async def each(no: int) -> int:
        if called is not None:
            called[0] += 1
        return no

    @each.gather
    async def total(results: Gathered[int]) -> int:
        count = 0
        async for _ in results:
            count += 1
        return count

    return pipe


async def loop(items: int) -> float:
    """Await a body for each item, and nothing else; return seconds."""

    async def each(no: int) -> int:
        return no

    begun = time.perf_counter()
    for no in range(items):
        await each(no)
    return time.perf_counter() - begun


async def scattered(items: int, results: Literal["packed", "rows"], dsn: str | None) -> float:
    """Run the scatter once; return seconds."""
    async with Engine(noop(items, results), store=dsn or "memory", block_warning=False) as engine:
        begun = time.perf_counter()
        assert await engine.run("total", timeout=False) == items
        return time.perf_counter() - begun


async def inserted(items: int, results: Literal["packed", "rows"], dsn: str) -> float:
    """Insert the same pages, keys and results with the bare driver; return seconds."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("""
        CREATE TABLE page (no integer PRIMARY KEY, items bytea);
        CREATE TABLE key (hash uuid PRIMARY KEY, item_no bigint);
        CREATE TABLE block (no bigint PRIMARY KEY, body bytea);
        CREATE TABLE result (item_no bigint PRIMARY KEY, value text);
    """)
    packed = "INSERT INTO block VALUES ($1, $2)"
    rows = "INSERT INTO result SELECT $1::bigint + place - 1, v FROM unnest($2::text[]) WITH ORDINALITY AS n (v, place)"
    page = """
        WITH page AS (INSERT INTO page VALUES ($1, $2))
        INSERT INTO key SELECT hash, $1::bigint + place - 1 FROM unnest($3::uuid[]) WITH ORDINALITY AS n (hash, place)
    """
    begun = time.perf_counter()
    for first in range(0, items, PAGE):
        numbers = range(first, min(first + PAGE, items))
        encoded = to_json(list(numbers))
        hashes = [blake2b(to_json(no), digest_size=16).hexdigest() for no in numbers]
        await connection.execute(page, first, encoded, hashes)
        if results == "packed":
            await connection.execute(packed, first, encoded)
        else:
            await connection.execute(rows, first, [str(no) for no in numbers])
    seconds = time.perf_counter() - begun
    await connection.close()
    return seconds


async def stored_bytes(dsn: str) -> int:
    """Return the size of the tables of scatters, with their indexes."""
    connection = await asyncpg.connect(dsn)
    size: int = await connection.fetchval(_SIZES)
    await connection.close()
    return size


def in_process(name: str, items: int, dsn: str = "", floor: str = "") -> Measured:
    """Measure one scatter in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scatter", "--measure", name, "--items", str(items), dsn, floor]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Measured(**json.loads(done.stdout))


async def measure(name: str, items: int, dsn: str, floor: str) -> Measured:
    """Measure here."""
    if name == "memory":
        seconds, peak = await scattered(items, "packed", None), peak_mb()
        return Measured(seconds, await loop(items), peak, 0)
    results = "packed" if name == "durable_packed" else "rows"
    seconds, peak = await scattered(items, results, dsn), peak_mb()
    return Measured(seconds, await inserted(items, results, floor), peak, await stored_bytes(dsn))


def told(given: Options, name: str, items: int, measured: Measured, memory: Measured, aim: str) -> None:
    """Show what a scatter of no-op items costs."""
    show(
        given,
        name,
        floor=measured.floor / items * 1e6,
        figure=measured.seconds / items * 1e6,
        unit="us_per_item",
        aim=aim,
        items=items,
        items_per_s=items / measured.seconds,
        peak_rss_mb=measured.peak_rss_mb,
        bytes_per_item=measured.stored / items,
        share_of_memory=memory.seconds / measured.seconds,
    )


async def waiting(given: Options, at_once: int, items: int) -> None:
    """Measure bodies that wait."""
    pipe = Pipeline("waiting")

    @pipe.scatter(range(items), max_concurrent=at_once)
    async def each(no: int) -> int:
        await asyncio.sleep(WAIT)
        return no

    async with Engine(pipe, store="memory", block_warning=False) as engine:
        begun = time.perf_counter()
        assert (await engine.run(each, timeout=False)).succeeded == items
        seconds = time.perf_counter() - begun
    ideal = -(-items // at_once) * WAIT
    name = f"io_10ms_{at_once}"
    more = {"items": items, "items_per_s": items / seconds, "share_of_ideal": ideal / seconds}
    show(given, name, floor=ideal, figure=seconds, unit="s", aim="the ideal", **more)


async def work(items: int, dsn: str) -> None:
    """Be one of several workers, until the standard input ends."""
    called: list[int] = [0]
    async with Engine(noop(items, "packed", called), store=dsn, block_warning=False, poll="100ms"):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    print(called[0])


async def worked(items: int, dsn: str, count: int) -> tuple[float, int]:
    """Run one scatter with so many workers; return seconds, and the fewest bodies that one of them called."""
    command = [sys.executable, "-m", "benchmarks.scatter", "--measure", "worker", "--items", str(items), dsn, ""]
    pipe = asyncio.subprocess.PIPE
    workers = [await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe) for _ in range(count)]
    for worker in workers:
        assert worker.stdout is not None
        await worker.stdout.readline()
    async with Engine(noop(items, "packed"), store=dsn, block_warning=False, slots=0, poll="100ms") as engine:
        begun = time.perf_counter()
        assert await (await engine.submit("total")) == items
        seconds = time.perf_counter() - begun
    called = [int((await worker.communicate(b""))[0]) for worker in workers]
    return seconds, min(called)


async def shared(given: Options, server: EmbeddedServer, items: int) -> None:
    """Measure one scatter on several processes."""
    seconds: dict[int, float] = {}
    for count in (1, 2, 4):
        async with database(server, f"workers_{count}") as dsn:
            seconds[count], fewest = await worked(items, dsn, count)
        if count > 1:
            more = {"items": items, "items_per_s": items / seconds[count], "fewest_bodies": fewest}
            name, floor = f"workers_{count}", seconds[1] / items * 1e6
            show(given, name, floor=floor, figure=seconds[count] / items * 1e6, unit="us_per_item", aim="1", **more)


async def all_of(given: Options, items: int) -> None:
    """Measure everything."""
    memory = in_process("memory", items)
    told(given, "memory", items, memory, memory, "120 MB")
    with TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "fs")
        await server.open()
        try:
            for name in ("durable_rows", "durable_packed"):
                async with database(server, name) as dsn, database(server, f"{name}_floor") as floor:
                    told(given, name, items, in_process(name, items, dsn, floor), memory, "2x the floor")
            await shared(given, server, items)
        finally:
            await server.close()
    for at_once in (200, 1000):
        await waiting(given, at_once, at_once * given.repeat(200, 50))


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--items", type=int, help="how many no-op items [1,000,000; 100,000 with --quick]")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("dsn", nargs="*", help=argparse.SUPPRESS)
    own, rest = parser.parse_known_args()
    if own.measure:
        dsn, floor = own.dsn
        if own.measure == "worker":
            asyncio.run(work(own.items, dsn))
            return
        found: Any = asyncio.run(measure(own.measure, own.items, dsn, floor))
        print(json.dumps({name: getattr(found, name) for name in Measured.__slots__}))
        return
    sys.argv[1:] = rest
    given = options(__doc__)
    asyncio.run(all_of(given, own.items or given.repeat(1_000_000, 100_000)))


if __name__ == "__main__":
    main()
