"""Who wins when a signal meets the eviction of the item that waits for it (SIG-07, SIG-09, STEP-07).

Whatever the order, the item is due once its gate has ended, and nobody waits for a transaction of a caller's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from flowstone_async.store.gates import Gate, Signal
from flowstone_async.store.scatters import ScatterTotals
from tests.contract.test_gates import gate, opened
from tests.contract.test_scatter_waits import parked
from tests.contract.test_scatters import Reader
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.test_gate_races import asyncpg_of, jitter

AT_ONCE = 4
TRIALS = [pytest.param(60, id="some"), pytest.param(20_000, id="very many", marks=pytest.mark.faults)]


@pytest_asyncio.fixture
async def two(open_apart: OpenStore) -> AsyncIterator[tuple[Opened, Opened]]:
    """Two processes: the first one runs the scatter."""
    yield await open_apart(), await open_apart()


async def with_gates(engine: Any, count: int) -> tuple[Reader, list[Gate]]:
    """Return a scatter whose items have a gate each."""
    reader = await Reader.begin(engine)
    await reader.add(*range(count), last=True)
    made = [gate(reader.drive, str(no)) for no in range(count)]
    await opened(reader.drive, *made)
    return reader, made


async def totals(reader: Reader) -> ScatterTotals:
    found = await reader.store.totals(reader.id)
    assert found is not None
    return found


@pytest.mark.parametrize("trials", TRIALS)
async def test_a_signal_and_an_eviction_lose_no_wake(two: tuple[Opened, Opened], trials: int) -> None:
    first, second = two

    async def one_after_another(count: int) -> None:
        for _ in range(count):
            reader, made = await with_gates(first, 3)

            async def evict(reader: Reader = reader, made: list[Gate] = made) -> None:
                await jitter()
                flush = parked(reader, 0, 3, *enumerate(made))._replace(state="done")
                assert await reader.flush(flush) == [0]

            async def signal(each: Gate) -> None:
                await jitter()
                assert (await second.store.gates.deliver(Signal(b"1", each.id))).state == "accepted"

            order = random.sample(made, 3)
            await asyncio.gather(evict(), *map(signal, order))
            found = await totals(reader)
            assert found.parked == 0, "an item waits for what has happened"
            assert found.waiting == 3
            await second.store.cancel(reader.drive.id, (), ())

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_after_another(trials // AT_ONCE))


async def test_an_eviction_waits_for_no_transaction_of_a_caller(two: tuple[Opened, Opened]) -> None:
    """SIG-08: what that decides may be known any moment, so the item is looked at soon."""
    first, second = two
    reader, made = await with_gates(first, 2)
    connection = await asyncpg_of(second)
    try:
        async with connection.transaction():
            delivered = await second.store.gates.deliver(Signal(b"1", made[0].id), connection=connection)
            assert delivered.state == "accepted"
            flush = parked(reader, 0, 2, *enumerate(made))._replace(state="done")
            assert await asyncio.wait_for(reader.flush(flush), 5) == [0]
            found = await totals(reader)
            assert (found.parked, found.waiting) == (1, 2)
            assert found.due is not None
    finally:
        await connection.close()
    assert await second.store.gates.sweep() > 0
    assert (await totals(reader)).parked == 1
