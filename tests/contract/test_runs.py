"""Runs: what is stored of one, and how they are listed."""

from __future__ import annotations

from collections.abc import Mapping

from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Advance, RunDone
from tests.contract.builders import failure, identifier, replace, run_record
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores


async def listed(store: Store, *, limit: int = 50, **wanted: object) -> list[str]:
    """Read a listing page by page."""
    asked: Mapping[str, object] = {"pipelines": ["sales"], **wanted}
    read: list[str] = []
    while page := await store.runs(**asked, limit=limit, after=read[-1] if read else None):  # type: ignore[arg-type]
        assert len(page) <= limit
        read.extend(run.id for run in page)
    return read


async def test_a_run_comes_back_as_it_was_stored(engine: Engine) -> None:
    record = run_record(
        engine.worker.id,
        targets=("total", "numbers"),
        partition="t:WyJkOjIwMjUtMDEtMTUiLCJ1cyJd",
        options={"force": ["a", "b"], "timeout": 12.5, "nested": {"none": None, "yes": True}, "big": 2**53 + 1},
        params='{"limit": 3, "name": "x"}',
        continuable=False,
    )
    answer = await engine.store.advance(Advance(run_id=record.id, fence=1, create=record))
    stored = replace(record, created_at=answer.at)
    assert await engine.store.run(record.id) == stored
    assert await engine.store.runs(pipelines=["sales"]) == (stored,)

    error = failure("it broke", details={"rows": 3}, hint="mend it", traceback_text="Traceback", cause="KeyError: 1")
    end = await engine.store.advance(Advance(run_id=record.id, fence=1, finish=RunDone(state="failed", error=error)))

    ended = await engine.store.run(record.id)
    assert ended == replace(stored, state="failed", finished_at=end.at, error=error, worker=ended and ended.worker)


async def test_a_queued_run_is_stored_without_a_worker(store: Store) -> None:
    record = run_record(None, state="queued")

    answer = await store.advance(Advance(run_id=record.id, fence=1, create=record))

    assert await store.run(record.id) == replace(record, created_at=answer.at)


async def test_runs_are_listed_newest_first_in_pages(engine: Engine, clock: SetClock) -> None:
    drives = []
    for _ in range(11):
        drives.append(await engine.start())
        clock.advance(1)
    await drives[3].finish()

    for limit in (1, 4, 50):
        assert await listed(engine.store, limit=limit) == [drive.id for drive in reversed(drives)]
    assert len(await engine.store.runs(pipelines=["sales"], limit=3)) == 3


async def test_runs_are_listed_by_state(engine: Engine) -> None:
    running, succeeded, failed, cancelled = [await engine.start() for _ in range(4)]
    await succeeded.finish()
    await failed.finish("failed")
    await engine.store.cancel(cancelled.id, (), ())
    queued = run_record(None, state="queued")
    await engine.store.advance(Advance(run_id=queued.id, fence=1, create=queued))

    by_state = {
        state: await listed(engine.store, state=state, limit=1)
        for state in ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
    }

    assert by_state == {
        "queued": [queued.id],
        "running": [running.id],
        "waiting": [],
        "succeeded": [succeeded.id],
        "failed": [failed.id],
        "cancelled": [cancelled.id],
    }


async def test_runs_are_listed_by_target_and_pipeline(stores: Stores) -> None:
    engine = await stores.engine("sales", "other")
    numbers = await engine.start(targets=("numbers",))
    both = await engine.start(targets=("numbers", "total"))
    await engine.start(targets=("numbers2",))
    other = await engine.start(targets=("numbers",), pipeline="other")

    assert await listed(engine.store, asset="numbers", limit=1) == [both.id, numbers.id]
    assert await listed(engine.store, asset="total") == [both.id]
    assert await listed(engine.store, asset="nothing") == []
    assert await listed(engine.store, pipelines=["other"]) == [other.id]
    assert await listed(engine.store, pipelines=["sales", "other"], asset="numbers") == [other.id, both.id, numbers.id]
    assert await listed(engine.store, pipelines=[]) == []


async def test_a_page_behind_a_run_that_nobody_knows_holds_no_newer_one(engine: Engine) -> None:
    before = identifier()
    await engine.start()

    assert await engine.store.runs(pipelines=["sales"], after=before) == ()


async def test_runs_of_an_asset_among_many(engine: Engine, clock: SetClock) -> None:
    """WEB-05: alone and with others, whether or not the list of targets is long, by state and in pages."""
    long = tuple(f"asset number {number:03}" for number in range(40))
    targets = [("a",), ("b",), ("ab",), ("a", "b"), long, ("b", *long), (*long[:-1], "a"), ('quoted"a"',), ("a",)]
    drives = []
    for names in targets:
        drives.append(await engine.start(targets=names))
        clock.advance(1)
    await drives[0].finish()

    for asset in ("a", "b", "ab", "asset number 000", "asset number 039", "never", 'quoted"a"'):
        wanted = [drive.id for drive, names in zip(drives, targets, strict=True) if asset in names][::-1]
        for limit in (1, 3, 50):
            assert await listed(engine.store, asset=asset, limit=limit) == wanted
        done = [drives[0].id] if drives[0].id in wanted else []
        assert await listed(engine.store, asset=asset, state="succeeded") == done
    assert await listed(engine.store, pipelines=["other", "sales", "sales"], asset="ab") == [drives[2].id]
