"""Races for one gate, many times: `python -m tests.faults.races --trials 100000 [--kinds suspend,deadline,cancel,other]`.

Each trial is a run of its own with one gate. Two things are done to it at once, in two stores that know nothing of each
other, and what came of it is compared with what both were told: nothing lost, nothing twice (STORE.md, fault 11).

- `suspend`: its driver suspends the run while a signal comes.
- `deadline`: its deadline passes while a signal comes; the run is suspended.
- `cancel`: the run is cancelled while a signal comes; every second one is suspended.
- `other`: two different signals come; the run is suspended.
- `early`: a signal has come before the gate, which is recorded while a different one comes.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg

from flowstone_async.clock import SystemClock
from flowstone_async.store.gates import Delivered, Gate, Signal
from flowstone_async.store.postgres import PostgresStore
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.records import Worker
from flowstone_async.types import AssetKey, new_id
from tests.e2e.servers import Server
from tests.faults.workers import Broken
from tests.postgres.addresses import apart
from tests.support.postgres import short_folder

T = TypeVar("T")
BLOCK = 500
AT_ONCE = 8
_ASSET = AssetKey("sales", "numbers", "", "")
_RUNS = """
INSERT INTO flowstone.run (id, fence, created_at, continuable, state, pipeline, partition, targets, options, params,
    worker, suspended_at, quiet)
SELECT n.id, 2, now(), true, CASE WHEN n.waits THEN 'waiting' ELSE 'running' END, 'sales', '', '["numbers"]', '{}', '{}',
    CASE WHEN n.waits THEN NULL ELSE $3::uuid END, CASE WHEN n.waits THEN now() END, CASE WHEN n.waits THEN 2 END
FROM unnest($1::uuid[], $2::boolean[]) AS n (id, waits)
"""
_GATES = """
INSERT INTO flowstone.gate (id, run_id, opened_at, due, kind, pipeline, asset, io, partition, name, body, key, facts)
SELECT n.gate, n.run, now(), CASE WHEN $3 THEN now() + interval '100 years' END, 'signal', 'sales', 'numbers', '', '',
    'gate', '', '', '{}'
FROM unnest($1::uuid[], $2::uuid[]) AS n (gate, run)
"""
_FOUND = """
SELECT r.id::text, r.state, r.worker IS NOT NULL AS owned, r.wakes, r.fence, o.how, o.payload, o.woken,
    (SELECT count(*) FROM flowstone.delivery AS d WHERE d.gate = g.id AND d.state = 'accepted') AS accepted
