"""Scatters in batches that go on from one of an ended run: what had left its batch (SCAT-25, BATCH-07, BATCH-08)."""

from __future__ import annotations

from typing import Any

import pytest

from flowstone_async.errors import ConfigError
from flowstone_async.store.batches import split_off
from flowstone_async.store.blocks import Block
from flowstone_async.store.scatters import Chunk, Flush, ItemFailed, ScatterTotals
from tests.contract.builders import Drive, identifier
from tests.contract.stores import Engine, Stores
from tests.contract.test_redrive import BROKEN, begun, faults, redrive, redriven, submit
from tests.contract.test_scatter_batches import add, parted, split
from tests.contract.test_scatters import Reader, flushed

WHOLE, DONE, BAD, REFUSED = 1, split_off(0, 1), split_off(0, 2), split_off(2, 0)
"""A batch that failed whole; what left a batch: with a result, failed alone, failed at once."""


async def ended(engine: Engine, state: str = "closed", **changes: Any) -> Reader:
    """Return a scatter of the batches abc, de, fg and h in 2 pages, of which de failed whole, b has a result of its own,
    and c and f failed after they had left. With another state than `closed` h never ended, and more was to be read.
    """
    reader = await Reader.begin(engine)
    await add(reader, "abc", "de")
    parts = parted(reader.chunk(0, 2), 0, split(0, 1), split(0, 2), state="running", done=b"\x01")
    assert await reader.flush(parts) == [0]
    await add(reader, "fg", "h", last=state == "closed", **changes)
    failed = (ItemFailed(WHOLE, 3, BROKEN),)
    one = Flush(reader.chunk(0, 2), 1, "done", b"", 1, 1, failures=failed)
    two = parted(reader.chunk(2, 2, 1), 2, split(2, 0, failed=True), state="running", done=b"\x01")
    assert await reader.flush(one, two) == [0, 1]
    for alone in await reader.take():
        if alone.first == DONE:
            assert await reader.flush(flushed(alone, DONE, state="done")) == [0]
        else:
            assert await reader.flush(Flush(alone, 0, "done", b"\x01", 0, 1, failures=(fail(BAD),))) == [0]
    if state == "closed":
        assert await reader.flush(flushed(reader.chunk(2, 2, 1), 3, number=1, state="done", succeeded=2)) == [0]
        assert await reader.close()
    assert (await reader.drive.finish("failed")).accepted
    return reader


def fail(position: int) -> ItemFailed:
    return ItemFailed(position, 2, BROKEN)


async def totals(reader: Reader) -> ScatterTotals:
    found = await reader.store.totals(reader.id)
    assert found is not None
    record = await reader.store.scatter(reader.id)
    assert record is not None
    assert record.total == found.total
    return found


async def numbers(reader: Reader) -> dict[int, int | None]:
    return {each.first: each.number for each in await reader.store.splits(reader.id)}


def fresh(chunk: Chunk) -> tuple[object, ...]:
    return chunk.alone, chunk.attempts, chunk.lost, chunk.error, chunk.succeeded, chunk.failed


async def test_what_left_its_batch_and_failed_runs_again_alone(engine: Engine) -> None:
    """SCAT-25, BATCH-08: with its number; a batch that failed whole runs whole, and one with a result does not."""
    before = await ended(engine)
    assert await numbers(before) == {DONE: 2, BAD: 3, REFUSED: 6}
    reader = await redriven(engine, before)
    found = await totals(reader)
    assert (found.total, found.succeeded, found.failed, found.carried, found.read) == (7, 4, 0, 4, 8)
    assert (found.open, found.waiting) == (3, 2)
    assert await reader.store.failures(reader.id) == ()
    chunk, bad, refused = await reader.take()
    assert (chunk.first, chunk.size, chunk.done[0] & 3, chunk.succeeded) == (0, 2, 0b01, 1)
    assert [(each.first, each.page, each.number) for each in (bad, refused)] == [(BAD, 0, 3), (REFUSED, 1, 6)]
    assert {fresh(each) for each in (bad, refused)} == {(True, 0, 0, None, 0, 0)}
    whole = parted(chunk, WHOLE, split(WHOLE, 1), state="done", succeeded=2)
    assert await reader.flush(whole, flushed(bad, BAD, state="done")) == [0, 1]
    assert await reader.flush(Flush(refused, 0, "done", b"\x01", 0, 1, failures=(fail(REFUSED),))) == [0]
    [alone] = await reader.take()
    assert (alone.first, alone.number) == (split_off(WHOLE, 1), 7)
    assert await reader.flush(flushed(alone, alone.first, state="done")) == [0]
    assert await reader.close()
    assert set(await reader.results(0, 1)) == {0, WHOLE, 2, 3, DONE, BAD, split_off(WHOLE, 1)}
    [failure] = await reader.store.failures(reader.id)
    assert (failure.position, failure.page, failure.number) == (REFUSED, 1, 6)
    assert await faults(engine) == []
    assert await numbers(before) == {DONE: 2, BAD: 3, REFUSED: 6}, "the other is left as it was"


