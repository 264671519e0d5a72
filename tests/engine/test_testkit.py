"""The test kit: TEST-01..03."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from flowstone_async import (
    AssetEvent,
    AssetNotFound,
    AssetRetrying,
    AssetSucceeded,
    Cache,
    ConfigError,
    Context,
    ExecutionError,
    Keys,
    NotMaterialized,
    Pipeline,
    Retry,
    RunEvent,
    RunFinished,
    RunStarted,
    TimedOut,
    dep,
)
from flowstone_async.clock import settle
from tests.support.gate import Gate, soon


class _Chain:
    """`raw`, `doubled`, `total`."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("chain")

        @pipe.asset
        async def raw() -> list[int]:
            return [10]

        @pipe.asset
        async def doubled(raw: list[int]) -> list[int]:
            return [each * 2 for each in raw]

        @pipe.asset
        async def total(numbers: list[int] = dep(doubled)) -> int:
            return sum(numbers)

        self.raw, self.doubled, self.total = raw, doubled, total


# -- a world of its own (TEST-01) -----------------------------------------------------------------------------------


async def test_values_in_place_of_assets():
    """TEST-01: by handle or by name; the assets they stand for are not called."""
    chain = _Chain()
    async with chain.pipe.test(values={chain.raw: [1, 2]}) as t:
        assert await t.run(chain.total) == 6
        assert t.calls(chain.raw) == 0
    async with chain.pipe.test(values={"doubled": [5]}) as t:
        assert await t.run("total") == 5


async def test_nothing_is_shared_with_the_pipeline():
    """TEST-01: neither what it has stored nor what the test stores."""
    chain = _Chain()
    async with chain.pipe.test() as t:
        assert await t.run(chain.total) == 20
        await t.assert_stored(chain.total)
        assert not await chain.pipe.exists(chain.total)
    await chain.pipe.run(chain.total)
    async with chain.pipe.test() as t:
        await t.assert_not_stored(chain.total)


async def test_tests_of_one_pipeline_run_in_parallel():
    """TEST-01: in one loop, each with its own values, clock and counts."""
    chain = _Chain()

    async def one(number: int) -> tuple[int, int, object]:
        async with chain.pipe.test(values={chain.raw: [number]}) as t:
            await t.advance(hours=number)
            return await t.run(chain.total), t.calls(chain.total), t.clock.now()

    found = await asyncio.gather(*(one(number) for number in range(5)))
    assert [value for value, _, _ in found] == [0, 2, 4, 6, 8]
    assert {calls for _, calls, _ in found} == {1}
    assert len({now for _, _, now in found}) == 5


def test_tests_of_one_pipeline_run_in_other_loops():
    """TEST-01: side by side in threads."""
    chain, found = _Chain(), dict[int, int]()
    barrier = threading.Barrier(3)

    async def one(number: int) -> None:
        async with chain.pipe.test(values={chain.raw: [number]}) as t:
            barrier.wait(20)
            found[number] = await t.run(chain.total)

    threads = [threading.Thread(target=asyncio.run, args=(one(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == {0: 0, 1: 2, 2: 4}


async def test_params_of_the_test():
    """TEST-01: for runs that give none."""
    from dataclasses import dataclass

    @dataclass
    class Settings:
        limit: int = 1

    pipe = Pipeline("params", params=Settings)

    @pipe.asset
    async def target(params: Settings) -> int:
        return params.limit

    async with pipe.test(params=Settings(limit=5)) as t:
        assert await t.run(target) == 5
        assert await t.run(target, params={"limit": 6}) == 6
    async with pipe.test(params={"limit": 7}) as t:
        assert await t.run(target) == 7


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"raw": "text"}, ConfigError, "asset 'raw' produces list\\[int\\]"),
        ({"total": None}, ConfigError, "asset 'total' produces int"),
        ({"roar": [1]}, AssetNotFound, "raw"),
        ({7: [1]}, ConfigError, "not an asset"),
    ],
)
async def test_a_value_that_does_not_fit_is_refused(values: dict[Any, object], error: type[Exception], text: str):
    """TEST-01: of the wrong type, or for an unknown asset; for the test and for one call."""
    chain = _Chain()
    with pytest.raises(error, match=text):
        async with chain.pipe.test(values=values):
            pass
    async with chain.pipe.test() as t:
        with pytest.raises(error, match=text):
            await t.run(chain.total, values=values)
        assert t.events(RunEvent) == []


async def test_a_handle_of_another_pipeline_is_refused():
    """TEST-01."""
    chain, other = _Chain(), Pipeline("other")

    @other.asset
    async def stranger() -> int:
        return 1

    with pytest.raises(AssetNotFound):
        async with chain.pipe.test(values={stranger: 1}):
            pass