FROM flowstone.run AS r
JOIN flowstone.gate AS g ON g.run_id = r.id
LEFT JOIN flowstone.gate_outcome AS o ON o.gate = g.id
WHERE r.id = ANY ($1::uuid[])
"""


@dataclass
class Trial:
    """One run with one gate, and what was told of it.

    Attributes:
        told: What whoever came second of the two was told, and how the signals were.
    """

    run: str
    gate: str
    waits: bool
    told: Any = None
    signals: list[Delivered] = field(default_factory=list)


class Races:
    """The stores of two processes, and what is done in them."""

    def __init__(self, first: PostgresStore, second: PostgresStore, sql: asyncpg.Connection, chance: random.Random):
        self._first, self._second, self._sql, self._chance = first, second, sql, chance
        self.seen: Counter[str] = Counter()

    async def play(self, kind: str, trials: int, owner: str) -> None:
        """Try one kind of race so often.

        Raises:
            Broken: Something was lost, or done twice, or somebody was told what is not so.
        """
        for start in range(0, trials, BLOCK):
            block = await self._made(min(BLOCK, trials - start), kind, owner)
            await getattr(self, f"_{kind}")(block)
            while await self._second.gates.sweep():
                pass
            await self._check(kind, block)

    async def _made(self, count: int, kind: str, owner: str) -> list[Trial]:
        waits = {"suspend": 0.0, "cancel": 0.5}.get(kind, 1.0)
        if kind == "early":
            waits = 0.0
        block = [Trial(new_id(), new_id(), self._chance.random() < waits) for _ in range(count)]
        runs = [trial.run for trial in block]
        await self._sql.execute(_RUNS, runs, [trial.waits for trial in block], owner)
        if kind == "early":
            return block
        await self._sql.execute(_GATES, [trial.gate for trial in block], runs, kind == "deadline")
        return block

    async def _late(self, of: Callable[[], Awaitable[T]]) -> T:
        for _ in range(self._chance.randrange(16)):  # others go first, or not
            await asyncio.sleep(0)
        return await of()

    async def _overlapping(self, block: Sequence[Trial], race: Callable[[Trial], Awaitable[None]]) -> None:
        left = iter(block)

        async def some() -> None:
            for trial in left:
                await race(trial)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(some())

    async def _signal(self, store: PostgresStore, trial: Trial, payload: bytes = b"1") -> None:
        trial.signals.append(await store.gates.deliver(Signal(payload, trial.gate)))

    async def _suspend(self, block: Sequence[Trial]) -> None:
        async def race(trial: Trial) -> None:
            trial.told, _ = await asyncio.gather(
                self._late(lambda: self._first.gates.suspend(trial.run, 2, 0)),
                self._late(lambda: self._signal(self._second, trial)),
            )

        await self._overlapping(block, race)

    async def _deadline(self, block: Sequence[Trial]) -> None:
        over = asyncio.Event()

        async def expire() -> None:
            # For whoever sweeps the deadlines have passed; for whoever signals they have not.
            clock = await self._sql.fetchval("SELECT now() + interval '200 years'")
            while not over.is_set():
                await self._sql.fetch(QUERIES["expire_gates"], self._chance.randint(1, 2 * AT_ONCE), clock)
                for _ in range(self._chance.randrange(64)):
                    await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(expire())
            # In the order of the deadlines, so that both are at the same ones.
            await self._overlapping(block, lambda trial: self._late(lambda: self._signal(self._second, trial)))
            over.set()

    async def _cancel(self, block: Sequence[Trial]) -> None:
        async def race(trial: Trial) -> None:
            record, _ = await asyncio.gather(
                self._first.cancel(trial.run, (), ()),
                self._late(lambda: self._late(lambda: self._signal(self._second, trial))),
            )
            trial.told = None if record is None else record.state

        await self._overlapping(block, race)

    async def _other(self, block: Sequence[Trial]) -> None:
        async def race(trial: Trial) -> None:
            await asyncio.gather(
                self._late(lambda: self._signal(self._first, trial, b"1")),
                self._late(lambda: self._signal(self._second, trial, b"2")),
            )

        await self._overlapping(block, race)

    async def _early(self, block: Sequence[Trial]) -> None:
        async def race(trial: Trial) -> None:
            token = trial.run.encode()
            first = await self._first.gates.deliver(Signal(b"1", token=token, keep=60.0))
            made = Gate(trial.gate, trial.run, "", "", "signal", _ASSET, "gate", token=token)
            found, second = await asyncio.gather(
                self._late(lambda: self._first.gates.open(trial.run, 2, [made])),
                self._late(
                    lambda: self._late(lambda: self._second.gates.deliver(Signal(b"2", token=token, keep=60.0)))
                ),
            )
            trial.told, trial.signals = found is not None, [first, second]

        await self._overlapping(block, race)

    async def _check(self, kind: str, block: Sequence[Trial]) -> None:
        rows = {row["id"]: row for row in await self._sql.fetch(_FOUND, [trial.run for trial in block])}
        for trial in block:
            row = rows[trial.run]
            said = sorted(one.state for one in trial.signals)
            if problem := _problem(kind, trial, row, said):
                raise Broken(f"{kind}: {problem}: {trial}, {dict(row)}")
            self.seen[f"{kind}: {trial.told or row['how']}, {' and '.join(said)}"] += 1


def _problem(kind: str, trial: Trial, row: asyncpg.Record, said: list[str]) -> str | None:
    """Tell what is not as it must be, if anything."""
    signalled = row["how"] == "signalled"
    if row["how"] is None or not row["woken"]:
        return "nothing ended the gate, or nobody was woken for it"
    if kind == "early":
        right = said == ["already", "early"] and row["payload"] == b"1" and trial.told
        return None if right else "another signal than the first was accepted"
    if row["accepted"] != signalled or said.count("accepted") != signalled:
        return "a signal was accepted that does not count, or the reverse"
    if row["state"] != ("cancelled" if kind == "cancel" else "running"):
        return "the run is left behind"
    match kind:
        case "suspend":
            right = (
                trial.told in {"suspended", "woken"} and row["owned"] == (trial.told == "woken") and row["wakes"] == 1
            )
        case "deadline":
            right = said == (["accepted"] if signalled else ["expired"]) and row["wakes"] == 1 and not row["owned"]
        case "cancel":
            right = trial.told == "cancelled" and said == (["accepted"] if signalled else ["closed"])
        case _:
            payload = next(p for p, one in zip((b"1", b"2"), _by_payload(trial), strict=True) if one == "accepted")
            right = said == ["accepted", "already"] and row["payload"] == payload and row["wakes"] == 1
    return None if right else "somebody was told what is not so, or something was done twice"


def _by_payload(trial: Trial) -> tuple[str, str]:
    """Return what the senders of 1 and of 2 were told."""
    states: dict[bytes, str] = {}
    for one in trial.signals:
        payload = (one.outcome.payload if one.outcome is not None else None) or b""
        states[payload if one.state == "accepted" else {b"1": b"2", b"2": b"1"}[payload]] = one.state
    return states[b"1"], states[b"2"]


KINDS = tuple(name for name in ("suspend", "deadline", "cancel", "other", "early") if hasattr(Races, f"_{name}"))


async def _opened(stack: AsyncExitStack, dsn: str, worker: str) -> PostgresStore:
    store = PostgresStore(apart(dsn), clock=SystemClock(), notify=False)
    await store.open(Worker(id=worker, host="", pid=0, pipelines=("sales",)), lease=30, lost=lambda: None)
    stack.push_async_callback(store.close)
    return store


async def _play(dsn: str, kinds: Sequence[str], trials: int, seed: int) -> None:
    async with AsyncExitStack() as stack:
        owner = new_id()
        first, second = await _opened(stack, dsn, owner), await _opened(stack, dsn, new_id())
        sql = await asyncpg.connect(dsn)
        stack.callback(sql.terminate)
        for kind in kinds:
            races, began = Races(first, second, sql, random.Random(f"{seed} {kind}")), time.monotonic()
            await races.play(kind, trials, owner)
            seconds = time.monotonic() - began
            print(f"{kind}: {trials:,} trials in {seconds:.0f} s, {trials / seconds:.0f} a second", flush=True)
            for what, count in races.seen.most_common():
                print(f"  {count:8,}  {what.partition(': ')[2]}", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Race until something is broken."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.races", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--trials", type=int, default=100_000, metavar="N", help="of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), metavar="NAME,NAME")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(words)
    kinds = options.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"there is no {', '.join(sorted(unknown))}: {', '.join(KINDS)}")
    with short_folder() as folder, Server(folder / "server") as server:
        try:
            asyncio.run(_play(server.dsn, kinds, options.trials, options.seed))
        except Broken as error:
            print(f"BROKEN, seed {options.seed}: {error}", flush=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