async def test_the_rest_goes_on_where_reading_stopped(engine: Engine) -> None:
    """READ-09, BATCH-07: with what was read and in no batch yet; what failed stays failed, under its number."""
    before = await ended(engine, "running", carry=b"open", distinct=5)
    asked = redrive(before, "rest")
    reader = await begun(engine, await submit(engine, asked))
    drive = reader.drive
    record = await reader.store.scatter(reader.id)
    assert record is not None
    begins = await reader.store.begin(record, drive.run.fence, engine.worker.id)
    assert begins is not None
    assert (begins.carry, begins.cursor, begins.sealed, begins.total, begins.pages) == (b"open", '"1"', False, 7, 2)
    found = await totals(reader)
    assert (found.total, found.succeeded, found.failed, found.read, found.open) == (7, 3, 3, 10, 1)
    failures = await reader.store.failures(reader.id)
    assert [(each.position, each.number) for each in failures] == [(WHOLE, None), (BAD, 3), (REFUSED, 6)]
    [chunk] = await reader.take()
    assert (chunk.first, chunk.done[0] & 3) == (2, 0b01)
    added = await add(reader, "opq", last=True, distinct=1)
    assert (added.first, added.before) == (4, 7)
    done = flushed(chunk, 3, state="done", succeeded=2), flushed(reader.chunk(4, 1, 2), 4, state="done")
    assert await reader.flush(*done) == [0, 1]
    assert await reader.close()
    assert (await totals(reader)).total == 8
    assert await faults(engine) == []


async def test_what_never_came_to_its_end_is_run_too(engine: Engine) -> None:
    """SCAT-25: also of what had left its batch."""
    reader = await Reader.begin(engine)
    await add(reader, "ab", "cd", last=True)
    assert await reader.flush(parted(reader.chunk(0, 2), 0, split(0, 1), state="running", done=b"\x01")) == [0]
    assert await reader.store.end(reader.id, reader.drive.run.fence, "cancelled")
    await reader.drive.finish("cancelled")
    again = await redriven(engine, reader, "rest")
    chunk, alone = await again.take()
    assert (chunk.done[0] & 3, alone.first, alone.number, alone.attempts) == (0b01, split_off(0, 1), 2, 0)


async def test_all_batches_run_again_as_they_were_read(engine: Engine) -> None:
    """SCAT-25: `only="all"`; what had left them is part of them again, and has its number if it leaves again."""
    before = await ended(engine)
    reader = await redriven(engine, before, "all")
    found = await totals(reader)
    assert (found.total, found.succeeded, found.failed, found.open, found.waiting) == (4, 0, 0, 2, 0)
    assert await numbers(reader) == {}
    assert await reader.results(0, 1) == {}
    one, two = await reader.take()
    assert (one.first, one.size, one.done, two.first, two.size) == (0, 2, b"", 2, 2)
    parts = parted(one, 0, split(0, 0), split(0, 2), split(0, 1, failed=True), state="running", done=b"\x01")
    for _ in range(2):
        assert await reader.flush(parts) == [0], "also if its reply was lost"
    assert await numbers(reader) == {split_off(0, 0): 7, DONE: 2, BAD: 3}
    assert (await totals(reader)).total == 7
    left, bad = await reader.take()
    assert (left.first, bad.first, bad.attempts) == (split_off(0, 0), BAD, 1)
    rest = flushed(one, 1, number=1, state="done", succeeded=2)
    last = Flush(two, 0, "done", b"", 2, 0, block=Block((2, 3), b"2 3"))
    assert await reader.flush(rest, last, flushed(left, left.first, state="done"), flushed(bad, BAD, state="done")) == [
        *range(4)
    ]
    assert await reader.close()
    found = await totals(reader)
    assert (found.total, found.succeeded, found.failed) == (7, 6, 1)
    assert await faults(engine) == []

    assert (await reader.drive.finish("failed")).accepted
    third = await redriven(engine, reader)
    [again] = await third.take()
    assert (again.first, again.number, (await totals(third)).total) == (DONE, 2, 7)
    assert await numbers(third) == {split_off(0, 0): 7, DONE: 2, BAD: 3}
    assert await third.flush(flushed(again, DONE, state="done")) == [0]
    assert await third.close()
    assert len(await third.results(0, 1)) == 7
    assert await faults(engine) == []


