"""How long and by what a value counts as fresh: CACHE-05 (fingerprints), 06 (ttl, version), 07 (code), 09 (key)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from types import ModuleType
from typing import Any

import pytest

from flowstone_async import Cache, DependencyFailed, ExecutionError, Pipeline, Retry, io, param
from flowstone_async._engine.verbs import Verbs
from tests.contract.clock import SetClock
from tests.engine import code_before, code_body, code_helper, code_same
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon

# -- ttl (CACHE-06) -----------------------------------------------------------------------------------------------


def _aging(calls: list[str], ttl: Any = "1h") -> Pipeline:
    pipe = Pipeline("aging")

    @pipe.asset(cache=Cache(ttl=ttl))
    async def raw() -> int:
        calls.append("raw")
        return 1

    @pipe.asset
    async def total(raw: int) -> int:
        calls.append("total")
        return raw

    return pipe


async def test_a_value_exactly_as_old_as_its_ttl_is_stale(open_engine: OpenEngine):
    """CACHE-06: it counts from the commit, on the store's clock."""
    calls, clock = list[str](), SetClock()
    engine = await open_engine(_aging(calls), clock=clock)
    await engine.run("total")
    clock.advance(3599.999)
    assert (await engine.status("raw")).fresh
    await engine.run("total")
    assert calls == ["raw", "total"]
    clock.advance(0.001)
    status = await engine.status("raw")
    assert not status.fresh
    assert status.stale_because == "older than its ttl 1h"
    await engine.run("total")
    assert calls == ["raw", "total", "raw"]
    assert (await engine.status("raw")).fresh


async def test_a_ttl_counts_from_the_commit(open_engine: OpenEngine):
    """CACHE-06: not from the start of the computation."""
    pipe, gate, clock = Pipeline("slow"), Gate(), SetClock()

    @pipe.asset(cache=Cache(ttl="10m"))
    async def slow() -> int:
        await gate()
        return 1

    engine = await open_engine(pipe, clock=clock)
    running = asyncio.create_task(engine.run(slow, timeout=False))
    await gate.reached()
    clock.advance(3600)
    gate.open()
    await soon(running)
    clock.advance(599)
    assert (await engine.status(slow)).fresh
    clock.advance(1)
    assert not (await engine.status(slow)).fresh


async def test_a_ttl_upstream_makes_nothing_stale_below_by_itself(open_engine: OpenEngine):
    """CACHE-06, CACHE-02: what is below depends on the new value."""
    calls, clock = list[str](), SetClock()
    engine = await open_engine(_aging(calls), clock=clock)
    await engine.run("total")
    clock.advance(3600)
    status = await engine.status("total")
    assert not status.fresh
    assert status.stale_because is not None
    assert "raw" in status.stale_because
    assert "ttl" in status.stale_because
    calls.clear()
    await engine.run("total")
    assert calls == ["raw"]


async def test_ttls_on_the_virtual_clock():
    """CACHE-06, TEST-03: `pipe.test` lets hours pass at once."""
    calls = list[str]()
    async with _aging(calls).test() as t:
        await t.run("raw", force=False)
        await t.advance(minutes=59)
        await t.run("raw", force=False)
        assert calls == ["raw"]
        await t.advance(minutes=1)
        await t.run("raw", force=False)
        assert calls == ["raw", "raw"]


# -- version (CACHE-06) -------------------------------------------------------------------------------------------


def _versioned(version: str | None, calls: list[str]) -> Pipeline:
    pipe = Pipeline("versioned")

    @pipe.asset(cache=Cache(version=version))
    async def one() -> int:
        calls.append("one")
        return 1

    return pipe


@pytest.mark.parametrize(
    ("before", "after", "stale"),
    [("1", "1", False), ("1", "2", True), (None, "1", True), ("1", None, True), (None, None, False)],
)
async def test_another_version_is_stale(open_engine: OpenEngine, before: str | None, after: str | None, stale: bool):
    """CACHE-06: one that differs from the stored one, was added or removed."""
    calls = list[str]()
    await (await open_engine(_versioned(before, calls))).run("one")
    engine = await open_engine(_versioned(after, calls))
    status = await engine.status("one")
    assert status.fresh is not stale
    if stale:
        assert status.stale_because is not None
        assert "version" in status.stale_because
    await engine.run("one")
    assert len(calls) == 1 + stale


