"""How the queue and the workers are, as people and probes ask (CFG-07)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Submission
from tests.contract.builders import key, run_record
from tests.contract.clock import SetClock
from tests.contract.stores import Stores


async def submit(store: Store, **changes: Any) -> None:
    await store.submit(Submission(run=run_record(state="queued", submitted=True, **changes), subject=""))


async def test_runs_that_have_not_ended_are_counted_for_the_pipelines_asked_for(stores: Stores) -> None:
    engine, looking = await stores.engine("sales", "shop"), await stores.engine(lease=None)
    store = looking.store
    assert await store.queue(["sales", "shop"]) == (0, 0, None, 0, 0)

    drive, other = await engine.start(key()), await engine.start(pipeline="shop")

    assert await store.queue(["sales"]) == (0, 0, None, 1, 0)
    assert await store.queue(["sales", "shop", "sales"]) == (0, 0, None, 2, 0)
    assert await store.queue([]) == (0, 0, None, 0, 0)
    await drive.finish()
    await other.finish("failed")
    assert await store.queue(["sales", "shop"]) == (0, 0, None, 0, 0)


async def test_a_run_is_as_old_as_the_instant_from_which_it_may_start(stores: Stores, clock: SetClock) -> None:
    engine = await stores.engine("sales", "shop")
    store, begun = engine.store, clock.now()
    await submit(store, at=begun + timedelta(seconds=10))
    assert await store.queue(["sales"]) == (0, 1, None, 0, 0)

    clock.advance(15)

    assert await store.queue(["sales"]) == (1, 0, begun + timedelta(seconds=10), 0, 0)
    await submit(store, priority=3, at=begun)
    await submit(store, pipeline="shop")
    assert await store.queue(["sales"]) == (2, 0, begun + timedelta(seconds=10), 0, 0)
    assert await store.queue(["shop"]) == (1, 0, begun + timedelta(seconds=15), 0, 0)
    await store.claim(engine.worker.id, ["sales"], limit=1)
    assert await store.queue(["sales", "shop"]) == (2, 0, begun + timedelta(seconds=15), 1, 0)


async def test_workers_are_those_that_live(stores: Stores) -> None:
    first, second, looking = (
        await stores.engine("sales", "shop"),
        await stores.engine(),
        await stores.engine(lease=None),
    )

    one, two = await looking.store.workers()

    assert (one.worker, two.worker) == (first.worker, second.worker)
    assert one.started_at <= two.started_at
    assert one.lease is None or 0 < one.lease <= 30
    await stores.kill(first)
    assert [each.worker for each in await looking.store.workers()] == [second.worker]
    await second.store.close()
    assert await looking.store.workers() == ()
