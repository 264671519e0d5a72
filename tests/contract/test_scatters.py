"""Scatters in the store: pages, chunks, results (SCAT-05, SCAT-12 to SCAT-14, SCAT-16, SCAT-21, SCAT-24, READ-07, READ-08)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import Any

import pytest

from flowstone_async.store.blocks import Block
from flowstone_async.store.scatters import (
    Chunk,
    Flush,
    ItemFailed,
    ItemLater,
    NewPage,
    PageAdded,
    ScatterRecord,
    Scatters,
)
from tests.contract.builders import Drive, failure, identifier, key, replace
from tests.contract.stores import Engine, Stores

NUMBERS = key("numbers")


def hash_of(text: object) -> str:
    return blake2b(str(text).encode(), digest_size=16).hexdigest()


@dataclass(slots=True)
class Reader:
    """Who reads a scatter: the owner of its run."""

    engine: Engine
    drive: Drive
    id: str
    pages: int = 0

    @property
    def store(self) -> Scatters:
        return self.engine.store.scatters

    @classmethod
    async def begin(cls, engine: Engine, drive: Drive | None = None) -> Reader:
        drive = drive or await engine.start(NUMBERS)
        record = ScatterRecord(id=identifier(), run_id=drive.id, key=NUMBERS, facts='{"a": 1}')
        begun = await engine.store.scatters.begin(record, drive.run.fence, engine.worker.id)
        assert begun is not None
        return cls(engine, drive, begun.id, begun.pages)

    def page(self, *items: object, last: bool = False, keyed: bool = True, **changes: Any) -> NewPage:
        made = NewPage(
            scatter=self.id,
            fence=self.drive.run.fence,
            no=self.pages,
            size=len(items),
            items=repr(items).encode(),
            hashes=list(map(hash_of, items)) if keyed else None,
            keys=None,
            cursor=f'"{self.pages}"',
            last=last,
            failed=(),
            chunks=(len(items),) if items else (),
        )
        return replace(made, **changes)

    async def add(self, *items: object, **changes: Any) -> PageAdded:
        added = await self.store.add_page(self.page(*items, **changes), self.engine.worker.id)
        assert added is not None
        self.pages += 1
        return added

    def chunk(self, first: int, count: int, page: int = 0) -> Chunk:
        return Chunk(self.id, first, False, page, count)

    async def flush(self, *flushes: Flush) -> list[int]:
        return sorted(await self.store.flush(flushes, self.engine.worker.id))

    async def take(self, limit: int = 100) -> tuple[Chunk, ...]:
        return await self.store.take(self.id, self.engine.worker.id, limit=limit)

    async def close(self) -> bool:
        return await self.store.close(self.id, self.drive.run.fence)

    async def results(self, *pages: int) -> dict[int, str]:
        found: dict[int, str] = {}
        for page in pages or (0,):
            for _, _, block, _ in await self.store.blocks(self.id, page):
                values = block.rows or block.body.decode().split()
                assert not set(block.positions) & set(found), "a result is there twice"
                found.update(zip(block.positions, values, strict=True))
        return found


def flushed(chunk: Chunk, *positions: int, state: Any = "running", number: int = 0, **changes: Any) -> Flush:
    """Return a flush of results: each position's is its own number."""
    done = 0
    for position in positions:
        done |= 1 << (position - chunk.first)
    block = Block(positions, " ".join(map(str, positions)).encode()) if positions else None
    made = Flush(chunk, number, state, done.to_bytes(-(-chunk.size // 8), "little"), len(positions), 0, block=block)
    return replace(made, **changes)


async def taken_over(reader: Reader, by: Engine, stores: Stores) -> Reader:
    """Let a reader's worker die and another continue its run."""
    await stores.kill(reader.engine)
    [run] = await by.store.take_orphans(by.worker.id, ["sales"], limit=1)
    return await Reader.begin(by, Drive(by.store, run))


# -- beginning ----------------------------------------------------------------------------------------------------------


async def test_a_scatter_begins_once_for_a_run_and_key(engine: Engine) -> None:
    reader = await Reader.begin(engine)
    again = await Reader.begin(engine, reader.drive)
    assert again.id == reader.id
    found = await engine.store.scatters.scatter(reader.id)
    assert found == ScatterRecord(reader.id, reader.drive.id, NUMBERS, facts='{"a": 1}', fence=reader.drive.run.fence)
    assert await engine.store.scatters.scatter(identifier()) is None
    assert await engine.store.scatters.totals(identifier()) is None


async def test_a_scatter_begins_instead_of_the_one_that_its_run_has(engine: Engine) -> None:
    """SCAT-01: that one is gone with all that it had, and whoever ran it is refused; sent again, it changes nothing."""
    reader = await Reader.begin(engine)
    await reader.add("a", "b")
    record = ScatterRecord(id=identifier(), run_id=reader.drive.id, key=NUMBERS, facts='{"b": 2}')
    fence = reader.drive.run.fence
    assert await reader.store.begin(record, fence + 1, engine.worker.id, instead_of=reader.id) is None
    assert await reader.store.scatter(reader.id) is not None
    for _ in range(2):
        begun = await reader.store.begin(record, fence, engine.worker.id, instead_of=reader.id)
        assert begun == record._replace(fence=fence)
        assert await reader.store.of_run(reader.drive.id) == (begun,)
    assert await reader.store.scatter(reader.id) is None
    assert await reader.flush(flushed(reader.chunk(0, 2), 0, 1, state="done")) == []
    assert await reader.store.add_page(reader.page("c"), engine.worker.id) is None
    again = Reader(engine, reader.drive, record.id)
    assert await again.add("a", last=True) == PageAdded(0, 0, frozenset()), "its keys are gone, too"


async def test_only_the_owner_of_the_run_begins(stores: Stores) -> None:
    """READ-08."""
    one, other = await stores.engine(), await stores.engine()
    drive = await one.start(NUMBERS)
    record = ScatterRecord(id=identifier(), run_id=drive.id, key=NUMBERS)
    assert await one.store.scatters.begin(record, drive.run.fence + 1, one.worker.id) is None
    await stores.kill(one)
    [run] = await other.store.take_orphans(other.worker.id, ["sales"], limit=1)
    assert await one.store.scatters.begin(record, drive.run.fence, one.worker.id) is None
    assert await other.store.scatters.begin(record, run.fence, other.worker.id) is not None


# -- pages --------------------------------------------------------------------------------------------------------------


async def test_pages_number_their_items_and_leave_out_duplicates(engine: Engine) -> None:
    """SCAT-05, SCAT-06: within a page and across pages; positions count all, `before` the distinct ones."""
    reader = await Reader.begin(engine)
    assert await reader.add("a", "b", "a") == PageAdded(0, 0, frozenset({2}))
    assert await reader.add("b", "c") == PageAdded(3, 2, frozenset({0}))
    assert await reader.add("d", last=True) == PageAdded(5, 3, frozenset())
    found = await reader.store.scatter(reader.id)
    assert found is not None
    assert (found.pages, found.read, found.total, found.sealed, found.cursor) == (3, 6, 4, True, '"2"')
    assert await reader.store.find(reader.id, hash_of("c")) == 4
    assert await reader.store.find(reader.id, hash_of("z")) is None
    pages = await reader.store.pages(reader.id, [2, 0, 7])
    assert [(page.no, page.first, page.before, page.size, page.duplicates) for page in pages] == [
        (0, 0, 0, 3, frozenset({2})),
        (2, 5, 3, 1, frozenset()),
    ]
    assert pages[0].items == b"('a', 'b', 'a')"


async def test_without_keys_every_position_is_an_item(engine: Engine) -> None:
    """SCAT-05: `key=False`."""
    reader = await Reader.begin(engine)
    assert await reader.add("a", "a", keyed=False) == PageAdded(0, 0, frozenset())
    assert await reader.add("a", keyed=False) == PageAdded(2, 2, frozenset())
    assert await reader.store.find(reader.id, hash_of("a")) is None


async def test_what_cannot_be_run_fails_once(engine: Engine) -> None:
    """SCAT-13, READ-07: a source that begins at its start gives it again."""
    reader = await Reader.begin(engine)
    error = failure()
    await reader.add("a", "!1", "b", failed=[ItemFailed(1, 0, error)])
    added = await reader.add(
        "a", "!1", "b", "!3", failed=[ItemFailed(1, 0, error), ItemFailed(3, 0, error)], chunks=(2, 2)
    )
    assert added == PageAdded(3, 3, frozenset({0, 1, 2}))
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.total, totals.failed) == (4, 2)
    assert [each.position for each in await reader.store.failures(reader.id)] == [1, 6]


async def test_a_page_is_added_once_however_often_it_is_sent(engine: Engine) -> None:
    """READ-07: the reply may be lost."""
    reader = await Reader.begin(engine)
    page = reader.page("a", "b", "a")
    answers = [await reader.store.add_page(page, engine.worker.id) for _ in range(3)]
    assert answers == [PageAdded(0, 0, frozenset({2}))] * 3
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert totals.total == 2


async def test_pages_out_of_turn_and_behind_the_end_are_refused(engine: Engine) -> None:
    reader = await Reader.begin(engine)
    assert await reader.store.add_page(reader.page("a", no=1), engine.worker.id) is None
    await reader.add("a", last=True)
    assert await reader.store.add_page(reader.page("b"), engine.worker.id) is None
    assert await reader.store.add_page(reader.page("b", scatter=identifier()), engine.worker.id) is None


async def test_a_reader_that_was_replaced_adds_nothing(stores: Stores) -> None:
    """READ-08: neither a page of its own, nor one in the place of its successor's."""
    one, other = await stores.engine(), await stores.engine()
    reader = await Reader.begin(one)
    await reader.add("a")
    late = reader.page("late")
    successor = await taken_over(reader, other, stores)
    assert successor.pages == 1
    assert await one.store.scatters.add_page(late, one.worker.id) is None
    await successor.add("b")
    assert await one.store.scatters.add_page(late, one.worker.id) is None
    assert (await reader.store.pages(reader.id, [1]))[0].items == b"('b',)"


# -- flushing -----------------------------------------------------------------------------------------------------------


async def test_results_are_kept_once(engine: Engine) -> None:
    """SCAT-16: with their bits and counts; a flush that is sent again changes nothing."""
    reader = await Reader.begin(engine)
    await reader.add(*"abcd", chunks=(3, 1), last=True)
    one, two = reader.chunk(0, 3), reader.chunk(3, 1)
    first = flushed(one, 0, 2)
    assert await reader.flush(first) == [0]
    assert await reader.flush(first) == [0]
    both = (flushed(one, 1, number=1, state="done", succeeded=3), flushed(two, 3, state="done"))
    assert await reader.flush(*both) == [0, 1]
    assert await reader.flush(*both) == [0, 1]
    assert await reader.results() == {0: "0", 1: "1", 2: "2", 3: "3"}
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.total, totals.succeeded, totals.failed, totals.open) == (4, 4, 0, 0)


async def test_rows_are_read_as_they_were_kept(engine: Engine) -> None:
    reader = await Reader.begin(engine)
    await reader.add("a", "b")
    await reader.add("c", last=True)
    block = Block((1, 0), b"", ("one", "zero"))
    assert await reader.flush(flushed(reader.chunk(0, 2), block=block, succeeded=2, state="done")) == [0]
    block = Block((2,), b"", ("two",))
    assert await reader.flush(flushed(reader.chunk(2, 1, 1), block=block, succeeded=1, state="done")) == [0]
    assert await reader.results(0, 1) == {1: "one", 0: "zero", 2: "two"}


async def test_what_is_not_the_worker_s_is_refused(stores: Stores) -> None:
    """SCAT-16: a stale flush changes neither result nor counts; what goes with it is kept all the same."""
    one, other = await stores.engine(), await stores.engine()
    reader = await Reader.begin(one)
    await reader.add(*"abc", chunks=(1, 1, 1), last=True)
    a, b, c = (reader.chunk(no, 1) for no in range(3))
    assert await other.store.scatters.flush([flushed(a, 0, state="done")], other.worker.id) == frozenset()
    given = (
        flushed(replace(a, fence=2), 0, state="done"),
        flushed(b, 1, state="done"),
        flushed(c, 2, number=1, state="done"),
        flushed(replace(c, scatter=identifier()), 2, state="done"),
    )
    assert await reader.flush(*given) == [1]
    assert await reader.results() == {1: "1"}


async def test_a_dead_worker_s_chunks_are_taken_with_what_is_done_of_them(stores: Stores) -> None:
    """SCAT-14, SCAT-16: its late flushes are refused."""
    one, other = await stores.engine(), await stores.engine()
    reader = await Reader.begin(one)
    await reader.add(*"abcd", chunks=(3, 1), last=True)
    await reader.flush(flushed(reader.chunk(0, 3), 0, 2))
    assert await reader.take() == (), "they are owned"
    successor = await taken_over(reader, other, stores)
    [first, second] = await successor.take()
    assert first == Chunk(reader.id, 0, False, 0, 3, fence=2, done=b"\x05", succeeded=2, lost=1)
    assert second == Chunk(reader.id, 3, False, 0, 1, fence=2, lost=1)
    assert await successor.take() == ()
    late = flushed(reader.chunk(0, 3), 1, number=1, succeeded=3)
    assert await one.store.scatters.flush([late], one.worker.id) == frozenset()
    assert await successor.flush(flushed(first, 1, state="done", succeeded=3), flushed(second, 3, state="done")) == [
        0,
        1,
    ]
    assert await successor.results() == {0: "0", 1: "1", 2: "2", 3: "3"}


async def test_after_the_first_only_deaths_of_those_who_had_begun_count(stores: Stores) -> None:
    """SCAT-14: whoever begins what a worker died with flushes it first."""
    reader = await Reader.begin(await stores.engine())
    await reader.add("a", "b", chunks=(1, 1), last=True)
    lost: list[tuple[int, ...]] = []
    for _ in range(4):
        reader = await taken_over(reader, await stores.engine(), stores)
        begun, waits = await reader.take()
        lost.append((begun.lost, waits.lost))
        assert await reader.flush(flushed(begun)) == [0]
    assert lost == [(1, 1), (2, 1), (3, 1), (4, 1)]
    await reader.store.release(reader.id, reader.engine.worker.id)
    await stores.kill(reader.engine)
    reader = await taken_over(reader, await stores.engine(), stores)
    assert [chunk.lost for chunk in await reader.take()] == [4, 1], "it had let go of them"


async def test_what_a_worker_had_is_free_once_it_begins_again(engine: Engine) -> None:
    """A worker that continues its own run has forgotten what it had; nobody died of it."""
    reader = await Reader.begin(engine)
    await reader.add("a", "b", last=True)
    await reader.flush(flushed(reader.chunk(0, 2), 0))
    again = await Reader.begin(engine, reader.drive)
    [chunk] = await again.take()
    assert chunk == Chunk(reader.id, 0, False, 0, 2, fence=3, done=b"\x01", succeeded=1)


# -- items on their own ---------------------------------------------------------------------------------------------------


async def test_an_item_to_be_tried_again_leaves_its_chunk(stores: Stores) -> None:
    """SCAT-12: it waits for its time, holding nothing; its attempts and the last error are known."""
    engine = await stores.engine()
    reader = await Reader.begin(engine)
    await reader.add("a", "b", last=True)
    due = engine.store.now() + timedelta(seconds=10)
    later = ItemLater(1, 1, due, error=failure("once"))
    chunk = reader.chunk(0, 2)
    given = flushed(chunk, 0, state="done", done=b"\x03", later=(later,))
    assert await reader.flush(given) == [0]
    assert await reader.flush(given) == [0]
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.succeeded, totals.waiting, totals.open, totals.due) == (1, 1, 1, due)
    assert await reader.take() == ()
    assert not await reader.close()

    stores.clock.advance(10)
    [alone] = await reader.take()
    assert alone == Chunk(reader.id, 1, True, 0, 1, fence=2, attempts=1, error=failure("once"))
    again = Flush(alone, 0, "ready", b"", 0, 0, attempts=2, due=due + timedelta(seconds=20), error=failure("twice"))
    assert await reader.flush(again) == [0]
    assert await reader.take() == ()

    stores.clock.advance(20)
    [alone] = await reader.take()
    assert alone == Chunk(reader.id, 1, True, 0, 1, fence=3, attempts=2, error=failure("twice"))
    assert await reader.flush(flushed(alone, 1, state="done")) == [0]
    assert await reader.results() == {0: "0", 1: "1"}
    assert await reader.close()