# -- code (CACHE-07) ----------------------------------------------------------------------------------------------


async def _after(open_engine: OpenEngine, changed: ModuleType, cache: Cache | bool) -> Verbs:
    await (await open_engine(code_before.make(cache))).run("counted")
    return await open_engine(changed.make(cache))


@pytest.mark.parametrize("changed", [code_body, code_helper], ids=["body", "helper"])
async def test_a_code_change_alone_leaves_a_value_fresh(open_engine: OpenEngine, changed: ModuleType):
    """CACHE-07: `plan`, `status` and `why` say so, with the function and line."""
    engine = await _after(open_engine, changed, cache=True)
    status = await engine.status("counted")
    assert status.fresh
    assert status.code_changed is not None
    assert "counted" in status.code_changed
    assert "line 15" in status.code_changed
    entry = (await engine.plan("counted"))["counted"]
    assert entry.action == "reuse"
    assert "code changed since in " in entry.reason
    assert "line 15" in entry.reason
    why = await engine.why("counted")
    assert why.state == "fresh"
    assert "code changed since in " in str(why)
    assert "line 15" in str(why)
    assert await engine.run("counted") == 2


@pytest.mark.parametrize("changed", [code_body, code_helper], ids=["body", "helper"])
async def test_a_code_change_may_count(open_engine: OpenEngine, changed: ModuleType):
    """CACHE-07: `on_code_change="rerun"`."""
    engine = await _after(open_engine, changed, Cache(on_code_change="rerun"))
    status = await engine.status("counted")
    assert not status.fresh
    assert status.stale_because is not None
    assert "code changed since in " in status.stale_because
    assert (await engine.plan("counted"))["counted"].action == "run"
    assert await engine.run("counted") == {code_body: 11, code_helper: 101}[changed]
    assert (await engine.status("counted")).fresh


@pytest.mark.parametrize("policy", [True, Cache(on_code_change="rerun")], ids=["report", "rerun"])
async def test_comments_and_formatting_do_not_count(open_engine: OpenEngine, policy: Any):
    """CACHE-07: nor docstrings."""
    engine = await _after(open_engine, code_same, policy)
    status = await engine.status("counted")
    assert status.fresh
    assert status.code_changed is None
    assert "code changed" not in str(await engine.why("counted"))


# -- key (CACHE-09) -----------------------------------------------------------------------------------------------


