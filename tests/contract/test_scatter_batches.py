"""Scatters in batches, as the store keeps them (BATCH-06 to BATCH-08, READ-07)."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from flowstone_async.store.batches import SPLIT, Split, split_from, split_off
from flowstone_async.store.blocks import Block
from flowstone_async.store.scatters import Chunk, Flush, ItemFailed, PageAdded, ScatterRecord
from tests.contract.builders import failure, identifier, replace
from tests.contract.stores import Engine, Stores
from tests.contract.test_scatters import NUMBERS, Reader, flushed, hash_of, taken_over


def batches(*batches: str, **changes: Any) -> dict[str, Any]:
    """Return what a page of batches has beside that of items: each letter is an item."""
    letters = [(place, letter) for place, batch in enumerate(batches) for letter in batch]
    given = {
        "hashes": [hash_of(letter) for _, letter in letters],
        "places": [place for place, _ in letters],
        "distinct": len(letters),
    }
    return {**given, **changes}


async def add(reader: Reader, *given: str, last: bool = False, **changes: Any) -> PageAdded:
    return await reader.add(*given, last=last, **batches(*given, **changes))


def split(position: int, place: int, due: datetime | None = None, *, failed: bool = False) -> Split:
    return Split(split_off(position, place), 1, due, failure("alone"), failed)


def parted(chunk: Chunk, position: int, *splits: Split, **changes: Any) -> Flush:
    """Return the flush of a batch of which some items go on alone."""
    failures = [ItemFailed(each.position, each.attempts, each.error) for each in splits if each.failed]
    return flushed(chunk, position, splits=splits, failures=failures, **changes)


@pytest.mark.parametrize("position", [0, 1, 999, 10**9])
@pytest.mark.parametrize("place", [0, 1, 999_999])
def test_a_split_off_position_tells_where_it_was(position: int, place: int) -> None:
    alone = split_off(position, place)
    assert SPLIT <= alone < 2**63
    assert split_from(alone) == (position, place)
    assert split_from(position) == (position, None)


# -- pages --------------------------------------------------------------------------------------------------------------


async def test_keys_lead_to_batches(engine: Engine) -> None:
    """BATCH-02, SCAT-05: whichever place they have in them; what is known can be asked."""
    reader = await Reader.begin(engine)
    assert await add(reader, "abc", "d") == PageAdded(0, 0, frozenset())
    assert await add(reader, "ef") == PageAdded(2, 2, frozenset())
    store = reader.store
    assert [await store.find(reader.id, hash_of(each)) for each in "abcdef"] == [0, 0, 0, 1, 2, 2]
    asked = [hash_of(each) for each in "axfy"]
    assert await store.known(reader.id, asked) == {hash_of("a"), hash_of("f")}
    assert await store.known(reader.id, []) == frozenset()
    assert await store.known(identifier(), asked) == frozenset()


async def test_what_is_in_no_batch_yet_goes_with_the_cursor(stores: Stores) -> None:
    """READ-07, BATCH-07: whoever continues is given what the last page said; a page that is sent again changes nothing."""
    one, other = await stores.engine(), await stores.engine()
    reader = await Reader.begin(one)
    await add(reader, "ab", carry=b"first")
    page = reader.page(**batches(carry=b"second", distinct=3))
    for _ in range(2):
        assert await reader.store.add_page(page, one.worker.id) == PageAdded(1, 1, frozenset())
    late = reader.page(no=2, **batches(carry=b"late", distinct=5))
    successor = await taken_over(reader, other, stores)
    assert await one.store.scatters.add_page(late, one.worker.id) is None
    record = await other.store.scatters.begin(_record(reader), successor.drive.run.fence, other.worker.id)
    assert record is not None
    assert (record.carry, record.cursor, record.pages) == (b"second", '"1"', 2)
    totals = await other.store.scatters.totals(reader.id)
    assert totals is not None
    assert (totals.total, totals.read) == (1, 5)
    successor.pages = 2
    await add(successor, "c", last=True, distinct=0)
    record = await other.store.scatters.begin(_record(reader), successor.drive.run.fence, other.worker.id)
    assert record is not None
    assert record.carry is None


def _record(reader: Reader) -> ScatterRecord:
    return ScatterRecord(id=reader.id, run_id=reader.drive.id, key=NUMBERS)


# -- what is decided ----------------------------------------------------------------------------------------------------


async def test_what_is_decided_first_stands(stores: Stores) -> None:
    """BATCH-06: for everybody, also after a restart."""
    one, other = await stores.engine(), await stores.engine()
    reader = await Reader.begin(one)
    fence = reader.drive.run.fence
    began, more = '{"a": 1}', '{"a": 1, "b": 2}'
    assert await reader.store.decide(reader.id, fence, "{}", more) == began, "it began with that"
    assert await reader.store.decide(reader.id, fence + 1, began, more) is None
    assert await reader.store.decide(identifier(), fence, began, more) is None
    assert await reader.store.decide(reader.id, fence, began, more) == more
    successor = await taken_over(reader, other, stores)
    assert await reader.store.decide(reader.id, fence, more, "{}") is None
    fence = successor.drive.run.fence
    assert await successor.store.decide(reader.id, fence, began, '{"c": 3}') == more
    assert await successor.store.end(reader.id, fence, "failed")
    assert await successor.store.decide(reader.id, fence, more, "{}") is None


async def test_a_decision_is_kept_once(engine: Engine) -> None:
    """BATCH-06: a call whose reply was lost is answered the same again."""
    drive = await engine.start(NUMBERS)
    record = ScatterRecord(id=identifier(), run_id=drive.id, key=NUMBERS)
    store = engine.store.scatters
    assert await store.begin(record, drive.run.fence, engine.worker.id) is not None
    fence, texts = drive.run.fence, ('{"a": 1}', '{"a": 1}', '{"b": 2}')
    assert [await store.decide(record.id, fence, "{}", text) for text in texts] == ['{"a": 1}'] * 3
    again = await store.begin(record, drive.run.fence, engine.worker.id)
    assert again is not None
    assert again.facts == '{"a": 1}'


# -- items that leave their batches ---------------------------------------------------------------------------------------


async def test_items_that_leave_their_batch_count(stores: Stores) -> None:
    """BATCH-08: with the next numbers and the attempts that are left; the scatter is not over before they are."""
    engine = await stores.engine()
    reader = await Reader.begin(engine)
    await add(reader, "abc", "de")
    due = engine.store.now() + timedelta(seconds=10)
    given = parted(reader.chunk(0, 2), 0, split(0, 2, due), split(0, 1))
    for _ in range(3):
        assert await reader.flush(given) == [0], "also if its reply was lost"
    added = await add(reader, "f", last=True)
    assert (added.first, added.before) == (2, 4), "positions are the reader's own, numbers are not"
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.total, totals.succeeded, totals.waiting, totals.read, totals.due) == (5, 1, 2, 6, due)

    [alone] = await reader.take()
    assert alone == Chunk(reader.id, split_off(0, 1), True, 0, 1, fence=2, attempts=1, error=failure("alone"), number=3)
    stores.clock.advance(10)
    [other] = await reader.take()
    assert (other.first, other.number) == (split_off(0, 2), 2)
    again = Flush(alone, 0, "ready", b"", 0, 0, attempts=2, due=due, error=failure("twice"))
    assert await reader.flush(again) == [0]
    [alone] = await reader.take()
    assert (alone.number, alone.attempts) == (3, 2)

    rest = flushed(reader.chunk(0, 2), 1, number=1, state="done", succeeded=2)
    last = flushed(reader.chunk(2, 1, 1), 2, state="done")
    assert await reader.flush(rest, last, _done(alone), _done(other)) == [0, 1, 2, 3]
    assert await reader.close()
    assert set(await reader.results(0)) == {0, 1, split_off(0, 1), split_off(0, 2)}
    assert set(await reader.results(1)) == {2}
    assert await reader.store.page_at(reader.id, split_off(1, 7)) == 0
    assert await reader.store.page_at(reader.id, split_off(2, 7)) == 1


def _done(chunk: Chunk) -> Flush:
    return flushed(chunk, chunk.first, state="done")


async def test_items_that_leave_their_batch_for_good_are_failures(engine: Engine) -> None:
    """BATCH-08: of batches of their own, which count."""
    reader = await Reader.begin(engine)
    await add(reader, "ab", "cd", last=True)
    both = parted(reader.chunk(0, 2), 1, split(1, 0, failed=True), state="running")
    assert await reader.flush(both) == [0]
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.total, totals.succeeded, totals.failed, totals.open) == (3, 1, 1, 1)
    [found] = await reader.store.failures(reader.id)
    assert (found.position, found.page, found.attempts, found.number) == (split_off(1, 0), 0, 1, 2)
    assert await reader.take() == (), "nothing is left of it"
    assert await reader.flush(flushed(reader.chunk(0, 2), 0, number=1, state="done", succeeded=2)) == [0]
    assert await reader.close()
    assert await engine.store.verify() == ()


async def test_an_item_that_was_alone_and_failed_is_told_with_its_number(engine: Engine) -> None:
    reader = await Reader.begin(engine)
    await add(reader, "ab", last=True)
    await reader.flush(parted(reader.chunk(0, 1), 0, split(0, 1), state="done"))
    [alone] = await reader.take()
    failed = ItemFailed(alone.first, 2, failure("twice"))
    assert await reader.flush(Flush(alone, 0, "done", b"\x01", 0, 1, failures=(failed,))) == [0]
    [found] = await reader.store.failures(reader.id)
    assert (found.number, found.attempts) == (1, 2)


async def test_rows_of_items_that_left_are_read_with_their_page(engine: Engine) -> None:
    """BATCH-08, for `results="rows"`."""
    reader = await Reader.begin(engine)
    await add(reader, "ab")
    await add(reader, "cd", last=True)
    one, two = reader.chunk(0, 1), reader.chunk(1, 1, 1)
    for chunk in (one, two):
        given = parted(chunk, chunk.first, split(chunk.first, 1), state="done")
        assert await reader.flush(replace(given, block=Block((chunk.first,), b"", ("whole",)))) == [0]
    for alone in await reader.take():
        given = flushed(alone, alone.first, state="done")
        assert await reader.flush(replace(given, block=Block((alone.first,), b"", ("alone",)))) == [0]
    assert await reader.results(0) == {0: "whole", split_off(0, 1): "alone"}
    assert await reader.results(1) == {1: "whole", split_off(1, 1): "alone"}
    committed = await reader.store.committed(reader.id)
    assert [(page, *block.positions) for _, page, block, _ in committed] == [
        (0, 0),
        (1, 1),
        (0, split_off(0, 1)),
        (1, split_off(1, 1)),
    ]


async def test_a_flush_that_is_refused_splits_nothing(stores: Stores) -> None:
    """BATCH-08, SCAT-16: each chunk as a whole."""
    one, other = await stores.engine(), await stores.engine()
    reader = await Reader.begin(one)
    await add(reader, "ab", "cd", chunks=(1, 1), last=True)
    mine = parted(reader.chunk(1, 1), 1, split(1, 1), state="done")
    late = parted(replace(reader.chunk(0, 1), fence=2), 0, split(0, 1), state="done")
    assert await reader.flush(late, mine) == [1]
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.total, totals.waiting) == (3, 1)
    successor = await taken_over(reader, other, stores)
    taken = {chunk.first: chunk.number for chunk in await successor.take()}
    assert taken == {0: None, split_off(1, 1): 2}
    assert await reader.flush(parted(reader.chunk(0, 1), 0, split(0, 1), state="done")) == []


async def test_numbers_are_given_once(engine: Engine) -> None:
    """BATCH-07: to pages and to what leaves its batch, at the same time."""
    reader = await Reader.begin(engine)
    await add(reader, *(f"{no}x" for no in range(20)), hashes=None, places=None, chunks=(1,) * 20)
    flushes = [
        reader.flush(parted(reader.chunk(no, 1), no, split(no, 0), split(no, 1), state="done")) for no in range(20)
    ]
    [added, *answers] = await asyncio.gather(add(reader, "a", "b", hashes=None, places=None), *flushes)
    assert answers == [[0]] * 20
    numbers = [chunk.number for chunk in await reader.take()]
    assert sorted([*(number for number in numbers if number is not None), added.before, added.before + 1]) == list(
        range(20, 62)
    )