async def test_failed_items_are_listed_and_grouped(engine: Engine) -> None:
    """SCAT-25: by page, in order; those that could not even be run are among them."""
    reader = await Reader.begin(engine)
    unreadable = ItemFailed(1, 0, failure("no", code="DATA"))
    await reader.add("a", "b", "c", failed=(unreadable,))
    await reader.add("d", last=True)
    broke = (ItemFailed(2, 3, failure("x")), ItemFailed(0, 1, failure("y")))
    await reader.flush(flushed(reader.chunk(0, 3), failures=broke, failed=3, done=b"\x07", state="done"))
    await reader.flush(
        flushed(reader.chunk(3, 1, 1), failures=(ItemFailed(3, 2, failure("z")),), failed=1, done=b"\x01", state="done")
    )
    found = await reader.store.failures(reader.id)
    assert [(each.position, each.page, each.attempts, each.error.message) for each in found] == [
        (0, 0, 1, "y"),
        (1, 0, 0, "no"),
        (2, 0, 3, "x"),
        (3, 1, 2, "z"),
    ]
    assert {each.worker for each in found} == {engine.worker.id}
    assert await reader.store.failures(reader.id, after=0, limit=2) == found[1:3]
    groups = await reader.store.errors(reader.id)
    assert [(count, error.code) for count, error in groups] == [(3, "EXECUTION"), (1, "DATA")]
    assert len(await reader.store.errors(reader.id, limit=1)) == 1
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.failed, totals.succeeded) == (4, 0)
    assert await reader.close()


