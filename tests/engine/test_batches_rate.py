"""How often batches begin, each key by itself: memory and Postgres (RATE-08, BATCH-07, BATCH-08, SCAT-08, TEST-03)."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import pytest

from flowstone_async import Batch, Batching, Context, Gathered, Pipeline, Rate, Retry
from flowstone_async.clock import ManualClock
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.rates import Begun, at_rest, cancel, ended, gone_on_with, passing
from tests.support.scatters import RARELY, kept
from tests.unit.limits.windows import most_in_any_window


class Url(NamedTuple):
    """What a batch has, of one host."""

    host: str
    no: int


def urls(*hosts: tuple[str, int]) -> list[Url]:
    return [Url(host, no) for host, count in hosts for no in range(count)]


def host(batch: Batch[Url]) -> str:
    return batch[0].host


BY_HOST: Any = Batching(max_items=2, group_by=lambda url: url.host)


async def test_batches_of_a_saturated_key_hold_back_no_other(open_engine: OpenEngine):
    """RATE-08, BATCH-07: they take no place of max_concurrent, and each batch is one permit of its key."""
    pipe, clock = Pipeline("keyed"), ManualClock()
    begun = Begun(clock)

    @pipe.scatter(
        urls(("slow", 20), ("b", 3), ("c", 1)),
        batch=BY_HOST,
        rate=Rate(2, per="1m", key=host),
        max_concurrent=1,
        page_size=30,
    )
    async def fetched(batch: Batch[Url]) -> int:
        assert {url.host for url in batch} == {host(batch)}
        begun(host(batch))
        await asyncio.sleep(0)
        return len(batch)

    engine = await open_engine(pipe, clock=clock, **RARELY)
    running = asyncio.create_task(engine.run(fetched, timeout=False))
    await kept(engine, 5)
    await at_rest(engine)
    assert begun.counts == {"slow": 2, "b": 2, "c": 1}
    found = await ended(engine, running, 20)
    assert (found.total, found.succeeded) == (13, 13)
    assert begun.counts == {"slow": 10, "b": 2, "c": 1}
    assert most_in_any_window(begun.at["slow"], 60) == 2


async def test_what_the_function_receives_is_what_the_body_does(open_engine: OpenEngine):
    """RATE-08, BATCH-06: items, number, keys and what is shared, on every attempt, also of what left its batch."""
    pipe, asked, given = Pipeline("keyed"), dict[tuple[int, ...], Any](), dict[tuple[int, ...], Any]()
    calls = Counter[int]()

    def described(batch: Batch[int]) -> Any:
        return tuple(batch), batch.number, batch.keys, batch.shared

    def key(batch: Batch[int]) -> int:
        assert asked.setdefault(tuple(batch), described(batch)) == described(batch)
        return batch.number % 2

    @pipe.scatter(
        range(10),
        batch=Batching(max_items=3, shared=lambda: {"a": 1}),
        key=lambda no: (f"k{no}", no),
        rate=Rate(100, key=key),
        retry=Retry(3, backoff="none"),
        page_size=4,
    )
    async def items(batch: Batch[int], ctx: Context) -> int:
        given[tuple(batch)] = described(batch)
        assert batch.keys == ctx.item.key
        calls[batch.number] += 1
        if batch.number == 0 and calls[0] == 1:
            raise ConnectionError("gone")
        if len(batch) > 1 and 4 in batch:
            raise batch.failed({1: ConnectionError("gone")}, value=0)
        return len(batch)

    engine = await open_engine(pipe)
    assert (await soon(engine.run(items))).total == 5
    assert asked == given
    assert given[4,][2:] == ((("k4", 4),), {"a": 1})


async def test_retries_and_what_leaves_its_batch_wait_in_the_line_of_their_own_key(open_engine: OpenEngine):
    """RATE-08, BATCH-08, SCAT-08: each attempt at a batch takes a permit of the key that this batch has."""
    pipe, clock = Pipeline("keyed"), ManualClock()
    begun, attempts = Begun(clock), Counter[str]()

    def first(batch: Batch[str]) -> str:
        return batch[0]

    @pipe.scatter(
        ["a", "b", "c", "d"],
        batch=Batching(max_items=2),
        rate=Rate(1, per="10s", key=first),
        retry=Retry(3, backoff="none"),
    )
    async def items(batch: Batch[str]) -> int:
        begun(first(batch))
        attempts[first(batch)] += 1
        if len(batch) == 2 and "b" in batch:
            raise batch.failed({1: ConnectionError("gone")}, value=1)  # as "b", which nobody has asked for yet
        if "c" in batch and attempts["c"] < 3:
            raise ConnectionError("gone")
        return len(batch)

    engine = await open_engine(pipe, clock=clock, **RARELY)
    running = asyncio.create_task(engine.run(items, timeout=False))
    await kept(engine, 1)
    await passing(clock, engine, 1)
    assert begun.counts == {"a": 1, "b": 1, "c": 1}
    assert (await ended(engine, running, 5)).succeeded == 3
    assert begun.counts == {"a": 1, "b": 1, "c": 3}
    assert most_in_any_window(begun.at["c"], 10) == 1


async def test_a_batch_whose_key_cannot_be_told_fails_alone(open_engine: OpenEngine):
    """RATE-08: also one that left its batch; it is not tried again, and the attempts before count."""
    pipe, called = Pipeline("keyed"), list[tuple[int, ...]]()

    def key(batch: Batch[int]) -> object:
        if 2 in batch or tuple(batch) == (5,):
            raise LookupError(f"no key for {batch[0]}")
        return object() if 6 in batch else "one"

    @pipe.scatter(
        range(8),
        batch=Batching(max_items=2),
        rate=Rate(100, key=key),
        tolerate=0.75,
        retry=Retry(3, backoff="none"),
    )
    async def items(batch: Batch[int]) -> int:
        called.append(tuple(batch))
        if 5 in batch:
            raise batch.failed({1: ConnectionError("gone")}, value=4)
        return len(batch)

    engine = await open_engine(pipe)
    run = await engine.submit(items)
    found = await soon(run)
    failures = [each async for each in found.failures()]
    assert [(tuple(each.item), each.attempts) for each in failures] == [((2, 3), 1), ((6, 7), 1), ((5,), 2)]
    assert "LookupError: no key for 2" in failures[0].message
    assert "the key is object" in failures[1].message
    assert sorted(called) == [(0, 1), (4, 5)]
    counts = (await run.status()).scatter
    assert counts is not None
    assert (counts.total, counts.done, counts.failed) == (5, 2, 3)


async def test_the_function_takes_dependencies(open_engine: OpenEngine):
    """RATE-08: as that of items does."""
    pipe, clock = Pipeline("keyed"), ManualClock()
    begun = Begun(clock)

    @pipe.asset
    async def tenants() -> dict[str, str]:
        return {"x": "one", "y": "one", "z": "two"}

    def tenant(batch: Batch[str], tenants: dict[str, str]) -> str:
        return tenants[batch[0]]

    @pipe.scatter(["x", "y", "z"], batch=Batching(max_items=1), rate=Rate(1, per="1h", key=tenant), max_concurrent=1)
    async def items(batch: Batch[str]) -> str:
        begun(batch[0])
        return batch[0]

    engine = await open_engine(pipe, clock=clock, **RARELY)
    run = await engine.submit(items)
    await kept(engine, 2)
    await at_rest(engine)
    assert begun.counts == {"x": 1, "z": 1}
    await cancel(run)


async def test_a_rate_of_batches_holds_across_a_crash_while_they_wait(open_engine: OpenEngine):
    """RATE-08, RATE-06, BATCH-07: whoever goes on asks the same keys, of the same batches, and calls none again."""
    pipe, clock = Pipeline("keyed"), ManualClock()
    begun, seen = Begun(clock), defaultdict[int, set[tuple[Url, ...]]](set)

    def keyed(batch: Batch[Url]) -> str:
        seen[batch.number].add(tuple(batch))
        return host(batch)

    @pipe.scatter(
        urls(("a", 10), ("b", 8)),
        batch=BY_HOST,
        rate=Rate(2, per="10s", key=keyed),
        page_size=5,
        retry=Retry(2, backoff="none"),
    )
    async def fetched(batch: Batch[Url]) -> int:
        begun(host(batch))
        if len(batch) == 2 and batch[1].no == 1:
            raise batch.failed({1: ConnectionError("gone")}, value=1)
        return len(batch)

    @fetched.gather
    async def total(results: Gathered[int]) -> int:
        return sum([value async for value in results])

    assert await gone_on_with(open_engine, pipe, clock, total, lambda: begun.counts == {"a": 2, "b": 2}) == 18
    assert begun.counts == {"a": 6, "b": 5}, "no batch was called twice; one item of each host left its batch"
    assert {most_in_any_window(times, 10) for times in begun.at.values()} == {2}
    assert {len(each) for each in seen.values()} == {1}


@pytest.mark.parametrize("wait", [False, "30s"])
@pytest.mark.parametrize("key", [None, lambda batch: batch[0] % 2], ids=["one line", "keyed"])
async def test_time_passes_for_batches_that_wait_in_a_test(wait: Any, key: Any):
    """TEST-03: for a permit, for their next attempt, and behind a full read-ahead, while the source is open."""
    pipe, tries, seen = Pipeline("tested"), Counter[int](), list[int]()

    @pipe.scatter(
        range(60),
        batch=Batching(max_items=2, max_wait=wait),
        rate=Rate(2, per="1h", key=key),
        page_size=4,
        max_concurrent=2,
    )
    async def items(batch: Batch[int]) -> int:
        tries[batch[0]] += 1
        if batch[0] % 20 == 0 and tries[batch[0]] == 1:
            raise ConnectionError("gone")
        seen.extend(batch)
        return len(batch)

    async with pipe.test() as t:
        found = await soon(t.run(items))
        assert found.succeeded == found.total
        assert sorted(seen) == list(range(60))
        assert tries.total() == found.total + 3
        assert t.clock.monotonic() > 6 * 3600
