"""Seeded fault runs, one line each: `python -m tests.faults --seeds 1-200 [--workers 3] [--lease 1]`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from flowstone_async.clock import SystemClock
from flowstone_async.store.postgres import PostgresStore
from flowstone_async.store.records import Worker
from flowstone_async.types import new_id
from tests.e2e.servers import Server
from tests.faults.driver import FaultRun, Told
from tests.support.postgres import short_folder

_TEMPLATE = "template_faults"


def main(words: Sequence[str] | None = None) -> int:
    """Run the seeds until something is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seeds", default="1-200", metavar="FIRST-LAST")
    parser.add_argument("--workers", type=int, default=3, metavar="N")
    parser.add_argument("--lease", type=float, default=1.0, metavar="SECONDS")
    options = parser.parse_args(words)
    logging.getLogger("flowstone").setLevel(logging.CRITICAL)  # the lines below say what there is to say
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    told: list[Told] = []
    with short_folder() as folder, Server(folder / "server") as server:
        asyncio.run(_prepare(server))
        for seed in seeds:
            place = folder / f"seed-{seed}"
            told.append(asyncio.run(_one(server, place, seed, options.workers, options.lease)))
            print(line(told[-1]), flush=True)
            if told[-1].problem is not None:
                _explain(told[-1], place, options)
                break
    print(summary(told), flush=True)
    return 1 if told[-1].problem is not None else 0


async def _prepare(server: Server) -> None:
    admin = await asyncpg.connect(server.dsn)
    try:
        await admin.execute(f"CREATE DATABASE {_TEMPLATE}")
    finally:
        await admin.close()
    store = PostgresStore(server.address.dsn(_TEMPLATE), clock=SystemClock())
    await store.open(Worker(id=new_id(), host="", pid=0, pipelines=()), lease=None, lost=lambda: None)
    await store.close()


async def _one(server: Server, folder: Path, seed: int, workers: int, lease: float) -> Told:
    folder.mkdir()
    name = f"faults_{seed}_{uuid.uuid4().hex[:8]}"
    admin = await asyncpg.connect(server.dsn)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    await admin.close()
    run = FaultRun(server, server.address.dsn(name), folder, seed=seed, workers=workers, lease=lease)
    told = await run.play()
    admin = await asyncpg.connect(server.dsn)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()
    return told


def line(told: Told) -> str:
    """Return what is said of a fault run."""
    skipped = f", not {' '.join(told.skipped)}" if told.skipped else ""
    found = "BROKEN" if told.problem is not None else "whole"
    return (
        f"seed {told.seed:3}: {told.seconds:5.1f} s  {found}  {told.runs} runs, {told.calls} calls, "
        f"{told.lost} owners lost, {told.replies} replies lost, {told.started} processes: {' '.join(told.done)}{skipped}"
    )


def summary(told: Sequence[Told]) -> str:
    """Return the figures of all."""
    done = Counter(each.split("@")[0] for one in told for each in one.done)
    skipped = Counter(each for one in told for each in one.skipped)
    rows = [
        f"  {name:15}{count:5}{f'  (and {skipped[name]} too late)' if skipped[name] else ''}"
        for name, count in sorted(done.items())
    ]
    seconds = sorted(one.seconds for one in told)
    return "\n".join(
        [
            (
                f"{len(told)} fault runs, {sum(one.problem is None for one in told)} whole; {sum(seconds):.0f} s, "
                f"median {seconds[len(seconds) // 2]:.1f} s, longest {seconds[-1]:.1f} s"
            ),
            (
                f"{sum(one.runs for one in told)} runs ended exactly once, {sum(one.calls for one in told)} calls of bodies, "
                f"{sum(one.lost for one in told)} owners lost, {sum(one.replies for one in told)} replies lost, "
                f"{sum(one.started for one in told)} processes; {done.total()} faults:"
            ),
            *rows,
        ]
    )


def _explain(told: Told, folder: Path, options: argparse.Namespace) -> None:
    print(told.problem)
    for log in sorted(folder.glob("*.log")):
        print(f"-- {log.name}")
        print("\n".join(log.read_text(errors="replace").splitlines()[-30:]))
    print(f"again: python -m tests.faults --seeds {told.seed} --workers {options.workers} --lease {options.lease:g}")


if __name__ == "__main__":
    sys.exit(main())
