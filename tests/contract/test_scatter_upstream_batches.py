"""Following the results of a scatter in batches, some of which left others (SCAT-26, BATCH-07, BATCH-08, READ-07)."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any, cast

import pytest

from flowstone_async._engine.scatter.batch_results import BatchLabels
from flowstone_async._engine.scatter.batching import BatchItems
from flowstone_async._engine.scatter.key_forms import PLAIN, BatchKeyForm, ItemKeys
from flowstone_async._engine.scatter.packing import Items
from flowstone_async._engine.scatter.results import Results
from flowstone_async._engine.scatter.seen import Given
from flowstone_async._engine.scatter.upstream import UpstreamResults
from flowstone_async.clock import SystemClock
from flowstone_async.store.batches import split_off
from flowstone_async.store.blocks import Block
from flowstone_async.store.scatters import Chunk, Flush, Page, ScatterRecord, Scatters
from flowstone_async.types import AssetKey
from tests.contract.builders import identifier, replace
from tests.contract.stores import Engine
from tests.contract.test_scatter_batches import batches, parted, split
from tests.contract.test_scatter_upstream import Hiding
from tests.contract.test_scatters import Reader, flushed
from tests.support.gate import soon

SIZE = 3


def _results(form: str, *positions: int) -> Block:
    """Return results that say which they are; of a batch of its own, 100 and more."""
    values = [str(each) if each < 100 else str(100 + (each & 0xFF)) for each in positions]
    if form == "rows":
        return Block(positions, b"", values)
    return Block(positions, b" [" + ",".join(values).encode() + b"]")


def _source(store: Any, scatter: str, form: Any) -> UpstreamResults:
    scatters = cast("Scatters", store)
    return UpstreamResults(
        scatters,
        scatter,
        results=Results(int, None, form),
        labels=BatchLabels(scatters, scatter, BatchItems(int, None), None),
        clock=SystemClock(),
        poll=0.0,
        upstream="first",
        batches=True,
    )


async def _add(reader: Reader, first: int, count: int, *, last: bool = False) -> None:
    """Add a page of batches of three numbers as the engine does."""
    made = [range(SIZE * no, SIZE * no + SIZE) for no in range(first, first + count)]
    given = batches(*("abc" for _ in made), hashes=None, places=None)
    await reader.add(*made, last=last, items=BatchItems(int, None).batches(made), **given)


async def _gives(reader: Reader, form: str, chunk: Chunk, *positions: int, number: int = 0, **changes: Any) -> None:
    """Keep the results of batches of a chunk, of which each lets its second item go."""
    ended: Flush = parted(chunk, positions[0], *(split(each, 1) for each in positions), number=number)
    assert await reader.flush(replace(ended, block=_results(form, *positions), **changes)) == [0]


async def _ends(reader: Reader, form: str, chunk: Chunk) -> None:
    given = flushed(chunk, chunk.first, state="done", block=_results(form, chunk.first))
    assert await reader.flush(given) == [0]


async def _rest(source: UpstreamResults, cursor: Any, size: int = 100) -> tuple[list[tuple[Any, int]], Any]:
    found: list[tuple[Any, int]] = []
    async for page in source.read_sized(cursor, size):
        assert len(page.items) <= size
        found += [(key, value) for key, value in page.items]
        cursor = page.cursor
    return found, cursor


@pytest.mark.parametrize("form", ["packed", "rows"])
async def test_results_tell_the_number_of_what_left_its_batch(engine: Engine, form: Any) -> None:
    reader = await Reader.begin(engine)
    await _add(reader, 0, 2, last=True)
    await _gives(reader, form, reader.chunk(0, 2), 0, 1, state="done", succeeded=2)
    for chunk in await reader.take():
        await _ends(reader, form, chunk)
    blocks = [block for _, _, block, _ in await reader.store.committed(reader.id)]
    found = sorted((position, block.number) for block in blocks for position in block.positions)
    assert found == [(0, None), (1, None), (split_off(0, 1), 2), (split_off(1, 1), 3)]


@pytest.mark.parametrize("form", ["packed", "rows"])
@pytest.mark.parametrize("size", [1, 2, 100])
async def test_what_left_its_batch_is_given_once(engine: Engine, form: Any, size: int) -> None:
    """From every page of a reading, what is left is the same; a cursor has bits for numbers and not for positions."""
    reader = await Reader.begin(engine)
    await _add(reader, 0, 2)
    await _gives(reader, form, reader.chunk(0, 2), 0, 1, state="done", succeeded=2)
    await _add(reader, 2, 3, last=True)
    await _gives(reader, form, reader.chunk(2, 3, 1), 2, 4)
    alone = {chunk.first: chunk for chunk in await reader.take()}
    assert sorted(alone) == [split_off(each, 1) for each in (0, 1, 2, 4)]
    for each in (0, 4, 1):
        await _ends(reader, form, alone[split_off(each, 1)])
    failed: Any = parted(reader.chunk(2, 3, 1), 3, split(3, 2, failed=True), number=1, state="done", succeeded=3)
    assert await reader.flush(replace(failed, block=_results(form, 3))) == [0]
    never = flushed(alone[split_off(2, 1)], state="done", failed=1)
    error = failed.failures[0]
    assert await reader.flush(replace(never, failures=[error._replace(position=split_off(2, 1))])) == [0]
    assert await reader.close()

    source = _source(reader.store, reader.id, form)
    everything, end = await _rest(source, None, size)
    read = [(tuple(range(SIZE * no, SIZE * no + SIZE)), no) for no in range(5)]
    left = [((SIZE * no + 1,), 101) for no in (0, 1, 4)]
    assert sorted(everything) == sorted([*read, *left])
    assert end["skipped"] == 2
    taken = 0
    async for page in source.read_sized(None, size):
        taken += len(page.items)
        assert len(json.dumps(page.cursor)) < 300
        rest, same_end = await _rest(source, page.cursor, size)
        assert sorted([*everything[:taken], *rest]) == sorted(everything)
        assert same_end["skipped"] == 2


@pytest.mark.parametrize("form", ["packed", "rows"])
async def test_what_left_its_batch_and_becomes_visible_late(engine: Engine, form: Any) -> None:
    """Behind what was looked through twice: it is found when the scatter is closed."""
    reader = await Reader.begin(engine)
    await _add(reader, 0, 4, last=True)
    await _gives(reader, form, reader.chunk(0, 4), 0, 1)
    first, second = await reader.take()
    late = split_off(0, 1)
    store = Hiding(reader.store, late)
    async with aclosing(cast("Any", _source(store, reader.id, form).read_sized(None, 100))) as pages:
        await soon(anext(pages))
        await _ends(reader, form, first)
        for number, (position, alone) in enumerate(((2, second), (3, None)), 1):
            if alone is not None:
                await _ends(reader, form, alone)
                assert [value for _, value in (await soon(anext(pages))).items] == [101]
            ended = flushed(reader.chunk(0, 4), position, number=number, block=_results(form, position))
            await reader.flush(replace(ended, state="done" if position == 3 else "running", succeeded=number + 2))
            assert [value for _, value in (await soon(anext(pages))).items] == [position]
        assert await reader.close()
        store.hidden = set()
        found = [each async for page in pages for each in page.items]
    assert found == [((1,), 101)]


def test_numbers_of_what_left_take_no_room() -> None:
    """However many batches were left: a bit for each of the batches, compressed, and none before the first missing."""
    given = Given(None, batches=True)
    total = 0
    for no in range(500):
        page = Page(no, 100 * no, total, 100, frozenset(), b"", None)
        given.add_page(page)
        for position in range(page.first, page.first + 100):
            given.add(position, None)
        for place in range(100):
            given.add(split_off(page.first + place, 3), total + 100 + place)
        total += 200
    again = Given(given.stored(), batches=True)
    assert len(json.dumps(given.stored())) < 200
    record = ScatterRecord(identifier(), identifier(), AssetKey("p", "a"), read=50_000, total=total)
    for each in (given, again):
        assert each.first_missing() == 50_000
        assert each.has_all_that_left(record)
        assert not each.has_all_that_left(record._replace(total=total + 1))
        assert each.has(split_off(49_999, 3), total - 1)
        assert not each.has(split_off(49_999, 4), total)


@pytest.mark.parametrize("form", [BatchKeyForm(ItemKeys(Items(int, None))), BatchKeyForm(BatchKeyForm(PLAIN))])
def test_keys_of_batches_come_back(form: BatchKeyForm) -> None:
    """SCAT-05: equal for equal ones only, whatever their parts are."""
    nested = isinstance(form._single, BatchKeyForm)
    keys: list[Any] = [((1,), (2, 3)), ((1, 2), (3,)), (), ((1, 2, 3),)] if nested else [(1, 2), (12,), (), (1,)]
    assert form.unpack(form.pack(keys)) == keys
    assert form.unpack(form.pack([])) == []
    assert len(set(form.contents(keys))) == len(keys)
    for other in (1, "ab", [1], None):
        with pytest.raises(ValueError, match="as a tuple"):
            form.contents([other])
