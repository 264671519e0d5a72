"""Last chunks that are kept at one instant by several engines close a scatter, once (fault 17, SCAT-19)."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from flowstone_async.store.blocks import Block
from flowstone_async.store.scatters import Chunk, Flush, NewPage, ScatterRecord
from tests.contract.builders import identifier, key
from tests.postgres.conftest import Opened, OpenStore
from tests.postgres.waiting import until

pytestmark = pytest.mark.not_in("pooler", reason="more transactions wait at once than it has connections")

ENGINES = 6
NUMBERS = key("numbers")
# So that every flush has taken its snapshot before any of them can be committed.
HELD = "BEGIN; LOCK TABLE flowstone.scatter_block IN SHARE ROW EXCLUSIVE MODE"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'flowstone.scatter_block'::regclass"


async def shared(engines: list[Opened]) -> tuple[str, int, list[Chunk]]:
    """Begin a scatter of which each engine has a chunk; return its id, its fence and the chunks."""
    owner, *others = engines
    drive = await owner.start(NUMBERS)
    scatters, count = owner.store.scatters, len(engines)
    begun = await scatters.begin(ScatterRecord(identifier(), drive.id, NUMBERS), drive.run.fence, owner.worker.id)
    assert begun is not None
    page = NewPage(
        scatter=begun.id,
        fence=drive.run.fence,
        no=0,
        size=count,
        items=b"",
        hashes=None,
        keys=None,
        cursor=None,
        last=True,
        failed=(),
        chunks=(1,) * count,
        owned=1,
    )
    assert await scatters.add_page(page, owner.worker.id)
    for each in others:
        assert await each.store.crews.attend(begun.id, each.worker.id, most=None, running=0, hungry=True)
    taken = [await each.store.scatters.take(begun.id, each.worker.id, limit=1) for each in others]
    chunks = [Chunk(begun.id, 0, alone=False, page=0, size=1), *(chunk for [chunk] in taken)]
    assert sorted(chunk.first for chunk in chunks) == list(range(count))
    return begun.id, drive.run.fence, chunks


def last(chunk: Chunk) -> Flush:
    return Flush(chunk, 0, "done", b"", 1, 0, block=Block((chunk.first,), b"x"))


async def keep_at_once(sql: asyncpg.Connection, engines: list[Opened], chunks: list[Chunk]) -> None:
    """Let all engines keep their last result in transactions of which none sees another."""
    await sql.execute(HELD)
    async with asyncio.TaskGroup() as group:
        flushes = [
            group.create_task(each.store.scatters.flush([last(chunk)], each.worker.id))
            for each, chunk in zip(engines, chunks, strict=True)
        ]

        async def all_wait() -> bool:
            return await sql.fetchval(WAITING) == len(engines)

        await until(all_wait)
        await sql.execute("COMMIT")
    assert [flush.result() for flush in flushes] == [frozenset({0})] * len(engines)


@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.faults)])
async def test_last_chunks_that_are_kept_at_once_close_the_scatter(
    sql: asyncpg.Connection, open_apart: OpenStore, times: int
) -> None:
    """Whoever asks behind its own commit finds it closed, and whoever asks again is told the same."""
    engines = [await open_apart() for _ in range(ENGINES)]
    for _ in range(times):
        scatter, fence, chunks = await shared(engines)
        await keep_at_once(sql, engines, chunks)
        closing = (each.store.scatters.close(scatter, fence) for each in engines)
        assert any(await asyncio.gather(*closing))
        assert await engines[0].store.scatters.close(scatter, fence)
        record = await engines[0].store.scatters.scatter(scatter)
        assert record is not None
        assert record.state == "closed"


async def test_whoever_continues_closes_what_nobody_has_closed(sql: asyncpg.Connection, open_apart: OpenStore) -> None:
    """All died between their commit and the close: the next owner finds nothing to run, and closes."""
    engines = [await open_apart() for _ in range(ENGINES)]
    scatter, fence, chunks = await shared(engines)
    await keep_at_once(sql, engines, chunks)
    for each in engines:
        await each.store.expire(each.worker.id)
    heir = await open_apart()
    [run] = await heir.store.take_orphans(heir.worker.id, ["sales"], limit=1)
    record = await heir.store.scatters.begin(ScatterRecord(identifier(), run.id, NUMBERS), run.fence, heir.worker.id)
    assert record is not None
    assert (record.id, record.state, record.sealed) == (scatter, "running", True)
    assert await heir.store.scatters.take(scatter, heir.worker.id, limit=10) == ()
    assert not await engines[0].store.scatters.close(scatter, fence)
    assert await heir.store.scatters.close(scatter, run.fence)
