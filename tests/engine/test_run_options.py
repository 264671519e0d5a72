"""What the options of a run do: RUN-07 (with_deps), RUN-08 (force), RUN-10 (io), RUN-11 (timeout)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flowstone_async import (
    ConfigError,
    DependencyNotReady,
    Engine,
    ExecutionError,
    NotMaterialized,
    Pipeline,
    TimedOut,
    dep,
    io,
)
from flowstone_async._engine.verbs import Verbs
from flowstone_async.clock import ManualClock
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon


class _Numbers:
    """A chain whose root gives what it is told to."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("numbers")
        self.calls: list[str] = []
        self.value = 1
        self.broken = False

        @pipe.asset
        async def raw() -> int:
            self.calls.append("raw")
            return self.value

        @pipe.asset
        async def other() -> int:
            self.calls.append("other")
            return 100

        @pipe.asset
        async def total(raw: int, other: int) -> int:
            self.calls.append("total")
            if self.broken:
                raise ValueError("broken")
            return raw + other

    def taken(self) -> list[str]:
        """Return what was called since this was last asked."""
        calls, self.calls[:] = sorted(self.calls), []
        return calls


# -- with_deps (RUN-07) -------------------------------------------------------------------------------------------


async def test_without_deps_upstreams_are_taken_as_they_are(open_verbs: OpenVerbs):
    """RUN-07: stale or not; the target is computed from them unless it is fresh against them."""
    numbers = _Numbers()
    verbs = await open_verbs(numbers.pipe)
    await verbs.run("raw", "other")
    numbers.taken()
    assert await verbs.run("total", with_deps=False) == 101
    assert numbers.taken() == ["total"]
    assert await verbs.run("total", with_deps=False) == 101
    assert numbers.taken() == []


async def test_without_deps_a_stale_upstream_is_not_computed(open_verbs: OpenVerbs):
    """RUN-07: `cache=False` upstreams count as stale in every run, and are taken all the same."""
    pipe, calls = Pipeline("stale"), []

    @pipe.asset(cache=False)
    async def raw() -> int:
        calls.append("raw")
        return len(calls)

    @pipe.asset
    async def total(raw: int) -> int:
        calls.append("total")
        return raw * 10

    verbs = await open_verbs(pipe)
    assert await verbs.run(raw) == 1
    assert await verbs.run(total, with_deps=False) == 10
    assert calls == ["raw", "total"]


async def test_without_deps_every_missing_upstream_is_listed(open_verbs: OpenVerbs):
    """RUN-07: missing required ones raise `DependencyNotReady` listing all, and the body is not called."""
    numbers = _Numbers()
    verbs = await open_verbs(numbers.pipe)
    with pytest.raises(DependencyNotReady) as caught:
        await verbs.run("total", with_deps=False)
    assert numbers.taken() == []
    assert "raw" in caught.value.message
    assert "other" in caught.value.message
    assert len(caught.value.details["missing"]) == 2  # pyright: ignore[reportArgumentType] - a list
    assert caught.value.asset == "total"
    assert not await verbs.exists("total")


async def test_without_deps_a_missing_optional_upstream_does_not_count(open_verbs: OpenVerbs):
    """RUN-07: the body is called with `None` for it."""
    pipe = Pipeline("optional")

    @pipe.asset
    async def raw() -> int:
        return 1

    @pipe.asset
    async def total(raw: int | None = dep(raw, optional=True)) -> str:
        return repr(raw)

    verbs = await open_verbs(pipe)
    assert await verbs.run(total, with_deps=False) == "None"
    assert not await verbs.exists(raw)
    await verbs.run(raw)
    assert await verbs.run(total, with_deps=False) == "1"


async def test_without_deps_targets_feed_each_other(open_verbs: OpenVerbs):
    """RUN-07: of two targets one of which needs the other, the first is computed first."""
    numbers = _Numbers()
    verbs = await open_verbs(numbers.pipe)
    await verbs.run("other")
    numbers.taken()
    assert await verbs.run("total", "raw", with_deps=False) == (101, 1)
    assert numbers.taken() == ["raw", "total"]


async def test_without_deps_a_fresh_target_whose_upstream_is_gone(open_verbs: OpenVerbs):
    """RUN-07, CACHE-03: it is fresh, so that nothing is missing."""
    numbers = _Numbers()
    verbs = await open_verbs(numbers.pipe)
    await verbs.run("total")
    await verbs.invalidate("raw")
    numbers.taken()
    assert await verbs.run("total", with_deps=False) == 101
    assert numbers.taken() == []


# -- force (RUN-08) -----------------------------------------------------------------------------------------------


async def test_force_recomputes_exactly_the_targets(open_verbs: OpenVerbs):
    """RUN-08: fresh upstreams are reused."""
    numbers = _Numbers()
    verbs = await open_verbs(numbers.pipe)
    await verbs.run("total")
    numbers.taken()
    assert await verbs.run("total", force=True) == 101
    assert numbers.taken() == ["total"]
    await verbs.run("total", "raw", force=True)
    assert numbers.taken() == ["raw", "total"]


