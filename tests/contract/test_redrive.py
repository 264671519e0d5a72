"""Scatters that go on from one of an ended run (SCAT-25, READ-09): what they begin with, and what stays of the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstone_async.errors import ConfigError
from flowstone_async.store.blocks import Block
from flowstone_async.store.records import AuditEntry, Submission, Submitted
from flowstone_async.store.redrives import Redrive
from flowstone_async.store.scatters import Chunk, Flush, ItemFailed, ItemLater
from tests.contract.builders import Drive, failure, identifier, replace, run_record
from tests.contract.stores import Engine, Stores
from tests.contract.test_scatters import NUMBERS, Reader, flushed, hash_of

BROKEN = failure("broken", details={"error_type": "ValueError"})


async def ended(engine: Engine, state: str = "closed") -> Reader:
    """Return a scatter of 2 pages of which 0, 2 and 4 succeeded, 1 failed, 5 could not be run, and 3 is a duplicate.

    Items 2 and 1 were tried on their own. With another state than `closed` item 4 never ended.
    """
    reader = await Reader.begin(engine)
    await reader.add("a", "b", "c", "a")
    refused = ItemFailed(1, 0, failure("no", code="DATA"))
    await reader.add("d", "e", last=state != "running", failed=(refused,))
    later = (ItemLater(1, 1), ItemLater(2, 1))
    one = flushed(reader.chunk(0, 4), 0, state="done", done=b"\x07", later=later)
    assert await reader.flush(one) == [0]
    for alone in await reader.take():
        if alone.first == 1:
            failed = (ItemFailed(1, 3, BROKEN),)
            assert await reader.flush(flushed(alone, state="done", failures=failed, failed=1)) == [0]
        else:
            assert await reader.flush(flushed(alone, 2, state="done")) == [0]
    if state == "closed":
        assert await reader.flush(flushed(reader.chunk(4, 2, 1), 4, state="done", failed=1)) == [0]
        assert await reader.close()
    elif state != "running":
        assert await reader.store.end(reader.id, reader.drive.run.fence, state)  # pyright: ignore[reportArgumentType]
    assert (await reader.drive.finish("failed")).accepted
    return reader


async def submit(engine: Engine, *redrives: Redrive, request: str = "", run: str | None = None) -> Submitted:
    record = run_record(None, id=run or identifier(), state="queued", submitted=True, request=request)
    audit = AuditEntry("run.submitted", record.id, actor="process", actor_kind="process", run_id=record.id)
    return await engine.store.submit(Submission(run=record, subject="s", audit=audit), redrives=redrives)


def redrive(of: Reader, only: Any = "failed", **changes: Any) -> Redrive:
    audit = AuditEntry("scatter.redriven", of.id, actor="process", actor_kind="process")
    return replace(Redrive(of.id, identifier(), only, '{"b": 2}', audit=audit), **changes)


async def begun(engine: Engine, submitted: Submitted) -> Reader:
    """Return the scatter of a submitted run, as the engine that claims it begins it."""
    [run] = await engine.store.claim(engine.worker.id, ["sales"], limit=1)
    assert run.id == submitted.run.id
    return await Reader.begin(engine, Drive(engine.store, run))


async def redriven(engine: Engine, of: Reader, only: Any = "failed") -> Reader:
    asked = redrive(of, only)
    reader = await begun(engine, await submit(engine, asked))
    assert reader.id == asked.id
    return reader


async def all_results(reader: Reader) -> dict[int, str]:
    return await reader.results(0, 1)


# -- what it begins with --------------------------------------------------------------------------------------------------


async def test_failed_items_are_run_again_and_the_others_kept(engine: Engine) -> None:
    """SCAT-25."""
    before = await ended(engine)
    reader = await redriven(engine, before)
    record = await reader.store.scatter(reader.id)
    assert record is not None
    assert (record.state, record.sealed, record.pages, record.read, record.total) == ("running", True, 2, 6, 5)
    assert (record.origin, record.before, record.facts) == (before.id, '{"b": 2}', '{"a": 1}')
    assert record.run_id == reader.drive.id
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.succeeded, totals.failed, totals.carried, totals.open, totals.waiting) == (3, 1, 4, 1, 0)
    assert [each.position for each in await reader.store.failures(reader.id)] == [5], "it cannot be run at all"
    [chunk] = await reader.take()
    assert (chunk.first, chunk.alone, chunk.attempts, chunk.lost, chunk.succeeded) == (0, False, 0, 0, 2)
    assert [place for place in range(3) if not chunk.done[0] >> place & 1] == [1]
    again = flushed(chunk, 1, state="done", succeeded=3)
    assert await reader.flush(again) == [0]
    assert await reader.close()
    assert await all_results(reader) == {0: "0", 1: "1", 2: "2", 4: "4"}
    assert [no for _, _, block, _ in await reader.store.committed(reader.id) for no in block.positions] == [0, 2, 4, 1]


async def test_the_other_is_left_as_it_was(engine: Engine) -> None:
    """SCAT-25: it may be a value that others read."""
    before = await ended(engine)
    was = (await before.store.scatter(before.id), await before.store.totals(before.id))
    reader = await redriven(engine, before)
    [chunk] = await reader.take()
    await reader.flush(flushed(chunk, 1, state="done", succeeded=3))
    assert (await before.store.scatter(before.id), await before.store.totals(before.id)) == was
    assert await all_results(before) == {0: "0", 2: "2", 4: "4"}
    assert [each.position for each in await before.store.failures(before.id)] == [1, 5]


async def test_items_and_keys_are_those_of_the_other(engine: Engine) -> None:
    before = await ended(engine)
    reader = await redriven(engine, before)
    [page] = await reader.store.pages(reader.id, [1])
    assert (page.first, page.before, page.items) == (4, 3, b"('d', 'e')")
    assert await reader.store.find(reader.id, hash_of("c")) == 2
    assert await reader.store.page_at(reader.id, 5) == 1


async def test_all_items_are_run_again(engine: Engine) -> None:
    """SCAT-25: `only="all"`."""
    before = await ended(engine)
    reader = await redriven(engine, before, "all")
    totals = await reader.store.totals(reader.id)
    assert totals is not None
    assert (totals.succeeded, totals.failed, totals.carried, totals.open) == (0, 1, 1, 2)
    assert await all_results(reader) == {}
    first, second = await reader.take()
    assert (first.done, first.succeeded, second.done, second.failed) == (b"", 0, b"", 1)
    new = Block((0, 1, 2), b"A B C")
    assert await reader.flush(flushed(first, 0, 1, 2, state="done", block=new)) == [0]
    assert await reader.flush(flushed(second, 4, state="done", failed=1)) == [0]
    assert await reader.close()
    assert await all_results(reader) == {0: "A", 1: "B", 2: "C", 4: "4"}


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_what_never_came_to_its_end_is_run_too(engine: Engine, state: str) -> None:
    reader = await redriven(engine, await ended(engine, state))
    first, second = await reader.take()
    assert [place for place in range(3) if not first.done[0] >> place & 1] == [1]
    assert (second.first, second.done.strip(b"\0"), second.failed) == (4, b"", 1)


async def test_the_rest_alone_is_run(engine: Engine) -> None:
    """READ-09: recorded items keep their results, and failures theirs; reading goes on at the cursor."""
    before = await ended(engine, "running")
    reader = await redriven(engine, before, "rest")
    record = await reader.store.scatter(reader.id)
    assert record is not None
    assert (record.sealed, record.cursor, record.pages) == (False, '"1"', 2)
    assert [each.position for each in await reader.store.failures(reader.id)] == [1, 5]
    [chunk] = await reader.take()
    assert (chunk.first, chunk.failed) == (4, 1)
    assert (await reader.add("d", "f", last=True)).duplicates == {0}
    assert await reader.flush(
        flushed(chunk, 4, state="done", failed=1), flushed(reader.chunk(6, 2, 2), 7, state="done")
    ) == [
        0,
        1,
    ]
    assert await reader.close()
    assert await reader.results(0, 1, 2) == {0: "0", 2: "2", 4: "4", 7: "7"}
    was = await before.store.scatter(before.id)
    assert was is not None
    assert (was.state, was.pages, was.read) == ("cancelled", 2, 6), "nobody adds to it any more"


async def test_rows_are_kept_as_well(engine: Engine) -> None:
    reader = await Reader.begin(engine)
    await reader.add("a", "b", last=True)
    one = flushed(
        reader.chunk(0, 2),
        state="done",
        block=Block((0,), b"", ("zero",)),
        succeeded=1,
        failures=(ItemFailed(1, 1, BROKEN),),
        failed=1,
    )
    await reader.flush(one)
    await reader.close()
    await reader.drive.finish()
    again = await redriven(engine, reader)
    [chunk] = await again.take()
    await again.flush(flushed(chunk, state="done", block=Block((1,), b"", ("one",)), succeeded=2))
    assert await again.results() == {0: "zero", 1: "one"}
    assert [block.rows for _, _, block, _ in await again.store.committed(again.id)] == [("zero",), ("one",)]


# -- what is refused --------------------------------------------------------------------------------------------------------


async def test_a_scatter_that_goes_on_is_refused(engine: Engine) -> None:
    """SCAT-25: and nothing of the run is stored."""
    reader = await Reader.begin(engine)
    await reader.add("a", last=True)
    with pytest.raises(ConfigError, match="has not ended"):
        await submit(engine, redrive(reader), run=(run := identifier()))
    assert await engine.store.run(run) is None
    assert await reader.flush(flushed(reader.chunk(0, 1), 0, state="done")) == [0]


async def test_only_one_goes_on_from_a_scatter(engine: Engine) -> None:
    """SCAT-25: also when several ask at once."""
    before = await ended(engine)
    done = await asyncio.gather(*(submit(engine, redrive(before)) for _ in range(4)), return_exceptions=True)
    [kept] = [each for each in done if isinstance(each, Submitted)]
    refused = [each for each in done if isinstance(each, ConfigError)]
    assert {each.run_id for each in refused} == {kept.run.id}
    assert len(refused) == 3
    assert len(await engine.store.runs(pipelines=["sales"], state="queued")) == 1


async def test_an_equal_one_is_joined(engine: Engine) -> None:
    """Two operators press the same button."""
    before = await ended(engine)
    first = await submit(engine, redrive(before), request="again")
    second = await submit(engine, redrive(before), request="again")
    assert (first.created, second.created, second.run.id) == (True, False, first.run.id)
    assert len(await engine.store.scatters.of_run(first.run.id)) == 1


async def test_without_anything_to_run_it_is_refused(engine: Engine) -> None:
    reader = await Reader.begin(engine)
    await reader.add("a", "b", last=True, failed=(ItemFailed(1, 0, failure("no")),))
    await reader.flush(flushed(reader.chunk(0, 2), 0, state="done", failed=1))
    await reader.close()
    await reader.drive.finish()
    with pytest.raises(ConfigError, match="1 failed items of the scatter cannot be run"):
        await submit(engine, redrive(reader))
    assert (await redriven(engine, reader, "all")).id


async def test_what_is_gone_is_refused_or_begun_anew(engine: Engine) -> None:
    before = await ended(engine)
    await engine.store.scatters.delete([before.id])
    with pytest.raises(ConfigError, match="not in the store any more"):
        await submit(engine, redrive(before))
    stored = await submit(engine, redrive(before, required=False))
    assert stored.created
    assert await engine.store.scatters.of_run(stored.run.id) == ()


async def test_a_redrive_is_on_record(engine: Engine) -> None:
    """AUD-01, AUD-02: with it, and not without."""
    before = await ended(engine)
    await submit(engine, redrive(before))
    with pytest.raises(ConfigError):
        await submit(engine, redrive(before))
    acts = [entry.action for _, _, entry in await engine.store.audit() if entry.actor_kind == "process"]
    assert sorted(acts) == ["run.submitted", "scatter.redriven"]


# -- afterwards ---------------------------------------------------------------------------------------------------------------


async def test_a_run_that_is_cancelled_in_the_queue_ends_it(engine: Engine) -> None:
    """And what it would have run can be run by another that goes on from it."""
    before = await ended(engine)
    stored = await submit(engine, asked := redrive(before))
    await engine.store.cancel(stored.run.id, (), ())
    totals = await engine.store.scatters.totals(asked.id)
    assert totals is not None
    assert (totals.state, totals.open) == ("cancelled", 0)
    with pytest.raises(ConfigError, match="was redriven already"):
        await submit(engine, redrive(before))
    again = await begun(engine, await submit(engine, replace(asked, origin=asked.id, id=identifier())))
    [chunk] = await again.take()
    await again.flush(flushed(chunk, 1, state="done", succeeded=3))
    assert await again.close()
    assert await all_results(again) == {0: "0", 1: "1", 2: "2", 4: "4"}


async def test_a_worker_that_dies_leaves_it_to_the_next(stores: Stores) -> None:
    one, other = await stores.engine(), await stores.engine()
    before = await ended(one)
    reader = await redriven(one, before)
    [chunk] = await reader.take()
    await stores.kill(one)
    [run] = await other.store.take_orphans(other.worker.id, ["sales"], limit=1)
    successor = await Reader.begin(other, Drive(other.store, run))
    assert successor.id == reader.id
    [again] = await successor.take()
    assert again == replace(chunk, fence=chunk.fence + 1, lost=1)
    assert await one.store.scatters.flush([flushed(chunk, 1, state="done", succeeded=3)], one.worker.id) == frozenset()
    assert await successor.flush(flushed(again, 1, state="done", succeeded=3)) == [0]
    assert await all_results(successor) == {0: "0", 1: "1", 2: "2", 4: "4"}


@pytest.mark.parametrize("first", ["before", "after"])
async def test_what_two_share_stays_until_both_are_deleted(engine: Engine, first: str) -> None:
    before = await ended(engine)
    after = await redriven(engine, before)
    [chunk] = await after.take()
    await after.flush(flushed(chunk, 1, state="done", succeeded=3))
    await after.close()
    gone, left = (before, after) if first == "before" else (after, before)
    await engine.store.scatters.delete([gone.id])
    assert await engine.store.scatters.scatter(gone.id) is None
    kept = {0: "0", 2: "2", 4: "4"}
    assert await all_results(left) == (kept if first == "after" else {**kept, 1: "1"})
    assert [page.no for page in await left.store.pages(left.id, [0, 1])] == [0, 1]
    assert await left.store.find(left.id, hash_of("c")) == 2
    await engine.store.scatters.delete([left.id])
    for each in (before, after):
        assert await all_results(each) == {}
        assert await each.store.pages(each.id, [0]) == ()
        assert await each.store.find(each.id, hash_of("c")) is None


async def test_what_only_a_deleted_one_had_read_is_read_again(engine: Engine) -> None:
    """No item is taken for a duplicate of one that went with its scatter."""
    before = await ended(engine, "running")
    after = await redriven(engine, before, "rest")
    await after.add("new", last=True)
    await engine.store.cancel(after.drive.id, (), ())
    await engine.store.scatters.delete([after.id])
    again = await redriven(engine, before, "rest")
    added = await again.add("new", last=True)
    assert (added.first, added.before, added.duplicates) == (6, 5, frozenset())


async def test_records_hold_together(engine: Engine) -> None:
    """`doctor --verify`: at every point of a redrive."""
    before = await ended(engine)
    assert await faults(engine) == []
    after = await redriven(engine, before)
    assert await faults(engine) == []
    [chunk] = await after.take()
    late = (ItemFailed(1, 3, BROKEN),)
    one = Flush(chunk, 0, "done", b"", 2, 1, failures=late)
    assert await after.flush(one) == [0]
    assert await after.close()
    third = await redriven_again(engine, after)
    await engine.store.scatters.delete([before.id])
    assert await faults(engine) == []
    await engine.store.scatters.delete([after.id])
    assert await faults(engine) == []
    assert await all_results(third) == {0: "0", 1: "1", 2: "2", 4: "4"}


async def faults(engine: Engine) -> list[str]:
    """Return what is wrong with scatters; runs of these tests tell of nothing."""
    return [each.problem for each in await engine.store.verify() if each.problem.startswith("scatter")]


async def redriven_again(engine: Engine, reader: Reader) -> Reader:
    assert (await reader.drive.finish("failed")).accepted
    again = await redriven(engine, reader)
    taken: tuple[Chunk, ...] = await again.take()
    await again.flush(flushed(taken[0], 1, state="done", succeeded=3))
    assert await again.close()
    return again


async def test_another_key_s_scatter_is_its_own(engine: Engine) -> None:
    """A redrive is of one scatter: what else the run had stays with it."""
    drive = await engine.start(NUMBERS)
    one = await Reader.begin(engine, drive)
    await one.add("a", last=True)
    await drive.finish("failed")
    reader = await redriven(engine, one)
    assert len(await engine.store.scatters.of_run(drive.id)) == 1
    assert [each.id for each in await engine.store.scatters.of_run(reader.drive.id)] == [reader.id]