async def test_an_item_that_cannot_be_run_counts_from_its_page_on(engine: Engine) -> None:
    reader = await Reader.begin(engine)
    await reader.add("a", "b", "c", chunks=(1, 2), failed=(ItemFailed(2, 0, failure("no")),))
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.total, totals.failed) == (3, 1)


# -- ending -------------------------------------------------------------------------------------------------------------


async def test_a_scatter_closes_when_it_is_sealed_and_every_item_is_final(engine: Engine) -> None:
    """SCAT-21."""
    reader = await Reader.begin(engine)
    assert not await reader.close()
    await reader.add("a")
    await reader.flush(flushed(reader.chunk(0, 1), 0, state="done"))
    assert not await reader.close(), "its source goes on"
    await reader.add("b", last=True)
    assert not await reader.close()
    await reader.flush(flushed(reader.chunk(1, 1, 1), 1, state="done"))
    assert not await reader.store.close(reader.id, reader.drive.run.fence + 1)
    assert await reader.close()
    assert await reader.close(), "and says so again"
    assert not await reader.store.end(reader.id, reader.drive.run.fence, "failed")


async def test_a_source_without_items_closes_at_once(engine: Engine) -> None:
    """SCAT-21."""
    reader = await Reader.begin(engine)
    await reader.add(last=True)
    assert await reader.close()


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_nothing_is_kept_of_a_scatter_that_has_ended(engine: Engine, state: Any) -> None:
    """SCAT-11, SCAT-24: and its state never flips back; what was kept before stays."""
    reader = await Reader.begin(engine)
    await reader.add("a", "b", "c", chunks=(1, 1, 1))
    await reader.flush(flushed(reader.chunk(0, 1), 0, state="done"))
    assert not await reader.store.end(reader.id, reader.drive.run.fence + 1, state)
    assert await reader.store.end(reader.id, reader.drive.run.fence, state)
    assert await reader.store.end(reader.id, reader.drive.run.fence, state)
    assert await reader.flush(flushed(reader.chunk(1, 1), 1, state="done")) == []
    assert await reader.store.add_page(reader.page("d"), engine.worker.id) is None
    assert await reader.take() == ()
    assert not await reader.close()
    other = {"failed": "cancelled", "cancelled": "failed"}[state]
    assert not await reader.store.end(reader.id, reader.drive.run.fence, other)  # pyright: ignore[reportArgumentType]
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.state, totals.succeeded, totals.open) == (state, 1, 0)
    assert await reader.results() == {0: "0"}