async def test_force_all_recomputes_everything(open_verbs: OpenVerbs):
    """RUN-08: every asset of the plan."""
    numbers = _Numbers()
    verbs = await open_verbs(numbers.pipe)
    await verbs.run("total")
    numbers.taken()
    assert await verbs.run("total", force="all") == 101
    assert numbers.taken() == ["other", "raw", "total"]


async def test_force_computes_what_counts_as_stored(open_verbs: OpenVerbs):
    """RUN-08: also with `cache="exists"`, and with a key function that answers the same."""
    pipe, calls = Pipeline("kept"), []

    @pipe.asset(cache="exists")
    async def kept() -> int:
        calls.append("kept")
        return len(calls)

    verbs = await open_verbs(pipe)
    assert await verbs.run(kept) == 1
    assert await verbs.run(kept) == 1
    assert await verbs.run(kept, force=True) == 2
    assert await verbs.get(kept) == 2


async def test_a_forced_run_that_fails_keeps_the_earlier_value(open_verbs: OpenVerbs):
    """RUN-08: it replaces the current value only when it commits."""
    numbers = _Numbers()
    verbs = await open_verbs(numbers.pipe)
    await verbs.run("total")
    numbers.broken = True
    with pytest.raises(ExecutionError):
        await verbs.run("total", force=True)
    assert await verbs.get("total") == 101
    numbers.broken = False
    numbers.taken()
    assert await verbs.run("total") == 101
    assert numbers.taken() == []


async def test_the_earlier_value_is_readable_while_a_forced_run_goes_on(open_verbs: OpenVerbs):
    """RUN-08."""
    pipe, gate, values = Pipeline("slow"), Gate(), [1, 2]

    @pipe.asset
    async def slow() -> int:
        await gate()
        return values.pop(0)

    verbs = await open_verbs(pipe)
    gate.open()
    assert await verbs.run(slow) == 1
    gate.close()
    running = asyncio.create_task(verbs.run(slow, force=True))
    await gate.reached(2)
    assert await verbs.get(slow) == 1
    gate.open()
    assert await soon(running) == 2
    assert await verbs.get(slow) == 2


# -- io (RUN-10) --------------------------------------------------------------------------------------------------


async def test_what_a_call_stores_through_its_own_manager(open_verbs: OpenVerbs):
    """RUN-10: found with the same `io=`, for the target and its upstreams, and not without it."""
    numbers, lake = _Numbers(), io.Memory()
    verbs = await open_verbs(numbers.pipe)
    assert await verbs.run("total", io=lake) == 101
    assert numbers.taken() == ["other", "raw", "total"]
    for name in ("total", "raw", "other"):
        assert await verbs.exists(name, io=lake)
        assert not await verbs.exists(name)
        with pytest.raises(NotMaterialized):
            await verbs.get(name)
    assert await verbs.get("total", io=lake) == 101
    assert (await verbs.status("total", io=lake)).state == "completed"
    assert (await verbs.status("total")).state == "not_found"


async def test_freshness_is_judged_through_the_manager_of_the_call(open_verbs: OpenVerbs):
    """RUN-10: values on one side neither are reused nor make stale on the other."""
    numbers, lake = _Numbers(), io.Memory()
    verbs = await open_verbs(numbers.pipe)
    await verbs.run("total")
    numbers.taken()
    await verbs.run("total", io=lake)
    assert numbers.taken() == ["other", "raw", "total"]
    await verbs.run("total", io=lake)
    assert numbers.taken() == []
    numbers.value = 2
    assert await verbs.run("raw", io=lake, force=True) == 2
    numbers.taken()
    assert await verbs.run("total") == 101
    assert numbers.taken() == []
    assert (await verbs.plan("total", io=lake))["total"].action == "run"
    assert await verbs.run("total", io=lake) == 102
    assert numbers.taken() == ["total"]
    assert await verbs.run("total") == 101


async def test_invalidating_through_the_manager_of_the_call(open_verbs: OpenVerbs):
    """RUN-10, STORE-10: only there, and the value itself is gone."""
    numbers, lake = _Numbers(), io.Memory()
    verbs = await open_verbs(numbers.pipe)
    await verbs.run("total")
    await verbs.run("total", io=lake)
    assert await verbs.invalidate("raw", io=lake, cascade=True) == 2
    assert not await verbs.exists("total", io=lake)
    assert await verbs.exists("other", io=lake)
    assert await verbs.exists("total")
    assert await verbs.exists("raw")
    assert len(lake._values) == 1


async def test_the_record_names_the_manager(open_verbs: OpenVerbs):
    """RUN-10: lineage records the manager."""
    numbers, lake = _Numbers(), io.Memory(name="the lake")
    verbs = await open_verbs(numbers.pipe)
    await verbs.run("total", io=lake)
    assert (await verbs.status("total", io=lake)).io == "the lake"


