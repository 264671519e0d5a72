"""How soon bodies go on that wait at gates, and what it costs that many do.

`resume_parked`, `resume_evicted`: from before `engine.signal` to the next line of the body, which waits in memory or
was dropped with its run; the floor is a NOTIFY from one connection to another. `replay_50_steps`: as
`resume_evicted`, of a body with 50 steps on record; the floor is that without them. `deliver_100k_waiting`: one
signal while so many suspended runs wait besides (10,000 with `--quick`); the floor is the same without them, and
`rss_mb` the most memory that the process had. `timers_10000`: so many items of a scatter (1,000 with `--quick`) whose
`ctx.sleep` ends at one instant: by how much the last one is late; the floor is `asyncio.sleep` in as many tasks.
`items_10000_waiting`: megabytes that a process has more once so many items of a scatter (1,000 with `--quick`) wait
and are in nobody's memory; the floor is the same for items that have ended. `begin_s`, `end_s`: until all wait, and
from the first signal until the run has ended.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg

from benchmarks.harness import Options, options, percentile, show
from benchmarks.latency import round_trip
from benchmarks.stored import database
from flowstone_async import Context, Engine, Pipeline, RunHandle
from flowstone_async.store.embedded.server import EmbeddedServer

_WARM = 5
_IDLE, _LOOK = 0.02, 0.002
_SECRET = b"s" * 32
STEPS = 50
_PARKED = "SELECT count(*) FROM flowstone.scatter_chunk WHERE state = 'ready' AND due_at = 'infinity'"
_COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attidentity = '' AND attgenerated = ''
"""


def rss_mb() -> float:
    """Return the most memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


class Waiting:
    """A pipeline whose bodies wait for a signal each, and note when they have begun to wait and gone on."""

    def __init__(self) -> None:
        self.pipe = Pipeline("waiting")
        self.went_on: dict[str, asyncio.Future[float]] = {}

        async def noted(number: int) -> int:
            return number

        async def wait(ctx: Context, steps: int, token: str) -> str:
            for number in range(steps):
                await ctx.step(noted, number)
            answer = await ctx.signal(str, token=token)
            self.went_on[token].set_result(time.perf_counter())
            return answer

        @self.pipe.asset
        async def job(ctx: Context) -> str:
            return await wait(ctx, 0, f"job {ctx.run_id}")

        @self.pipe.asset
        async def long(ctx: Context) -> str:
            return await wait(ctx, STEPS, f"long {ctx.run_id}")

    async def begin(self, engine: Engine, asset: str, *, suspended: bool) -> tuple[RunHandle[Any], str]:
        """Submit one, and return it with its token once it waits."""
        run = await engine.submit(asset, force=True)
        token = f"{asset} {run.id}"
        self.went_on[token] = asyncio.get_running_loop().create_future()
        while (await run.status()).state != "waiting" if suspended else not await engine.gates.waiting(asset=asset):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        return run, token

    async def resume(self, engine: Engine, asset: str, *, suspended: bool) -> float:
        """Return the seconds from a signal to the next line of the body."""
        run, token = await self.begin(engine, asset, suspended=suspended)
        await asyncio.sleep(_IDLE)
        begun = time.perf_counter()
        await engine.signal(token, "go on")
        taken = await self.went_on[token] - begun
        await run.result(timeout="1m")
        return taken


async def resumed(given: Options, server: EmbeddedServer, name: str, asset: str, **engine: Any) -> list[float]:
    """Return how long bodies took to go on, the floor beside each."""
    waiting, suspended = Waiting(), engine["park_after"] is not False
    async with database(server, name) as dsn, Engine(waiting.pipe, store=dsn, secret=_SECRET, **engine) as working:
        times = _WARM + given.repeat(300, 30)
        return [await waiting.resume(working, asset, suspended=suspended) for _ in range(times)][_WARM:]


async def notified(given: Options, server: EmbeddedServer) -> float:
    """Return the seconds that a notification takes."""
    async with database(server, "notified") as dsn:
        sender, listener = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
        taken = [await round_trip(sender, listener) for _ in range(_WARM + given.repeat(300, 60))]
        await sender.close()
        await listener.close()
    return percentile(taken[_WARM:], 0.5)


def told(given: Options, name: str, floor: float, taken: list[float], aim: str) -> None:
    """Show how long bodies took to go on."""
    p50, p99 = percentile(taken, 0.5) * 1e3, percentile(taken, 0.99) * 1e3
    show(given, name, floor=floor * 1e3, figure=p50, unit="p50_ms", aim=aim, p99_ms=p99)


async def filled(connection: Any, run_id: str, count: int) -> None:
    """Store so many more runs that wait, like one, each with a gate of its own."""
    await connection.execute(
        "CREATE TEMP TABLE made AS SELECT gen_random_uuid() AS id FROM generate_series(1, $1)", count
    )
    for table, own in (
        ("run", {"id": "made.id"}),
        ("gate", {"id": "gen_random_uuid()", "run_id": "made.id", "token": "NULL"}),
    ):
        names = [row[0] for row in await connection.fetch(_COLUMNS, f"flowstone.{table}")]
        values = ", ".join(own.get(name, f"t.{name}") for name in names)
        where = "t.id" if table == "run" else "t.run_id"
        await connection.execute(
            f"INSERT INTO flowstone.{table} ({', '.join(names)}) "  # noqa: S608 - names of columns
            f"SELECT {values} FROM made, flowstone.{table} AS t WHERE {where} = '{run_id}'"
        )
    await connection.execute("ANALYZE flowstone.run; ANALYZE flowstone.gate")


async def delivered(given: Options, server: EmbeddedServer) -> None:
    """Measure signals with few and with many gates that wait."""
    many, times = given.repeat(100_000, 10_000), given.repeat(100, 20)
    waiting = Waiting()
    async with database(server, "delivered") as dsn:
        async with Engine(waiting.pipe, store=dsn, secret=_SECRET, park_after=0) as engine:
            begun = [await waiting.begin(engine, "job", suspended=True) for _ in range(2 * (_WARM + times) + 1)]
        tokens = [token for _, token in begun[1:]]
        taken = list[list[float]]()
        async with Engine(waiting.pipe, store=dsn, secret=_SECRET, slots=0) as sending:
            for part in (tokens[: _WARM + times], tokens[_WARM + times :]):
                if taken:
                    connection = await asyncpg.connect(dsn)
                    await filled(connection, begun[0][0].id, many)
                    await connection.close()
                taken.append([await signalled(sending, token) for token in part][_WARM:])
    few, lots = (percentile(each, 0.5) * 1e3 for each in taken)
    p99 = percentile(taken[1], 0.99) * 1e3
    more = {"p99_ms": p99, "gates": many, "rss_mb": rss_mb()}
    show(given, "deliver_100k_waiting", floor=few, figure=lots, unit="p50_ms", aim="2x an empty table", **more)


async def signalled(engine: Engine, token: str) -> float:
    """Return the seconds that a signal takes."""
    begun = time.perf_counter()
    await engine.signal(token, "go on")
    return time.perf_counter() - begun


async def slept(bodies: int) -> float:
    """Return the seconds by which as many tasks are late that sleep for as long."""
    due = asyncio.get_running_loop().time() + 1
    await asyncio.gather(*(asyncio.sleep(due - asyncio.get_running_loop().time()) for _ in range(bodies)))
    return asyncio.get_running_loop().time() - due


async def timers(given: Options, server: EmbeddedServer) -> None:
    """Measure sleeps that end together."""
    bodies, ahead = given.repeat(10_000, 1_000), given.repeat(30, 5)
    pipe, late = Pipeline("sleeping"), list[float]()
    due = datetime.max.replace(tzinfo=UTC)

    @pipe.scatter(range(bodies), max_concurrent=bodies, timeout=False)
    async def each(number: int, ctx: Context) -> int:
        await ctx.sleep(until=due)
        late.append((datetime.now(UTC) - due).total_seconds())
        return number

    async with (
        database(server, "timers") as dsn,
        Engine(pipe, store=dsn, secret=_SECRET, park_after=False, block_warning=False) as engine,
    ):
        due = datetime.now(UTC) + timedelta(seconds=ahead)
        assert (await engine.run(each, timeout=False)).succeeded == bodies
    first, last = min(late), max(late)
    show(given, "timers_10000", floor=await slept(bodies), figure=last, unit="s", bodies=bodies, first_s=first)


def now_mb() -> float:
    """Return the memory that this process has now, where the system tells; else the most that it ever had."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * resource.getpagesize() / (1 << 20) if pages.exists() else rss_mb()


