"""Looking at what is stored, without executing anything: RUN-20 to RUN-25."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from flowstone_async import (
    AssetNotFound,
    AssetSkipped,
    Cache,
    Cancelled,
    ConfigError,
    DependencyFailed,
    ExecutionError,
    NotMaterialized,
    Pipeline,
    StorageError,
    TargetSkipped,
    TimedOut,
    io,
)
from flowstone_async._engine.verbs import Verbs
from flowstone_async.io import Memory
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon


class _Chain:
    """`raw`, `total` above it and `last` above that; `raw` waits at a gate and fails when told to."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("chain")
        self.calls: list[str] = []
        self.gate = Gate()
        self.gate.open()
        self.broken = False

        @pipe.asset
        async def raw() -> int:
            self.calls.append("raw")
            await self.gate()
            if self.broken:
                raise ValueError("broken")
            return 1

        @pipe.asset
        async def total(raw: int) -> int:
            self.calls.append("total")
            return raw * 10

        @pipe.asset
        async def last(total: int) -> int:
            self.calls.append("last")
            return total * 10


class _Unloadable(Memory):
    """A manager that counts its loads."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0

    async def load(self, ref: object, want: object) -> object:
        self.loads += 1
        return await super().load(ref, want)  # pyright: ignore[reportArgumentType] - as it came


# -- get and exists (RUN-20, RUN-22) ------------------------------------------------------------------------------


async def test_get_never_executes(open_verbs: OpenVerbs):
    """RUN-20: nothing stored is `NotMaterialized`."""
    chain = _Chain()
    verbs = await open_verbs(chain.pipe)
    with pytest.raises(NotMaterialized, match="'total'") as caught:
        await verbs.get("total", partition=date(2025, 1, 15))
    assert caught.value.asset == "total"
    assert caught.value.partition == date(2025, 1, 15)
    assert not await verbs.exists("total")
    assert chain.calls == []


async def test_get_returns_a_stale_value_all_the_same(open_verbs: OpenVerbs):
    """RUN-20."""
    pipe, values = Pipeline("stale"), [1, 2]

    @pipe.asset(cache=False)
    async def raw() -> int:
        return values.pop(0)

    @pipe.asset
    async def total(raw: int) -> int:
        return raw * 10

    verbs = await open_verbs(pipe)
    await verbs.run(total)
    await verbs.run(raw)
    assert not (await verbs.status(total)).fresh
    assert await verbs.get(total) == 10
    assert values == []


async def test_exists_answers_from_the_record(open_verbs: OpenVerbs):
    """RUN-20, CACHE-10: without loading the value, as do `status`, `why` and `plan`."""
    lake = _Unloadable()
    verbs = await open_verbs(_Chain().pipe)
    await verbs.run("last", io=lake)
    lake.loads = 0
    assert await verbs.exists("last", io=lake)
    assert (await verbs.status("last", io=lake)).fresh
    assert (await verbs.why("last", io=lake)).state == "fresh"
    assert (await verbs.plan("last", io=lake))["last"].action == "reuse"
    assert lake.loads == 0


async def test_an_unknown_asset_is_named_by_every_verb(open_verbs: OpenVerbs):
    """RUN-22: with the available names and a did-you-mean."""
    chain = _Chain()
    verbs = await open_verbs(chain.pipe)
    calls = (
        verbs.run("totl"),
        verbs.report("totl"),
        verbs.plan("totl"),
        verbs.get("totl"),
        verbs.exists("totl"),
        verbs.status("totl"),
        verbs.why("totl"),
        verbs.wait("totl"),
        verbs.cancel("totl"),
        verbs.invalidate("totl"),
        verbs.backfill("totl", partitions=[1]),
    )
    for call in calls:
        with pytest.raises(AssetNotFound) as caught:
            await call
        text = str(caught.value)
        assert "Did you mean 'total'?" in text
        assert "raw" in text
    assert chain.calls == []


async def test_a_name_in_two_pipelines(open_engine: OpenEngine):
    """RUN-22: a bare name is a `ConfigError` that lists the `pipeline.asset` forms; those, and handles, work."""
    one, two = Pipeline("one"), Pipeline("two")

    async def first() -> int:
        return 1

    async def second() -> int:
        return 2

    a = one.add(first, name="same")
    b = two.add(second, name="same")
    two.add(second, name="only")
    engine = await open_engine(one, two)
    for call in (engine.run("same"), engine.get("same"), engine.exists("same"), engine.status("same")):
        with pytest.raises(ConfigError, match=r"one\.same, two\.same"):
            await call
    assert await engine.run("one.same") == await engine.run(a) == 1
    assert await engine.run("two.same") == await engine.run(b) == 2
    assert await engine.run("only") == 2
    with pytest.raises(AssetNotFound, match="pipeline 'one' has no asset 'sme'"):
        await engine.run("one.sme")


async def test_two_pipelines_share_nothing(open_engine: OpenEngine):
    """RUN-22, ASSET-23: assets of the same name in two pipelines have no value or status in common."""
    one, two = Pipeline("one"), Pipeline("two")
    for number, pipe in enumerate((one, two)):

        async def body(number: int = number) -> int:
            return number

        pipe.add(body, name="same")
    engine = await open_engine(one, two)
    await engine.run("one.same")
    assert not await engine.exists("two.same")
    assert (await engine.status("two.same")).state == "not_found"


# -- status (RUN-23, RUN-24) --------------------------------------------------------------------------------------


async def test_status_of_what_was_never_tried(open_verbs: OpenVerbs):
    """RUN-23."""
    verbs = await open_verbs(_Chain().pipe)
    status = await verbs.status("total", partition=date(2025, 1, 15))
    assert status.state == "not_found"
    assert status.partition == date(2025, 1, 15)
    assert status.asset == "total"
    assert not status.has_value
    assert not status.fresh
    for name in ("run_id", "started_at", "completed_at", "seconds", "io", "error", "stale_because", "code_changed"):
        assert getattr(status, name) is None


async def test_status_of_a_stored_value(open_verbs: OpenVerbs):
    """RUN-23."""
    verbs = await open_verbs(_Chain().pipe)
    report = await verbs.report("total")
    status = await verbs.status("total")
    assert status.state == "completed"
    assert status.run_id == report.run_id
    assert status.has_value
    assert status.fresh
    assert status.stale_because is None
    assert status.code_changed is None
    assert status.error is None
    assert status.io
    assert status.scatter is None
    assert status.waiting_for is None
    assert status.seconds is not None
    assert status.seconds > 0
    assert status.started_at is not None
    assert status.completed_at is not None
    assert status.started_at.utcoffset() is not None
    assert status.started_at <= status.completed_at


async def test_status_after_a_store_that_failed_names_the_manager(open_verbs: OpenVerbs):
    """RUN-23: where the value was to go; nowhere for what was never tried."""

    class Full(Memory):
        async def store(self, ref: Any, value: Any) -> Any:
            raise StorageError("disk is full")

    pipe = Pipeline("full")

    @pipe.asset(io=Full(name="full"))
    async def kept() -> int:
        return 1

    @pipe.asset(io=Full(name="full"))
    async def never() -> int:
        return 1

    verbs = await open_verbs(pipe)
    await verbs.report(kept)
    status = await verbs.status(kept)
    assert (status.state, status.io, status.has_value) == ("failed", "full", False)
    assert (await verbs.status(never)).io is None


async def test_status_while_it_runs(open_verbs: OpenVerbs):
    """RUN-23: `running` for what is computed, `pending` for what comes after it, with what it waits for."""
    chain = _Chain()
    chain.gate.close()
    verbs = await open_verbs(chain.pipe)
    running = asyncio.create_task(verbs.run("last"))
    await chain.gate.reached()
    raw, total = await verbs.status("raw"), await verbs.status("total")
    assert raw.state == "running"
    assert raw.started_at is not None
    assert raw.completed_at is None
    assert not raw.has_value
    assert total.state == "pending"
    assert total.run_id == raw.run_id
    assert total.waiting_for == "'raw'"
    chain.gate.open()
    await soon(running)
    assert (await verbs.status("raw")).state == "completed"


async def test_status_is_seen_by_another_engine(open_engine: OpenEngine):
    """RUN-23: also while it runs there."""
    chain = _Chain()
    chain.gate.close()
    first, second = await open_engine(chain.pipe), await open_engine(chain.pipe)
    running = asyncio.create_task(first.run("raw"))
    await chain.gate.reached()
    status = await second.status("raw")
    assert status.state == "running"
    assert status.run_id in {each.id for each in await second.runs(state="running")}
    chain.gate.open()
    await soon(running)
    assert (await second.status("raw")).fresh


async def test_status_of_failed_and_blocked(open_verbs: OpenVerbs):
    """RUN-23."""
    chain = _Chain()
    chain.broken = True
    verbs = await open_verbs(chain.pipe)
    report = await verbs.report("last")
    raw, last = await verbs.status("raw"), await verbs.status("last")
    assert (raw.state, last.state) == ("failed", "failed")
    assert isinstance(raw.error, ExecutionError)
    assert isinstance(last.error, DependencyFailed)
    assert raw.run_id == last.run_id == report.run_id
    assert not raw.has_value


async def test_status_of_a_skipped_asset(open_verbs: OpenVerbs):
    """RUN-23: with the reason; its value, if it has one, is still there."""
    pipe, wanted, skips = Pipeline("skips"), [True], []

    def is_wanted() -> bool:
        return wanted[0]

    @pipe.asset(when=is_wanted)
    async def maybe() -> int:
        return 1

    @pipe.on(AssetSkipped)
    async def note(event: AssetSkipped) -> None:
        skips.append(event.asset)

    verbs = await open_verbs(pipe)
    await verbs.run(maybe)
    wanted[0] = False
    await verbs.report(maybe)
    assert skips == ["maybe"]
    status = await verbs.status(maybe)
    assert status.state == "skipped"
    assert status.reason == "when=is_wanted was False"
    assert status.has_value
    assert status.error is None


async def test_a_stored_value_with_a_condition_is_judged_by_what_is_stored(open_verbs: OpenVerbs):
    """RUN-23: `fresh` does not ask conditions, which need a run."""
    pipe, asked = Pipeline("skips"), []

    def is_wanted() -> bool:
        asked.append(1)
        return True

    @pipe.asset(when=is_wanted)
    async def maybe() -> int:
        return 1

    verbs = await open_verbs(pipe)
    await verbs.run(maybe)
    asked.clear()
    assert (await verbs.status(maybe)).fresh
    assert asked == []


async def test_status_describes_the_newest_attempt(open_verbs: OpenVerbs):
    """RUN-24: after a failed re-run it is `failed` with its error and `has_value`; `get` returns the earlier value."""
    chain = _Chain()
    verbs = await open_verbs(chain.pipe)
    await verbs.run("raw")
    first = await verbs.status("raw")
    chain.broken = True
    report = await verbs.report("raw", force=True)
    status = await verbs.status("raw")
    assert status.state == "failed"
    assert status.has_value
    assert isinstance(status.error, ExecutionError)
    assert status.run_id == report.run_id != first.run_id
    assert status.fresh
    assert await verbs.get("raw") == 1


async def test_reuse_leaves_the_times_of_the_computation(open_verbs: OpenVerbs):
    """RUN-24."""
    verbs = await open_verbs(_Chain().pipe)
    await verbs.run("total")
    before = await verbs.status("total")
    await verbs.run("total")
    assert await verbs.status("total") == before


async def test_a_later_success_replaces_a_failure(open_verbs: OpenVerbs):
    """RUN-24."""
    chain = _Chain()
    chain.broken = True
    verbs = await open_verbs(chain.pipe)
    await verbs.report("raw")
    chain.broken = False
    await verbs.run("raw")
    status = await verbs.status("raw")
    assert status.state == "completed"
    assert status.error is None


@dataclass
class _Args:
    limit: int
    tag: str = "x"


async def test_status_of_an_asset_that_takes_params_without_defaults(open_verbs: OpenVerbs):
    """RUN-23: nobody says with which params it would run, so they are no reason to be stale."""
    pipe = Pipeline("params", params=_Args)

    @pipe.asset
    async def limited(params: _Args) -> int:
        return params.limit

    verbs = await open_verbs(pipe)
    await verbs.run(limited, params=_Args(5))
    assert (await verbs.status(limited)).fresh


# -- wait (RUN-25) ------------------------------------------------------------------------------------------------


async def test_wait_without_a_run(open_verbs: OpenVerbs):
    """RUN-25: the current value, the newest failure, or `NotMaterialized`."""
    chain = _Chain()
    verbs = await open_verbs(chain.pipe)
    with pytest.raises(NotMaterialized):
        await verbs.wait("raw")
    await verbs.run("raw")
    assert await verbs.wait("raw") == 1
    chain.broken = True
    await verbs.report("raw", force=True)
    with pytest.raises(ExecutionError, match="broken"):
        await verbs.wait("raw")


async def _waiting(verbs: Verbs, asset: str) -> asyncio.Task[object]:
    task = asyncio.create_task(verbs.wait(asset))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_wait_awaits_the_active_run(open_verbs: OpenVerbs):
    """RUN-25: of what is being computed, and of what comes after it."""
    chain = _Chain()
    chain.gate.close()
    verbs = await open_verbs(chain.pipe)
    running = asyncio.create_task(verbs.run("total"))
    await chain.gate.reached()
    waiting = [await _waiting(verbs, name) for name in ("raw", "total")]
    chain.gate.open()
    assert await soon(asyncio.gather(*waiting)) == [1, 10]
    await soon(running)


async def test_wait_raises_the_failure_of_the_active_run(open_verbs: OpenVerbs):
    """RUN-25: also where an earlier value is stored."""
    chain = _Chain()
    verbs = await open_verbs(chain.pipe)
    await verbs.run("total")
    chain.gate.close()
    chain.broken = True
    running = asyncio.create_task(verbs.report("total", force="all"))
    await chain.gate.reached(2)
    waiting = [await _waiting(verbs, name) for name in ("raw", "total")]
    chain.gate.open()
    with pytest.raises(ExecutionError):
        await soon(waiting[0])
    with pytest.raises(DependencyFailed):
        await soon(waiting[1])
    await soon(running)


async def test_wait_for_a_run_that_is_cancelled(open_verbs: OpenVerbs):
    """RUN-25, RUN-27."""
    chain = _Chain()
    verbs = await open_verbs(chain.pipe)
    await verbs.run("total")
    chain.gate.close()
    running = asyncio.create_task(verbs.report("total", force="all"))
    await chain.gate.reached(2)
    waiting = [await _waiting(verbs, name) for name in ("raw", "total")]
    await verbs.cancel("total")
    for task in waiting:
        with pytest.raises(Cancelled):
            await soon(task)
    await soon(running)
    assert await verbs.wait("total") == 10


async def test_wait_for_a_run_that_skips(open_verbs: OpenVerbs):
    """RUN-25, RUN-15."""
    pipe, gate = Pipeline("skips"), Gate()

    async def never() -> bool:
        await gate()
        return False

    @pipe.asset(when=never)
    async def maybe() -> int:
        return 1

    verbs = await open_verbs(pipe)
    running = asyncio.create_task(verbs.report(maybe))
    await gate.reached()
    waiting = await _waiting(verbs, "maybe")
    gate.open()
    with pytest.raises(TargetSkipped):
        await soon(waiting)
    await soon(running)


async def test_wait_that_expires_leaves_the_run_running(open_verbs: OpenVerbs):
    """RUN-25."""
    chain = _Chain()
    chain.gate.close()
    verbs = await open_verbs(chain.pipe)
    running = asyncio.create_task(verbs.run("total"))
    await chain.gate.reached()
    for name in ("raw", "total"):
        with pytest.raises(TimedOut, match="goes on"):
            await verbs.wait(name, timeout="20ms")
    assert chain.gate.left == 0
    chain.gate.open()
    assert await soon(running) == 10


async def test_wait_in_another_engine(open_engine: OpenEngine):
    """RUN-25: for the asset that is computed and for the target of the run."""
    chain = _Chain()
    chain.gate.close()
    first, second = await open_engine(chain.pipe), await open_engine(chain.pipe, poll="50ms")
    running = asyncio.create_task(first.run("total"))
    await chain.gate.reached()
    waiting = [asyncio.create_task(second.wait(name)) for name in ("raw", "total")]
    with pytest.raises(TimedOut):
        await second.wait("total", timeout="20ms")
    assert not any(each.done() for each in waiting)
    chain.gate.open()
    assert await soon(asyncio.gather(*waiting)) == [1, 10]
    assert await soon(running) == 10


async def test_wait_does_not_wait_for_runs_that_only_reuse(open_verbs: OpenVerbs):
    """RUN-25: a fresh value that a running run does not look at is there already."""
    pipe, gate = Pipeline("reuse"), Gate()

    @pipe.asset
    async def raw() -> int:
        return 1

    @pipe.asset
    async def middle(raw: int) -> int:
        return raw

    @pipe.asset
    async def slow(middle: int) -> int:
        await gate()
        return middle

    verbs = await open_verbs(pipe)
    await verbs.run(middle)
    running = asyncio.create_task(verbs.run(slow))
    await gate.reached()
    assert await soon(verbs.wait(raw)) == 1
    assert await soon(verbs.wait(middle)) == 1
    gate.open()
    await soon(running)


async def test_reading_needs_a_known_manager(open_verbs: OpenVerbs):
    """STORE-01: an `io=` that is no manager."""
    verbs = await open_verbs(_Chain().pipe)
    with pytest.raises(ConfigError):
        await verbs.get("raw", io="nowhere")
    with pytest.raises(ConfigError):
        await verbs.get("raw", io=3)


async def test_a_value_kept_in_files_is_read_by_another_engine(open_engine: OpenEngine, tmp_path: object):
    """RUN-20: the record says where it is."""
    pipe = Pipeline("files")

    @pipe.asset(io=io.Files(str(tmp_path)), cache=Cache(ttl="1h"))
    async def raw() -> dict[str, int]:
        return {"a": 1}

    first, second = await open_engine(pipe), await open_engine(pipe)
    await first.run(raw)
    assert await second.get(raw) == {"a": 1}
    assert (await second.status(raw)).fresh
