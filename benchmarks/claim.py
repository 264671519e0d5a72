"""How long a claim takes, however many runs have ended: 10 due runs out of a queue with 1,000.

`history_0`, `history_100000`, `history_5000000`: with so many finished runs (`--quick`: 0, 10,000 and 100,000), each in
a database of its own, asked in turns. The floor is the first. `submit_ms`: one submission into that queue.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg

from benchmarks.harness import Options, options, percentile, show
from benchmarks.stored import database
from flowstone_async.clock import SystemClock
from flowstone_async.store.embedded.server import EmbeddedServer
from flowstone_async.store.postgres import PostgresStore
from flowstone_async.store.records import AuditEntry, RunRecord, Submission, Worker
from flowstone_async.types import new_id

FINISHED = Path(__file__).with_name("finished.sql").read_text().strip().split(";\n")
QUEUED, TAKEN = 1000, 10
_END = "UPDATE flowstone.run SET state = 'succeeded', finished_at = now() WHERE state = 'running'"
_WARM = 10


@dataclass(slots=True)
class Queue:
    """A queue, and what was measured in it, in seconds."""

    store: PostgresStore
    connection: Any
    worker: str
    claims: list[float] = field(default_factory=list[float])
    submits: list[float] = field(default_factory=list[float])

    async def fill(self, runs: int) -> None:
        """Submit runs, one after another."""
        for _ in range(runs):
            run_id = new_id()
            run = RunRecord(id=run_id, pipeline="three", targets=("total",), state="queued", request=run_id)
            audit = AuditEntry("run.submitted", run_id, actor="process", actor_kind="process", run_id=run_id)
            begun = time.perf_counter()
            await self.store.submit(Submission(run=run, subject="", key=None, audit=audit), connection=None)
            self.submits.append(time.perf_counter() - begun)

    async def claim(self) -> None:
        """Claim runs, end them, and submit as many."""
        begun = time.perf_counter()
        taken = await self.store.claim(self.worker, ("three",), limit=TAKEN)
        self.claims.append(time.perf_counter() - begun)
        if len(taken) != TAKEN:
            raise RuntimeError(f"{len(taken)} runs were claimed")
        await self.connection.execute(_END)
        await self.fill(TAKEN)


@asynccontextmanager
async def queue(server: EmbeddedServer, rows: int) -> AsyncGenerator[Queue]:
    """Give a queue beside a history."""
    async with database(server, f"history_{rows}") as dsn:
        store, worker = PostgresStore(dsn, clock=SystemClock(), notify=False), new_id()
        record = Worker(id=worker, host=socket.gethostname(), pid=os.getpid(), pipelines=("three",))
        await store.open(record, lease=600.0, lost=lambda: None)
        connection = await asyncpg.connect(dsn)
        try:
            for statement in FINISHED if rows else []:
                await connection.execute(statement.replace(":rows", str(rows)), timeout=1800)
            found = Queue(store, connection, worker)
            async with asyncio.TaskGroup() as group:
                for _ in range(TAKEN):
                    group.create_task(found.fill(QUEUED // TAKEN))
            yield found
        finally:
            await connection.close()
            await store.close()


async def measure(given: Options, server: EmbeddedServer) -> None:
    histories = (0, 10_000, 100_000) if given.quick else (0, 100_000, 5_000_000)
    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(queue(server, rows)) for rows in histories]
        connection = queues[0].connection
        await connection.execute("CHECKPOINT")
        for turn in range(_WARM + given.repeat(200, 40)):
            for each in queues:
                await each.claim()
            if turn == _WARM:
                for each in queues:
                    each.claims.clear()
                    each.submits.clear()
    floor = statistics.median(queues[0].claims) * 1e3
    least = statistics.median(queues[0].submits) * 1e3
    for rows, each in zip(histories, queues, strict=True):
        submit = statistics.median(each.submits) * 1e3
        show(
            given,
            f"history_{rows}",
            floor=floor,
            figure=statistics.median(each.claims) * 1e3,
            unit="ms",
            aim="1.5x the empty history",
            p99_ms=percentile(each.claims, 0.99) * 1e3,
            submit_ms=submit,
            submit_ratio=submit / least,
        )


async def main() -> None:
    given = options(__doc__)
    with TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "fs")
        await server.open()
        try:
            await measure(given, server)
        finally:
            await server.close()


if __name__ == "__main__":
    asyncio.run(main())
