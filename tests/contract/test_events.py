"""Events: in order and without gaps, of one run and across runs (EVT-05)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Advance, EventRecord, StoredEvent
from tests.contract.builders import Drive, act, event, identifier, key
from tests.contract.stores import Engine, Stores


async def pages(store: Store, run_id: str, limit: int) -> list[tuple[EventRecord, ...]]:
    """Read a run's events page by page, each behind the last number of the one before."""
    read: list[tuple[EventRecord, ...]] = []
    while page := await store.events(run_id, after=read[-1][-1].no if read else 0, limit=limit):
        read.append(page)
    return read


async def all_pages(store: Store, limit: int, *pipelines: str) -> list[StoredEvent]:
    """Read all events page by page, each behind the last cursor of the one before."""
    read: list[StoredEvent] = []
    while page := await store.all_events(pipelines=pipelines, after=read[-1].cursor if read else 0, limit=limit):
        read.extend(page)
    return read


async def test_events_come_back_as_they_were_given(engine: Engine) -> None:
    drive = await engine.start()
    moment = datetime(2025, 3, 30, 1, 59, 59, 999999, tzinfo=UTC)
    body = {"seconds": 0.125, "nested": {"none": None, "list": [1, 2.5, "three", False]}, "empty": {}, "big": 2**60}
    told = EventRecord(2, "asset.finished", moment, body)

    await engine.store.advance(Advance(run_id=drive.id, fence=1, events=(told,)))

    assert await engine.store.events(drive.id, after=1) == (told,)


async def test_events_are_numbered_without_gaps_over_all_steps(engine: Engine) -> None:
    drive = await engine.start()
    for count in (0, 1, 3, 0, 2):
        await drive.advance(*["asset.started"] * count)

    assert [told.no for told in await engine.store.events(drive.id)] == [1, 2, 3, 4, 5, 6, 7]


async def test_events_are_read_in_pages_that_neither_overlap_nor_skip(engine: Engine) -> None:
    drive = await engine.start()
    for count in (3, 7, 1, 13):
        await drive.advance(*[f"step.{count}"] * count)

    for limit in (1, 4, 10, 1000):
        read = await pages(engine.store, drive.id, limit)
        assert [told.no for page in read for told in page] == list(range(1, 26))
        assert all(len(page) < limit + 13 for page in read)  # about: a store may give out whole steps


async def test_a_reader_goes_on_from_its_cursor_when_more_has_happened(engine: Engine) -> None:
    drive = await engine.start()
    [first] = await engine.store.events(drive.id)
    assert await engine.store.events(drive.id, after=first.no) == ()

    await drive.advance("asset.started")

    assert [told.type for told in await engine.store.events(drive.id, after=first.no)] == ["asset.started"]


async def test_a_run_that_is_unknown_has_no_events(store: Store) -> None:
    assert await store.events(identifier()) == ()


async def test_events_of_all_runs_are_in_order_of_commit(engine: Engine) -> None:
    first, second = await engine.start(), await engine.start()
    await first.advance("asset.started", "asset.finished")
    await second.advance("asset.started")
    await first.finish()

    read = await engine.store.all_events(pipelines=["sales"])

    assert [(stored.run_id, stored.event.no, stored.event.type) for stored in read] == [
        (first.id, 1, "run.started"),
        (second.id, 1, "run.started"),
        (first.id, 2, "asset.started"),
        (first.id, 3, "asset.finished"),
        (second.id, 2, "asset.started"),
        (first.id, 4, "run.finished"),
    ]
    assert {stored.pipeline for stored in read} == {"sales"}
    cursors = [stored.cursor for stored in read]
    assert cursors == sorted(set(cursors))


async def test_events_of_all_runs_are_read_in_pages_that_neither_overlap_nor_skip(engine: Engine) -> None:
    drives = [await engine.start() for _ in range(3)]
    for no in range(12):
        await drives[no % 3].advance(*["asset.started"] * (no % 4))
    whole = await engine.store.all_events(pipelines=["sales"])

    for limit in (1, 5, 1000):
        assert tuple(await all_pages(engine.store, limit, "sales")) == whole
    assert await engine.store.all_events(pipelines=["sales"], after=whole[-1].cursor) == ()


async def test_events_of_all_runs_are_those_of_the_pipelines_asked_for(stores: Stores) -> None:
    engine = await stores.engine("sales", "other")
    ours, theirs = await engine.start(), await engine.start(pipeline="other")
    await ours.finish()

    async def runs_of(*pipelines: str) -> list[str]:
        return [stored.run_id for stored in await all_pages(engine.store, 1, *pipelines)]

    assert await runs_of("sales") == [ours.id, ours.id]
    assert await runs_of("other") == [theirs.id]
    assert await runs_of("sales", "other") == [ours.id, theirs.id, ours.id]
    assert await runs_of("nothing") == []
    assert await runs_of() == []


async def test_no_later_commit_fills_up_what_a_reader_has_passed(stores: Stores) -> None:
    engines = [await stores.engine() for _ in range(3)]
    drives = [await engines[no % 3].start() for no in range(9)]

    async def tell(drive: Drive) -> None:
        for _ in range(10):
            await drive.advance("asset.started", "asset.finished", claims=(key("numbers", drive.id),))
        await drive.finish()

    async def follow(store: Store) -> list[StoredEvent]:
        read: list[StoredEvent] = []
        while sum(stored.event.type == "run.finished" for stored in read) < len(drives):
            page = await store.all_events(pipelines=["sales"], after=read[-1].cursor if read else 0, limit=7)
            read.extend(page)
            await asyncio.sleep(0)
        return read

    async with asyncio.timeout(60):
        following = asyncio.create_task(follow(engines[0].store))
        await asyncio.gather(*map(tell, drives))
        read = await following

    assert tuple(read) == await engines[1].store.all_events(pipelines=["sales"])
    for drive in drives:
        assert [stored.event.no for stored in read if stored.run_id == drive.id] == list(range(1, 23))


async def test_events_of_a_step_are_committed_with_what_they_tell(stores: Stores) -> None:
    """Whoever sees the event sees the state, and the other way round."""
    owner, reader = await stores.engine(), await stores.engine()
    name = key("numbers")
    drive = await owner.start(name)

    async def look() -> None:
        seen = False
        while not seen:
            told = await reader.store.events(drive.id)
            seen = told[-1].type == "run.finished"
            run = await reader.store.run(drive.id)
            assert run is not None
            assert not seen or run.state == "succeeded"
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(look(), drive.finish(audit=(act(),)))
    assert await owner.store.events(drive.id, after=1) == (event(2, "run.finished"),)