async def test_a_run_that_is_cancelled_ends_its_scatters(engine: Engine) -> None:
    """SCAT-24."""
    reader, other = await Reader.begin(engine), await Reader.begin(engine)
    for each in (reader, other):
        await each.add("a")
    await engine.store.cancel(reader.drive.id, (), ())
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.state, totals.open) == ("cancelled", 0)
    assert await reader.flush(flushed(reader.chunk(0, 1), 0, state="done")) == []
    assert await other.flush(flushed(other.chunk(0, 1), 0, state="done")) == [0]


async def test_last_flushes_at_once_leave_no_scatter_open(stores: Stores) -> None:
    """SCAT-19: whoever flushes last finds everything final, or the other one does."""
    engine = await stores.engine()
    for _ in range(20):
        reader = await Reader.begin(engine, await engine.start())
        await reader.add(*"abcd", chunks=(1, 1, 1, 1), last=True)

        async def finish(no: int, reader: Reader = reader) -> bool:
            await reader.flush(flushed(reader.chunk(no, 1), no, state="done"))
            return await reader.close()

        async with asyncio.timeout(30):
            assert any(await asyncio.gather(*map(finish, range(4))))


async def test_what_is_deleted_is_gone(engine: Engine) -> None:
    reader, other = await Reader.begin(engine), await Reader.begin(engine, await engine.start())
    for each in (reader, other):
        await each.add("a", last=True)
        await each.flush(flushed(each.chunk(0, 1), 0, state="done"))
    await engine.store.scatters.delete([reader.id, "no id"])
    assert await reader.store.scatter(reader.id) is None
    assert await reader.results() == {}
    assert await reader.store.pages(reader.id, [0]) == ()
    assert await other.results() == {0: "0"}


