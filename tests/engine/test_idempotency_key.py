"""What a body gives to services that must not act twice: FLOW-03 over attempts, crashes, runs and partitions."""

from __future__ import annotations

from typing import Any

from flowstone_async import Context, Keys, Pipeline, Retry
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon

RARELY: Any = {"poll": "60s"}


async def test_it_is_the_same_on_every_attempt_and_after_a_crash(open_engine: OpenEngine):
    """FLOW-03, JOB-09: a retry, and the engine that continues the run, give the same key."""
    pipe = Pipeline("shop")
    keys: list[str] = []
    gate = Gate()

    @pipe.asset(retry=Retry(3, backoff="none"))
    async def charged(ctx: Context) -> str:
        keys.append(ctx.idempotency_key)
        if ctx.attempt == 1:
            raise ConnectionError("again")
        await gate()
        return ctx.idempotency_key

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    run = await dying.submit(charged)
    await gate.reached()
    await kill(dying)
    gate.open()
    await look_for_orphans(living)
    assert await soon((await living.find(run.id)).result()) == keys[0]
    assert keys == [keys[0]] * 3


async def test_it_differs_for_each_run_asset_and_partition(open_verbs: OpenVerbs):
    """FLOW-03: also for the same asset and partition once more, and for one whose name is as long."""
    pipe = Pipeline("shop")
    countries = Keys("de", "fr")

    @pipe.asset(partitions=countries)
    async def charged(ctx: Context) -> str:
        return ctx.idempotency_key

    @pipe.asset(partitions=countries)
    async def shipped(charged: str, ctx: Context) -> str:
        return ctx.idempotency_key

    @pipe.asset
    async def told(ctx: Context) -> str:
        return ctx.idempotency_key

    verbs = await open_verbs(pipe)
    keys = [await verbs.run(told), await verbs.run(told, force=True)]
    for country in ("de", "fr"):
        keys += await verbs.run(charged, shipped, partition=country)
    keys += [await verbs.run(charged, partition="de", force=True)]
    assert len(set(keys)) == len(keys) == 7


async def test_a_retried_run_has_another(open_engine: OpenEngine):
    """`engine.retry` makes another run; what must be done once for longer has a key of its own."""
    pipe = Pipeline("shop")
    keys: list[str] = []

    @pipe.asset
    async def charged(ctx: Context) -> int:
        keys.append(ctx.idempotency_key)
        if len(keys) == 1:
            raise ConnectionError("down")
        return 1

    engine = await open_engine(pipe)
    failed = await soon((await engine.submit(charged)).report())
    assert failed[charged].state == "failed"
    assert await soon((await engine.retry(failed.run_id)).result()) == 1
    assert keys[0] != keys[1]


async def test_a_condition_is_given_the_key_of_its_body(open_verbs: OpenVerbs):
    """FLOW-04: it can ask the service whether that was done already."""
    pipe = Pipeline("shop")
    asked: list[str] = []

    def is_open(ctx: Context) -> bool:
        asked.append(ctx.idempotency_key)
        return True

    @pipe.asset(when=is_open)
    async def charged(ctx: Context) -> str:
        return ctx.idempotency_key

    assert [await (await open_verbs(pipe)).run(charged)] == asked