async def test_a_body_cannot_change_what_it_was_given():
    """TEST-01, STORE-05: each reader has its own copy."""
    pipe, given = Pipeline("copies"), [1]

    @pipe.asset
    async def raw() -> list[int]:
        return []

    @pipe.asset
    async def target(raw: list[int]) -> int:
        raw.append(2)
        return len(raw)

    async with pipe.test(values={raw: given}) as t:
        assert [await t.run(target) for _ in range(2)] == [2, 2]
    assert given == [1]


# -- run (TEST-02) --------------------------------------------------------------------------------------------------


async def test_run_always_executes_its_target():
    """TEST-02: whatever is stored; upstreams are reused."""
    chain = _Chain()
    async with chain.pipe.test() as t:
        assert [await t.run(chain.doubled) for _ in range(3)] == [[20]] * 3
        assert t.calls(chain.doubled) == 3
        assert t.calls(chain.raw) == 1


async def test_values_of_a_call_are_for_that_call():
    """TEST-02: two calls with different values give two results, and the values are written nowhere."""
    chain = _Chain()
    async with chain.pipe.test() as t:
        assert await t.run(chain.total, values={chain.doubled: [1]}) == 1
        assert await t.run(chain.total, values={chain.doubled: [2]}) == 2
        await t.assert_not_stored(chain.doubled)
        with pytest.raises(NotMaterialized):
            await t.get(chain.doubled)
        assert t.calls(chain.raw) == 0
        assert await t.run(chain.total) == 20


async def test_values_of_a_call_come_before_those_of_the_test():
    """TEST-02."""
    chain = _Chain()
    async with chain.pipe.test(values={chain.raw: [1]}) as t:
        assert await t.run(chain.total, values={chain.raw: [3]}) == 6
        assert await t.run(chain.total) == 2


async def test_calls_with_other_values_at_the_same_time():
    """TEST-02: neither joins the other."""
    chain = _Chain()
    async with chain.pipe.test() as t:
        given = [{chain.raw: [number]} for number in range(4)]
        found = await asyncio.gather(*(t.run(chain.total, values=each) for each in given))
        assert found == [0, 2, 4, 6]


async def test_a_value_of_a_call_that_nothing_takes_is_refused():
    """TEST-02, G-05: what the target does not depend on would be ignored; through others, or one of several, counts."""
    chain = _Chain()
    lonely = chain.pipe.constant("lonely", 1)
    async with chain.pipe.test() as t:
        with pytest.raises(
            ConfigError, match=r"'doubled' does not depend on 'total'(.|\n)*depends on: raw\."
        ) as caught:
            await t.run(chain.doubled, values={chain.total: 3})
        assert caught.value.asset == "total"
        for call in (t.report(lonely, values={"raw": [1]}), t.submit(lonely, values={"raw": [1]})):
            with pytest.raises(ConfigError, match="depends on no asset"):
                await call
        with pytest.raises(ConfigError, match="'doubled' is what the call computes"):
            await t.run(chain.doubled, values={chain.doubled: [3]})
        assert t.calls(chain.doubled) == 0
        assert await t.run(chain.total, values={chain.raw: [4]}) == 8
        assert await t.run(lonely, chain.doubled, values={chain.raw: [4]}) == (1, [8])
        assert (await t.report(values={chain.raw: [4]}))[chain.total].value == 8
    async with chain.pipe.test(values={chain.raw: [1]}) as t:
        assert await t.run(lonely) == 1


async def test_a_failure_is_raised():
    """TEST-02."""
    pipe = Pipeline("fails")

    @pipe.asset
    async def target() -> int:
        raise LookupError("gone")

    async with pipe.test() as t:
        with pytest.raises(ExecutionError, match="gone"):
            await t.run(target)
        report = await t.report(target)
        assert report.state == "failed"


# -- looking, and time (TEST-03) ------------------------------------------------------------------------------------


async def test_what_is_stored_for_a_partition():
    """TEST-03: the assertions say why they failed."""
    pipe, regions = Pipeline("regions"), Keys("us", "eu")

    @pipe.asset(partitions=regions)
    async def sales(partition: str) -> str:
        return partition

    async with pipe.test() as t:
        assert await t.run(sales, partition="us") == "us"
        await t.assert_stored(sales, partition="us")
        await t.assert_not_stored(sales, partition="eu")
        with pytest.raises(AssertionError, match="sales"):
            await t.assert_stored(sales, partition="eu")
        with pytest.raises(AssertionError, match="sales"):
            await t.assert_not_stored(sales, partition="us")