class _Keyed:
    """`total` takes `raw` and says by what it is to be judged."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("keyed")
        self.calls: list[str] = []
        self.raw, self.key = 1, "a"

        @pipe.asset(cache=False)
        async def raw() -> int:
            return self.raw

        async def named(raw: int) -> str:
            self.calls.append(f"key({raw})")
            return self.key

        @pipe.asset(cache=Cache(key=named))
        async def total(raw: int) -> int:
            self.calls.append("total")
            return raw * 10


async def test_a_key_stands_for_all_inputs(open_verbs: OpenVerbs):
    """CACHE-09: equal, and the value is reused whatever the inputs are; different, and it is computed."""
    keyed = _Keyed()
    verbs = await open_verbs(keyed.pipe)
    assert await verbs.run("total") == 10
    keyed.calls.clear()
    keyed.raw = 2
    assert await verbs.run("total") == 10
    assert keyed.calls == ["key(2)"]
    keyed.calls.clear()
    keyed.key = "b"
    assert await verbs.run("total") == 20
    assert keyed.calls == ["key(2)", "total"]
    keyed.calls.clear()
    assert await verbs.run("total") == 20
    assert "total" not in keyed.calls


async def test_the_key_of_the_first_computation_counts(open_verbs: OpenVerbs):
    """CACHE-09: the second run reuses what the first has computed."""
    keyed = _Keyed()
    verbs = await open_verbs(keyed.pipe)
    await verbs.run("total")
    await verbs.run("total")
    assert keyed.calls.count("total") == 1


async def test_the_key_of_a_forced_computation_counts(open_verbs: OpenVerbs):
    """CACHE-09, RUN-08: `force` computes although the key is equal, and the new key is kept."""
    keyed = _Keyed()
    verbs = await open_verbs(keyed.pipe)
    await verbs.run("total")
    keyed.key, keyed.raw = "b", 3
    assert await verbs.run("total", force=True) == 30
    keyed.calls.clear()
    assert await verbs.run("total") == 30
    assert "total" not in keyed.calls
    assert await verbs.run("total", force=True) == 30
    assert keyed.calls.count("total") == 1


@pytest.mark.parametrize("answer", [None, 1, b"a"], ids=str)
async def test_anything_but_text_fails_the_asset(open_verbs: OpenVerbs, answer: Any):
    """CACHE-09."""
    keyed = _Keyed()
    keyed.key = answer
    verbs = await open_verbs(keyed.pipe)
    with pytest.raises(ExecutionError, match="cache key") as caught:
        await verbs.run("total")
    assert caught.value.asset == "total"
    assert "total" not in keyed.calls
    assert (await verbs.status("total")).state == "failed"


async def test_a_key_that_raises_fails_the_asset(open_verbs: OpenVerbs):
    """CACHE-09: the cause is what it raised."""
    pipe = Pipeline("keyed")

    def wrong() -> str:
        raise KeyError("no")

    @pipe.asset(cache=Cache(key=wrong))
    async def total() -> int:
        return 1

    verbs = await open_verbs(pipe)
    with pytest.raises(ExecutionError) as caught:
        await verbs.run(total)
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_key_is_not_asked_without_what_it_needs(open_verbs: OpenVerbs):
    """CACHE-09, RUN-14: an upstream that failed blocks the asset."""
    pipe, asked = Pipeline("keyed"), []

    @pipe.asset(cache=False)
    async def bad() -> int:
        if asked:
            raise ValueError("no")
        return 1

    def named(bad: int) -> str:
        asked.append(bad)
        return "same"

    @pipe.asset(cache=Cache(key=named))
    async def total(bad: int) -> int:
        return bad

    verbs = await open_verbs(pipe)
    assert await verbs.run(total) == 1
    asked[:] = [0]
    with pytest.raises(DependencyFailed):
        await verbs.run(total)
    assert asked == [0]


async def test_a_key_with_a_ttl_and_a_version(open_engine: OpenEngine):
    """CACHE-09, CACHE-06: the key stands for the inputs; age and version count beside it."""
    calls, clock = list[str](), SetClock()

    def make(version: str) -> Pipeline:
        pipe = Pipeline("keyed")

        @pipe.asset(cache=Cache(key=lambda: "same", ttl="1h", version=version))
        async def one() -> int:
            calls.append("one")
            return 1

        return pipe

    engine = await open_engine(make("1"), clock=clock)
    await engine.run("one")
    await engine.run("one")
    assert len(calls) == 1
    clock.advance(3600)
    await engine.run("one")
    await engine.run("one")
    assert len(calls) == 2
    other = await open_engine(make("2"), clock=clock)
    await other.run("one")
    await other.run("one")
    assert len(calls) == 3


async def test_a_key_is_injected_like_a_body(open_verbs: OpenVerbs):
    """CACHE-09: partition and params too; params that the body takes do not count beside it."""
    from dataclasses import dataclass

    @dataclass
    class Args:
        one: int = 1
        two: int = 2

    pipe, calls = Pipeline("keyed", params=Args), []

    def named(partition: date, x: int = param("one")) -> str:
        return f"{partition}:{x}"

    @pipe.asset(cache=Cache(key=named))
    async def total(params: Args, partition: date) -> int:
        calls.append(partition)
        return params.two

    verbs = await open_verbs(pipe)
    day = date(2025, 1, 15)
    assert await verbs.run(total, partition=day) == 2
    assert await verbs.run(total, partition=day, params=Args(two=5)) == 2
    assert len(calls) == 1
    assert await verbs.run(total, partition=day, params=Args(one=5, two=5)) == 5
    assert len(calls) == 2


async def test_another_runs_value_is_judged_by_the_key(open_engine: OpenEngine):
    """CACHE-09, RUN-16: what another engine stored meanwhile is reused if its key is equal, and only then."""
    for answers, expected in ((("a", "a"), 1), (("a", "b"), 2)):
        gate, calls, given = Gate(), list[int](), list(answers)

        def make(gate: Gate, calls: list[int], given: list[str]) -> Pipeline:
            pipe = Pipeline("keyed")

            @pipe.asset(cache=Cache(key=lambda: given.pop(0)))
            async def total() -> int:
                await gate()
                calls.append(1)
                return len(calls)

            return pipe

        pipe = make(gate, calls, given)
        first, second = await open_engine(pipe, poll="50ms"), await open_engine(pipe, poll="50ms")
        await first.invalidate("total")
        one = asyncio.create_task(first.run("total"))
        await gate.reached()
        two = asyncio.create_task(second.run("total"))
        while given:
            await asyncio.sleep(0)
        gate.open()
        assert await soon(one) == 1
        assert await soon(two) == expected


# -- fingerprints (CACHE-05) --------------------------------------------------------------------------------------


VALUES: list[Any] = [
    None,
    0,
    1.5,
    math.inf,
    "text \0",
    b"bytes",
    [1, [2, 3]],
    {"b": 1, "a": {"y": 2, "x": 3}},
    {"a", "b", "c"},
    datetime(2025, 1, 15, tzinfo=UTC),
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
async def test_equal_values_have_equal_fingerprints(open_verbs: OpenVerbs, value: Any):
    """CACHE-05: recomputed to an equal value, it leaves its dependants fresh."""
    pipe, calls = Pipeline("prints"), []

    async def body() -> Any:
        return value

    body.__annotations__["return"] = set[str] if isinstance(value, set) else type(value)
    raw = pipe.add(body, name="raw")

    async def count(raw: object) -> int:
        calls.append(1)
        return 1

    pipe.add(count, name="after", deps={"raw": raw})
    verbs = await open_verbs(pipe)
    await verbs.run("after")
    await verbs.run("raw", force=True)
    await verbs.run("after")
    assert len(calls) == 1


async def test_the_order_of_a_mapping_does_not_count(open_verbs: OpenVerbs):
    """CACHE-05: equal for equal values."""
    pipe, calls, orders = Pipeline("orders"), [], [{"a": 1, "b": 2}, {"b": 2, "a": 1}]

    @pipe.asset
    async def raw() -> dict[str, int]:
        return orders.pop(0)

    @pipe.asset
    async def after(raw: dict[str, int]) -> int:
        calls.append(1)
        return 1

    verbs = await open_verbs(pipe)
    await verbs.run(after)
    await verbs.run(raw, force=True)
    await verbs.run(after)
    assert len(calls) == 1


async def test_a_stream_is_identified_by_its_items(open_verbs: OpenVerbs):
    """CACHE-05: over its chunks, so that an equal stream leaves its dependants fresh, and another does not."""
    pipe, calls, count = Pipeline("streams"), [], [3000]

    @pipe.asset
    async def rows() -> AsyncIterator[int]:
        for number in range(count[0]):
            yield number

    async def sum_(rows: Any) -> int:
        calls.append(1)
        return sum([each async for each in rows])

    after = pipe.add(sum_, name="after", deps={"rows": rows})
    verbs = await open_verbs(pipe)
    assert await verbs.run(after) == sum(range(3000))
    await verbs.run(rows, force=True)
    await verbs.run(after)
    assert len(calls) == 1
    count[0] = 3001
    await verbs.run(rows, force=True)
    assert await verbs.run(after) == sum(range(3001))
    assert len(calls) == 2


class _Opaque:
    """A value that is only pickled."""

    def __init__(self, number: int) -> None:
        self.number = number


async def test_a_value_without_a_stable_hash_is_known_by_its_materialization(open_engine: OpenEngine):
    """CACHE-05: recomputing a pickled value makes its dependants stale; reusing it does not."""
    pipe, calls = Pipeline("opaque"), []
    manager = io.Memory(format="pickle")

    @pipe.asset(io=manager)
    async def raw() -> _Opaque:
        return _Opaque(1)

    @pipe.asset
    async def after(raw: _Opaque) -> int:
        calls.append(1)
        return raw.number

    engine = await open_engine(pipe)
    assert await engine.run(after) == 1
    assert await engine.run(after) == 1
    assert len(calls) == 1
    await engine.run(raw, force=True)
    assert await engine.run(after) == 1
    assert len(calls) == 2


async def test_a_retried_attempt_is_one_computation():
    """CACHE-01: what failed before it succeeded leaves no trace in freshness."""
    pipe, tries = Pipeline("retries"), []

    @pipe.asset(retry=Retry(3, initial="1m"))
    async def flaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("no")
        return 1

    async with pipe.test() as t:
        assert await t.run(flaky, force=False) == 1
        assert await t.run(flaky, force=False) == 1
        assert len(tries) == 3
        assert (await t.status(flaky)).fresh