async def test_a_manager_by_name(open_engine: OpenEngine, tmp_path: Path):
    """RUN-10, STORE-01: a name listed in `Engine(io=...)`; an unknown one lists the known ones."""
    numbers = _Numbers()
    engine = await open_engine(numbers.pipe, io={"lake": io.Files(str(tmp_path))})
    assert await engine.run("total", io="lake") == 101
    assert await engine.get("total", io="lake") == 101
    assert not await engine.exists("total")
    for verb in (engine.get, engine.exists, engine.status, engine.invalidate, engine.run):
        with pytest.raises(ConfigError, match="lake"):
            await verb("total", io="laek")  # pyright: ignore[reportUnknownMemberType]


async def test_a_manager_declared_on_the_asset_gives_way_to_the_call(open_verbs: OpenVerbs):
    """STORE-02: precedence is call, asset."""
    pipe, of_asset, of_call = Pipeline("precedence"), io.Memory(), io.Memory()

    @pipe.asset(io=of_asset)
    async def raw() -> int:
        return 1

    verbs = await open_verbs(pipe)
    await verbs.run(raw)
    assert len(of_asset._values) == 1
    await verbs.run(raw, io=of_call)
    assert len(of_asset._values) == len(of_call._values) == 1


# -- timeout (RUN-11) ---------------------------------------------------------------------------------------------


class _Slow:
    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("slow")
        self.gate = Gate()
        self.cleaned = False

        @pipe.asset
        async def quick() -> int:
            return 1

        @pipe.asset
        async def slow(quick: int) -> int:
            try:
                await self.gate()
            finally:
                self.cleaned = True
            return quick

        @pipe.asset
        async def after(slow: int) -> int:
            return slow


@pytest.mark.parametrize(
    "given", ["x", "", 7, "01A1F9E3-7436-7AC5-A6AC-A17F20F76E62", "{01a1f9e3-7436-7ac5-a6ac-a17f20f76e62}"]
)
async def test_a_run_id_that_is_no_uuid_is_refused(open_verbs: OpenVerbs, given: object):
    """RUN-06: as `str(uuid.uuid4())` writes it; others would not be found again."""
    verbs = await open_verbs(_Slow().pipe)
    with pytest.raises(ConfigError, match="is not a UUID"):
        await verbs.run("quick", run_id=given)  # type: ignore[arg-type]


async def test_beyond_its_timeout_a_run_is_over(open_engine: OpenEngine):
    """RUN-11: bodies are cancelled, `TimedOut` is raised, nothing more is committed; what was stays."""
    slow, clock = _Slow(), ManualClock()
    verbs = await open_engine(slow.pipe, clock=clock)
    running = asyncio.ensure_future(verbs.run("after", timeout="50s"))
    await slow.gate.reached()
    await clock.advance(50)
    with pytest.raises(TimedOut, match="50 s") as caught:
        await soon(running)
    assert caught.value.run_id is not None
    assert slow.cleaned
    assert slow.gate.left == 1
    assert await verbs.exists("quick")
    assert not await verbs.exists("slow")
    slow.gate.open()
    assert await verbs.run("after") == 1


async def test_a_body_that_ignores_the_timeout_commits_nothing(open_verbs: OpenVerbs):
    """RUN-11."""
    pipe = Pipeline("stubborn")

    @pipe.asset
    async def stubborn() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return 1

    verbs = await open_verbs(pipe)
    with pytest.raises(TimedOut):
        await verbs.run(stubborn, timeout="20ms")
    assert not await verbs.exists(stubborn)


async def test_timeouts_of_a_run_on_the_clock():
    """RUN-11: wall-clock time of the whole run, over several assets; `run` 5 min unless said otherwise."""
    slow = _Slow()
    async with slow.pipe.test() as t:
        run = await t.submit("after", timeout="10m")
        await slow.gate.reached()
        await t.advance(minutes=9, seconds=59)
        assert (await run.status()).state == "running"
        await t.advance(seconds=1)
        await t.until(run, state="failed")
        with pytest.raises(TimedOut):
            await run
        assert slow.cleaned


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 300.0), ({"timeout": False}, None), ({"timeout": "2s"}, 2.0), ({"timeout": None}, 300.0)],
)
def test_the_default_timeout(options: dict[str, object], expected: float | None):
    """RUN-11, CFG-02: `run` has 5 minutes; `False` is no limit; `None` is never given."""
    assert _limit_of(options, submitted=False) == expected


def test_a_submitted_run_has_no_default_timeout():
    """RUN-11."""
    assert _limit_of({}, submitted=True) is None
    assert _limit_of({"timeout": "2s"}, submitted=True) == 2.0


def _limit_of(options: dict[str, object], *, submitted: bool) -> float | None:
    pipe = Pipeline("limits")

    @pipe.asset
    async def one() -> int:
        return 1

    async def ask() -> float | None:
        async with Engine(pipe, store="memory") as engine:
            session = engine._live()
            return session.request([one], submitted=submitted, **options).timeout  # pyright: ignore[reportArgumentType]

    return asyncio.run(ask())


async def test_the_engine_sets_the_default_timeout(open_engine: OpenEngine):
    """RUN-11: `default_timeout` of the engine."""
    slow = _Slow()
    engine: Verbs = await open_engine(slow.pipe, default_timeout="20ms")
    with pytest.raises(TimedOut):
        await engine.run("after")
    slow.gate.open()
    assert await engine.run("after", timeout=False) == 1