async def items(given: Options, server: EmbeddedServer) -> None:
    """Measure items that wait and are in nobody's memory."""
    many, pipe = given.repeat(10_000, 1_000), Pipeline("items")

    @pipe.scatter(range(many), max_concurrent=200)
    async def ended(number: int, ctx: Context) -> int:
        return await ctx.step(_same, number)

    @pipe.scatter(range(many), max_concurrent=200)
    async def waits(number: int, ctx: Context) -> int:
        return await ctx.signal(int, token=f"item {number}", timeout=False)

    async with (
        database(server, "items") as dsn,
        Engine(pipe, store=dsn, secret=_SECRET, park_after="100ms", block_warning=False) as engine,
    ):
        connection, before = await asyncpg.connect(dsn), now_mb()
        await engine.run(ended)
        after = now_mb()
        run, begun = await engine.submit(waits), time.perf_counter()
        while await connection.fetchval(_PARKED) < many:  # noqa: ASYNC110
            await asyncio.sleep(_IDLE)
        await connection.close()
        waiting, mb = time.perf_counter(), now_mb()
        for first in range(0, many, 100):
            await asyncio.gather(*(engine.signal(f"item {no}", no) for no in range(first, first + 100)))
        assert (await run).succeeded == many
        begin, end = waiting - begun, time.perf_counter() - waiting
    floor, more = after - before, mb - after
    show(given, "items_10000_waiting", floor=floor, figure=more, unit="mb", begin_s=begin, end_s=end, rss_mb=mb)


async def _same(number: int) -> int:
    return number


async def main() -> None:
    given = options(__doc__)
    with TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "fs")
        await server.open()
        try:
            await items(given, server)  # before anything else has left memory behind
            floor = await notified(given, server)
            parked = await resumed(given, server, "parked", "job", park_after=False)
            told(given, "resume_parked", floor, parked, "2 ms, p99 10 ms")
            evicted = await resumed(given, server, "evicted", "job", park_after=0)
            told(given, "resume_evicted", floor, evicted, "")
            replayed = await resumed(given, server, "replayed", "long", park_after=0)
            told(given, "replay_50_steps", percentile(evicted, 0.5), replayed, "")
            await delivered(given, server)
            await timers(given, server)
        finally:
            await server.close()


if __name__ == "__main__":
    asyncio.run(main())