async def test_events_of_a_type_and_below():
    """TEST-03."""
    chain = _Chain()
    async with chain.pipe.test() as t:
        await t.run(chain.doubled)
        assert [type(each) for each in t.events(RunEvent)][::2] == [RunStarted, RunFinished]
        assert [each.asset for each in t.events(AssetSucceeded)] == ["raw", "doubled"]
        assert {each.asset for each in t.events(AssetEvent)} == {"raw", "doubled"}
        assert t.events(AssetRetrying) == []
        with pytest.raises(AssetNotFound):
            t.calls("triple")


class _Flaky:
    """Fails twice, an hour apart."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("flaky")
        self.calls = 0

        @pipe.asset(retry=Retry(3, initial="1h", maximum="1h", backoff="fixed", jitter=False))
        async def target() -> int:
            self.calls += 1
            if self.calls < 3:
                raise ConnectionError("not yet")
            return self.calls


async def test_run_lets_time_pass_for_retries():
    """TEST-02, TEST-03: no test sleeps."""
    flaky = _Flaky()
    async with flaky.pipe.test() as t:
        begun = t.clock.now()
        assert await t.run("target") == 3
        assert t.clock.now() - begun == timedelta(hours=2)


async def test_no_time_passes_for_retries_at_once():
    """TEST-03, FLOW-07: at whatever point of an attempt the kit looks, also while another asset waits for an hour."""
    pipe = Pipeline("restless")

    @pipe.asset(retry=Retry(2, initial="1h", maximum="1h", jitter=False))
    async def slow(ctx: Context) -> float:
        if ctx.attempt < 2:
            raise ConnectionError("not yet")
        return t.clock.monotonic()

    @pipe.asset(retry=Retry(100, backoff="none"))
    async def restless(ctx: Context) -> float:
        await settle(ctx.attempt % 7)
        if ctx.attempt < 100:
            raise ConnectionError("at once")
        return t.clock.monotonic()

    async with pipe.test() as t:
        assert await t.run(restless) == 0.0
        assert await t.run(restless, slow) == (0.0, 3600.0)


async def test_time_passes_for_a_submitted_run_when_it_is_advanced():
    """TEST-03: and not before."""
    flaky = _Flaky()
    async with flaky.pipe.test() as t:
        run = await t.submit("target")
        await t.advance(minutes=59)
        assert flaky.calls == 1
        assert (await run.status()).state == "running"
        await t.advance(minutes=1)
        assert flaky.calls == 2
        await t.advance(hours=1)
        await t.until(run)
        assert await run == 3


async def test_until_fails_with_the_reason_instead_of_hanging():
    """TEST-03: a run that only waits, and one that ended otherwise."""
    flaky = _Flaky()
    async with flaky.pipe.test() as t:
        run = await t.submit("target")
        await t.advance(seconds=1)
        with pytest.raises(AssertionError, match=r"is running, not succeeded.*target.*asset\.retrying"):
            await soon(t.until(run))
        await run.cancel()
        await soon(t.until(run, state="cancelled"))
        with pytest.raises(AssertionError, match="is cancelled, not succeeded"):
            await soon(t.until(run))


async def test_virtual_time_drives_ttl():
    """TEST-03, CACHE: fresh until it has passed."""
    pipe, calls = Pipeline("ttl"), list[int]()

    @pipe.asset(cache=Cache(ttl="1h"))
    async def source() -> int:
        calls.append(1)
        return len(calls)

    @pipe.asset
    async def target(source: int) -> int:
        return source

    async with pipe.test() as t:
        assert await t.run(target) == 1
        await t.advance(minutes=59)
        assert await t.run(target) == 1
        await t.advance(minutes=2)
        assert await t.run(target) == 2


async def test_virtual_time_drives_timeouts():
    """TEST-03."""
    pipe, gate = Pipeline("timeouts"), Gate()

    @pipe.asset(timeout="1h")
    async def target() -> int:
        await gate()
        return 1

    async with pipe.test() as t:
        run = await t.submit(target)
        await gate.reached()
        await t.advance(minutes=59)
        assert (await run.status()).state == "running"
        await t.advance(minutes=1)
        await soon(t.until(run, state="failed"))
        with pytest.raises(TimedOut):
            await run


@pytest.mark.parametrize("fails", [False, True])
async def test_leaving_ends_what_still_runs(fails: bool):
    """TEST-01, G-04: a run that waits, or a body that does, keeps no test from ending; also if the test failed."""
    flaky, gate, ended = _Flaky(), Gate(), list[str]()

    @flaky.pipe.asset
    async def waits() -> int:
        try:
            await gate()
        finally:
            ended.append("waits")
        return 1

    async def test() -> None:
        async with flaky.pipe.test() as t:
            await t.submit("target")
            await t.submit(waits)
            await gate.reached()
            if fails:
                raise LookupError("the test's own")

    if fails:
        with pytest.raises(LookupError):
            await soon(test())
    else:
        await soon(test())
    assert ended == ["waits"]