async def test_numbers_are_not_given_twice_along_a_chain(engine: Engine) -> None:
    """BATCH-07: to what is read later, or leaves its batch later."""
    before = await ended(engine, "running")
    reader = await redriven(engine, before, "all")
    assert (await totals(reader)).total == 4
    added = await add(reader, "xy")
    assert (added.first, added.before) == (4, 7)
    assert (await totals(reader)).total == 5
    first, _ = await reader.take()
    assert await reader.flush(parted(first, 0, split(0, 0), state="running", done=b"\x01")) == [0]
    assert await numbers(reader) == {split_off(0, 0): 8}
    assert await reader.store.end(reader.id, reader.drive.run.fence, "cancelled")
    assert (await reader.drive.finish("cancelled")).accepted
    last = await redriven(engine, reader, "rest")
    assert (await totals(last)).total == 6
    assert await numbers(last) == {split_off(0, 0): 8}


async def test_nothing_is_left_to_run(engine: Engine) -> None:
    """SCAT-25: batches that are part of their batches again count for nothing."""
    before = await ended(engine)
    reader = await redriven(engine, before, "all")
    for chunk in await reader.take():
        both = tuple(range(chunk.first, chunk.first + 2))
        assert await reader.flush(flushed(chunk, *both, state="done")) == [0]
    assert await reader.close()
    assert (await reader.drive.finish("failed")).accepted
    with pytest.raises(ConfigError, match="none is left to be run"):
        await submit(engine, redrive(reader))


async def test_deleting_one_of_a_chain_leaves_the_other_whole(engine: Engine) -> None:
    """CFG-06: numbers and results of what left its batch are its own."""
    before = await ended(engine)
    reader = await redriven(engine, before)
    chunk, bad, refused = await reader.take()
    done = (flushed(bad, BAD, state="done"), flushed(refused, REFUSED, state="done"))
    assert await reader.flush(flushed(chunk, WHOLE, state="done", succeeded=2), *done) == [0, 1, 2]
    assert await reader.close()
    await engine.store.scatters.delete([before.id])
    assert set(await reader.results(0, 1)) == {0, WHOLE, 2, 3, DONE, BAD, REFUSED}
    assert await numbers(reader) == {DONE: 2, BAD: 3, REFUSED: 6}
    assert await faults(engine) == []
    await engine.store.scatters.delete([reader.id])
    assert await numbers(reader) == {}
    assert await reader.results(0, 1) == {}


async def test_a_worker_that_dies_leaves_what_left_its_batch_to_the_next(stores: Stores) -> None:
    """JOB-09: right after a redrive, with the same numbers; a flush of the dead one is refused."""
    one, other = await stores.engine(), await stores.engine()
    reader = await redriven(one, await ended(one), "all")
    [first, _] = await reader.take()
    parts = parted(first, 0, split(0, 1), state="running", done=b"\x01")
    assert await reader.flush(parts) == [0]
    late = parted(first, 1, split(1, 1), number=1, state="done", succeeded=2)
    await stores.kill(one)
    [run] = await other.store.take_orphans(other.worker.id, ["sales"], limit=1)
    successor = await Reader.begin(other, Drive(other.store, run))
    assert successor.id == reader.id
    taken = {each.first: each.number for each in await successor.take()}
    assert taken == {0: None, 2: None, DONE: 2}
    assert await one.store.scatters.flush([late], one.worker.id) == frozenset()
    assert (await totals(successor)).total == 5


async def test_batches_that_left_are_listed_by_page(engine: Engine) -> None:
    reader = await ended(engine)
    [first] = await reader.store.splits(reader.id, limit=1)
    assert (first.first, first.succeeded, first.failed, first.page) == (DONE, 1, 0, 0)
    rest = await reader.store.splits(reader.id, after=first.first)
    assert [(each.first, each.failed, each.page) for each in rest] == [(BAD, 1, 0), (REFUSED, 1, 1)]
    assert await reader.store.splits(reader.id, after=REFUSED) == ()
    assert await reader.store.splits(identifier()) == ()
