"""How soon a worker process takes on what there is to do.

`start_notify`: from before `submit` to the first line of the first body, in another process that is idle; the floor is
a NOTIFY from one connection to another. `start_poll`: the same without notifications; the floor is half the poll
interval. `takeover`: from `kill -9` of a worker to the first commit of its successor for the same run, in leases; the
floor is what was left of the dead worker's lease.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg

from benchmarks.harness import Options, options, percentile, show
from benchmarks.stored import database
from benchmarks.workers import timed, worker
from flowstone_async import Engine
from flowstone_async.store.embedded.server import EmbeddedServer

POLL, LEASE = 0.5, 2.0
_IDLE = 0.02
_WARM = 5
_LEFT = "SELECT extract(epoch FROM lease_until - clock_timestamp())::float8 FROM flowstone.worker WHERE pid = $1"
_FIRST = """
SELECT extract(epoch FROM min(at) - $2)::float8 FROM flowstone.event WHERE run_id = $1 AND at > $2
"""


async def round_trip(sender: Any, listener: Any) -> float:
    """Return the seconds that a notification takes from one connection to another."""
    heard = asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    await listener.add_listener("latency", hear)
    begun = time.perf_counter()
    await sender.execute("NOTIFY latency")
    await heard.wait()
    taken = time.perf_counter() - begun
    await listener.remove_listener("latency", hear)
    return taken


async def start(engine: Engine, name: str) -> float:
    """Return the seconds from a submission to its first body."""
    begun = time.monotonic()
    handle = await engine.submit("begun", partition=name)
    return await handle.result(timeout="30s") - begun


async def notify(given: Options, server: EmbeddedServer) -> None:
    async with database(server, "start_notify") as dsn, worker(dsn), Engine(timed(), store=dsn, slots=0) as engine:
        sender, listener = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
        taken, floor = list[float](), list[float]()
        for number in range(_WARM + given.repeat(500, 60)):
            taken.append(await start(engine, f"n-{number}"))
            floor.append(await round_trip(sender, listener))
            await asyncio.sleep(_IDLE)
        await sender.close()
        await listener.close()
    show_start(given, "start_notify", taken[_WARM:], percentile(floor[_WARM:], 0.5), "a few ms")


async def poll(given: Options, server: EmbeddedServer) -> None:
    options = ("--no-notify", "--poll", f"{POLL}s")
    async with (
        database(server, "start_poll") as dsn,
        worker(dsn, *options) as _,
        Engine(timed(), store=dsn, slots=0, notify=False, poll=0.05) as engine,
    ):
        taken = list[float]()
        for number in range(1 + given.repeat(60, 12)):
            await asyncio.sleep(random.uniform(0, POLL))  # noqa: S311 - anywhere between two polls
            taken.append(await start(engine, f"p-{number}"))
    show_start(given, "start_poll", taken[1:], POLL / 2, "the poll interval")


def show_start(given: Options, name: str, taken: list[float], floor: float, aim: str) -> None:
    show(
        given,
        name,
        floor=floor * 1e3,
        figure=percentile(taken, 0.5) * 1e3,
        unit="p50_ms",
        aim=aim,
        p99_ms=percentile(taken, 0.99) * 1e3,
    )


async def takeover(given: Options, server: EmbeddedServer) -> None:
    taken, left = list[float](), list[float]()
    async with database(server, "takeover") as dsn, Engine(timed(), store=dsn, slots=0) as engine:
        connection = await asyncpg.connect(dsn)
        for number in range(given.repeat(8, 2)):
            one = await kill(dsn, connection, engine, f"t-{number}")
            taken.append(one[0] / LEASE)
            left.append(one[1] / LEASE)
        await connection.close()
    show(
        given,
        "takeover",
        floor=statistics.median(left),
        figure=statistics.median(taken),
        unit="leases",
        aim="2 leases",
        worst=max(taken),
        lease_s=LEASE,
    )


async def kill(dsn: str, connection: Any, engine: Engine, name: str) -> tuple[float, float]:
    """Kill a worker in a run; return the seconds to its successor's commit, and those left of its lease."""
    lease = ("--lease", f"{LEASE}s")
    async with worker(dsn, *lease, "--waits") as doomed:
        handle = await engine.submit("held", partition=name)
        async for event in handle.events():
            if event.type == "asset.started" and getattr(event, "asset", None) == "held":
                break
        async with worker(dsn, *lease):
            # Its own lease must have been renewed without a break for its length before it may judge others.
            await asyncio.sleep(LEASE * random.uniform(1.25, 1.75))  # noqa: S311
            left = await connection.fetchval(_LEFT, doomed.pid)
            killed = await connection.fetchval("SELECT clock_timestamp()")
            doomed.kill()
            await handle.result(timeout="60s")
            return await connection.fetchval(_FIRST, handle.id, killed), left


async def main() -> None:
    given = options(__doc__)
    with TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "fs")
        await server.open()
        try:
            await notify(given, server)
            await poll(given, server)
            await takeover(given, server)
        finally:
            await server.close()


if __name__ == "__main__":
    asyncio.run(main())
