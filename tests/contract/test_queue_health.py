"""How the queue and the workers are, as people and probes ask (CFG-07)."""

from __future__ import annotations

from tests.contract.builders import key
from tests.contract.stores import Stores


async def test_runs_that_have_not_ended_are_counted_for_the_pipelines_asked_for(stores: Stores) -> None:
    engine, looking = await stores.engine("sales", "shop"), await stores.engine(lease=None)
    store = looking.store
    assert await store.queue(["sales", "shop"]) == (0, None, 0)

    drive, other = await engine.start(key()), await engine.start(pipeline="shop")

    assert await store.queue(["sales"]) == (0, None, 1)
    assert await store.queue(["sales", "shop", "sales"]) == (0, None, 2)
    assert await store.queue([]) == (0, None, 0)
    await drive.finish()
    await other.finish("failed")
    assert await store.queue(["sales", "shop"]) == (0, None, 0)


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
