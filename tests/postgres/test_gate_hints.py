"""Signals and the listener: none waits for longer than it must when hints are lost, and no storm of them does harm (SIG-09)."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from flowstone_async import Context, Engine, Pipeline
from flowstone_async.store.gates import Signal
from tests.contract.test_gates import gate
from tests.postgres.addresses import apart
from tests.postgres.conftest import OpenStore
from tests.support.gate import soon

OPTIONS: Any = {"secret": b"s" * 32, "park_after": False}
_END = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query LIKE 'LISTEN%'"
MOST = 8_000
"""Bytes of a payload that the server refuses."""


def _asking() -> Pipeline:
    pipe = Pipeline("asking")

    @pipe.asset
    async def job(ctx: Context) -> int:
        gates = [ctx.signal(int, token=f"{ctx.run_id} {no}") for no in range(5)]
        return sum([await each for each in gates])

    return pipe


async def _recorded(engine: Engine, run_id: str, count: int) -> None:
    async def recorded() -> None:
        while len(await engine._live().store.gates.of_run(run_id)) < count:
            await asyncio.sleep(0)

    await soon(recorded())


@pytest.mark.not_in("poll", "pooler", reason="is about listeners")
@pytest.mark.parametrize("rounds", [1, pytest.param(40, marks=pytest.mark.faults)])
async def test_signals_while_the_listener_is_away(dsn: str, sql: asyncpg.Connection, rounds: int) -> None:
    """STORE.md, fault 8: the server ends it again and again; whoever comes back looks, however long a poll is."""
    pipe = _asking()
    async with (
        Engine(pipe, store=apart(dsn), poll="1h", **OPTIONS) as waiting,
        Engine(pipe, store=apart(dsn), slots=0, poll="1h", **OPTIONS) as sending,
    ):
        for _ in range(rounds):
            run = await waiting.submit("job", force=True)
            await _recorded(waiting, run.id, 1)
            for no in range(5):
                await sql.fetchval(_END)
                await sending.signal(f"{run.id} {no}", no)
            assert await soon(run.result()) == 10


@pytest.mark.parametrize(("runs", "each"), [(20, 5), pytest.param(500, 40, marks=pytest.mark.faults)])
async def test_a_storm_of_signals(
    dsn: str, sql: asyncpg.Connection, open_apart: OpenStore, runs: int, each: int
) -> None:
    """STORE.md, fault 10: who never reads what he listens to holds up nobody; what is told is little, and short."""
    stuck, hears = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    told: list[int] = []
    try:
        await hears.add_listener("flowstone", lambda *given: told.append(len(given[-1])))
        await stuck.add_listener("flowstone", lambda *_: None)
        await stuck.execute("BEGIN")
        await stuck.fetchval("SELECT pg_current_xact_id()")
        first, second = await open_apart(), await open_apart()
        drives = [await first.start() for _ in range(runs)]
        gates = [[gate(drive, f"g{no}") for no in range(each)] for drive in drives]
        for drive, some in zip(drives, gates, strict=True):
            assert await first.store.gates.open(drive.id, drive.run.fence, some)
        watching = [asyncio.create_task(first.store.changed(f"run:{drive.id}", within=60)) for drive in drives]
        left = iter([made for some in zip(*gates, strict=True) for made in some])

        async def send() -> None:
            for made in left:
                assert (await second.store.gates.deliver(Signal(b"1", made.id))).state == "accepted"

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(send())
        assert await sql.fetchval("SELECT pg_notification_queue_usage()") < 0.01
        await soon(asyncio.gather(*watching))
        wakes = await first.store.gates.wakes([drive.id for drive in drives])
        assert all(1 <= found.number <= each for found in wakes.values())  # one may wake for several
        assert await sql.fetchval("SELECT count(*) FROM flowstone.gate_outcome WHERE woken") == runs * each
        assert len(told) <= runs * each / 2
        assert max(told, default=0) < MOST
    finally:
        stuck.terminate()
        hears.terminate()


async def test_a_body_goes_on_before_its_run_is_woken(sql: asyncpg.Connection, open_store: OpenStore) -> None:
    """SIG-09: who has it in memory hears of its signal first; its run may be held by somebody meanwhile."""
    drive = await (await open_store(poll=3600.0)).start()
    made, topic = gate(drive), f"run:{drive.id}"
    assert await drive.store.gates.open(drive.id, drive.run.fence, [made])
    await drive.store.changed(topic, within=0.001)  # it is followed from here on
    heard = asyncio.create_task(drive.store.changed(topic, within=3600))
    async with sql.transaction():
        await sql.fetch("SELECT FROM flowstone.run WHERE id = $1 FOR SHARE", drive.id)
        signal = asyncio.create_task(drive.store.gates.deliver(Signal(b"1", made.id)))
        await soon(heard)
        assert not signal.done()
        assert made.id in await drive.store.gates.outcomes([made.id])
    assert (await soon(signal)).state == "accepted"