async def test_who_asks_hears_when_the_next_items_are_due(stores: Stores) -> None:
    """SCAT-12: the nearest ones; what is due already, runs, or waits for no time is not among them."""
    engine = await stores.engine()
    reader = await Reader.begin(engine)
    await reader.add(*"abcdef")
    now = engine.store.now()
    later = [ItemLater(no, 1, due=now + timedelta(hours=5 - no)) for no in range(4)]
    later += [ItemLater(4, 1, due=now - timedelta(seconds=1)), ItemLater(5, 1)]
    assert await reader.flush(flushed(reader.chunk(0, 6), state="done", later=later)) == [0]
    assert await reader.store.dues(reader.id, limit=2) == tuple(now + timedelta(hours=each) for each in (2, 3))
    assert len(await reader.store.dues(reader.id, limit=9)) == 4
    assert await reader.store.dues(identifier(), limit=9) == ()


@pytest.mark.parametrize("rows", [False, True])
async def test_what_is_read_together_is_bounded(engine: Engine, rows: bool) -> None:
    """SCAT-17: contents up to so many bytes; what was left out is read by its number."""
    reader = await Reader.begin(engine)
    await reader.add(*"abcd", last=True)
    for number, position in enumerate((2, 0, 3, 1)):
        flush = flushed(reader.chunk(0, 4), position, number=number)
        if rows:
            flush = replace(flush, block=Block((position,), b"", (str(position) * 10,)))
        else:
            flush = replace(flush, block=Block((position,), str(position).encode() * 10))
        assert await reader.flush(flush) == [0]

    async def read(**options: Any) -> list[tuple[list[int], bool]]:
        found = await reader.store.blocks(reader.id, 0, **options)
        return sorted((sorted(each.block.positions), each.whole) for each in found)

    assert sum(len(positions) for positions, whole in await read(most=40) if whole) == 4
    assert sorted(place for positions, whole in await read(most=39) if whole for place in positions) == [0, 2, 3]
    assert await read(most=0) == [([0], False), ([1], False), ([2], False), ([3], False)]

    for each in await reader.store.blocks(reader.id, 0, most=10):
        [found] = await reader.store.committed(reader.id, after=each.no - 1, limit=1, most=1)
        [position] = each.block.positions
        assert (found.no, found.page, tuple(found.block.positions), found.whole) == (each.no, 0, (position,), True)
        assert (found.block.rows or (found.block.body.decode(),))[0] == str(position) * 10

    async def committed(**options: Any) -> list[int]:
        found = await reader.store.committed(reader.id, **options)
        return [place for each in found for place in each.block.positions]

    assert await committed(most=0) == await committed(most=1) == await committed(most=10) == [2]
    assert await committed(most=11) == await committed(limit=2) == [2, 0]
    assert await committed() == [2, 0, 3, 1]
