"""What happens when assets fail or are skipped: RUN-13, RUN-14, RUN-15, and RUN-04 for several targets."""

from __future__ import annotations

import asyncio
import traceback
from datetime import date

import pytest

from flowstone_async import (
    DependencyFailed,
    ExecutionError,
    Failed,
    FlowstoneError,
    NotMaterialized,
    Pipeline,
    Skipped,
    StorageError,
    TargetSkipped,
    dep,
)
from flowstone_async._engine.verbs import Verbs
from tests.support.engines import OpenEngine, OpenVerbs
from tests.support.gate import Gate, soon


class _Branches:
    """`good` and `bad` come from `top`; `after_good` and `after_bad` come below; `both` needs both."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("branches")
        self.calls: list[str] = []
        self.gate = Gate()
        self.gate.open()
        self.cause: Exception = ValueError("no luck")

        @pipe.asset
        async def top() -> int:
            self.calls.append("top")
            return 1

        @pipe.asset
        async def bad(top: int) -> int:
            self.calls.append("bad")
            raise self.cause

        @pipe.asset
        async def good(top: int) -> int:
            await self.gate()
            self.calls.append("good")
            return top

        @pipe.asset
        async def after_good(good: int) -> int:
            self.calls.append("after_good")
            return good

        @pipe.asset
        async def after_bad(bad: int) -> int:
            self.calls.append("after_bad")
            return bad

        @pipe.asset
        async def last(after_bad: int) -> int:
            self.calls.append("last")
            return after_bad

        @pipe.asset
        async def both(after_good: int, bad: int) -> int:
            self.calls.append("both")
            return bad


async def _caught(verbs: Verbs, *targets: str, **options: object) -> FlowstoneError:
    with pytest.raises(FlowstoneError) as caught:
        await verbs.run(*targets, **options)  # pyright: ignore[reportArgumentType, reportCallIssue] - options of a run
    return caught.value


async def test_a_failing_branch_does_not_stop_the_others(open_verbs: OpenVerbs):
    """RUN-13: dependants are not called, independent assets go on to their end, committed values stay."""
    branches = _Branches()
    branches.gate.close()
    verbs = await open_verbs(branches.pipe)
    running = asyncio.create_task(verbs.report("both", "last"))
    await branches.gate.reached()
    while "bad" not in branches.calls:
        await asyncio.sleep(0)
    branches.gate.open()
    report = await soon(running)
    assert not report.ok
    assert sorted(branches.calls) == ["after_good", "bad", "good", "top"]
    for name in ("top", "good", "after_good"):
        assert await verbs.exists(name)
    for name in ("bad", "after_bad", "both", "last"):
        assert not await verbs.exists(name)


async def test_committed_values_are_reused_afterwards(open_verbs: OpenVerbs):
    """RUN-13."""
    branches = _Branches()
    verbs = await open_verbs(branches.pipe)
    await verbs.report("both")
    branches.calls.clear()
    await verbs.report("both")
    assert branches.calls == ["bad"]


async def test_a_tolerated_failure_does_not_fail_the_run(open_verbs: OpenVerbs):
    """RUN-13: the run succeeds, and lists it."""
    branches = _Branches()

    @branches.pipe.asset
    async def tolerant(bad: int | None = dep("bad", optional=True)) -> str:
        return repr(bad)

    verbs = await open_verbs(branches.pipe)
    report = await verbs.report(tolerant)
    assert report.ok
    assert report.value == "None"
    assert report.tolerated == ("bad",)
    assert report["bad"].state == "failed"
    assert report[tolerant].state == "ok"


async def test_a_tolerated_failure_received_as_a_value(open_verbs: OpenVerbs):
    """RUN-13, ASSET-08: a parameter `T | Failed`."""
    branches = _Branches()

    @branches.pipe.asset
    async def tolerant(bad: int | Failed) -> str:
        assert isinstance(bad, Failed)
        return f"{bad.asset}: {bad.error_type}"

    verbs = await open_verbs(branches.pipe)
    assert await verbs.run(tolerant) == "bad: ValueError"


async def test_a_blocked_upstream_is_tolerated_too(open_verbs: OpenVerbs):
    """RUN-13: `after_bad` never ran, because of `bad`; for whoever tolerates it that is a failure."""
    branches = _Branches()

    @branches.pipe.asset
    async def tolerant(after_bad: int | None = dep("after_bad", optional=True)) -> str:
        return repr(after_bad)

    verbs = await open_verbs(branches.pipe)
    assert await verbs.run(tolerant) == "None"


async def test_a_failing_target_raises_execution_error(open_verbs: OpenVerbs):
    """RUN-14: its `__cause__` is the original exception."""
    branches = _Branches()
    verbs = await open_verbs(branches.pipe)
    error = await _caught(verbs, "bad", partition=date(2025, 1, 15))
    assert type(error) is ExecutionError
    assert error.__cause__ is branches.cause
    assert error.asset == "bad"
    assert error.partition == date(2025, 1, 15)
    assert error.run_id
    assert error.attempt == 1
    assert "no luck" in error.message
    assert "raise self.cause" in error.traceback_text


async def test_a_blocked_target_names_the_asset_that_failed(open_verbs: OpenVerbs):
    """RUN-14: `DependencyFailed` names the upstream and its partition, with the upstream's error as cause."""
    branches = _Branches()
    verbs = await open_verbs(branches.pipe)
    error = await _caught(verbs, "last", partition=date(2025, 1, 15))
    assert type(error) is DependencyFailed
    assert "'bad'" in error.message
    assert "2025-01-15" in error.message
    assert error.asset == "last"
    assert isinstance(error.__cause__, ExecutionError)
    assert error.__cause__.asset == "bad"
    assert error.__cause__.partition == date(2025, 1, 15)
    assert error.__cause__.__cause__ is branches.cause
    assert error.details["upstream"] == "bad"


async def test_a_library_error_of_a_body_passes_through(open_verbs: OpenVerbs):
    """RUN-14, ERR-04: its type is kept, asset and partition are filled in."""
    branches = _Branches()
    branches.cause = StorageError("the lake is dry", retryable=True)
    verbs = await open_verbs(branches.pipe)
    error = await _caught(verbs, "bad")
    assert type(error) is StorageError
    assert error.asset == "bad"
    assert error.retryable
    below = await _caught(verbs, "last")
    assert type(below) is DependencyFailed
    assert isinstance(below.__cause__, StorageError)


class _Mine(FlowstoneError):
    """An error of the user's own, below the library's, with a constructor of its own."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.one = one


async def test_an_error_with_a_constructor_of_its_own(open_verbs: OpenVerbs):
    """RUN-14: comes through as it was raised."""
    branches = _Branches()
    branches.cause = _Mine(1, 2)
    verbs = await open_verbs(branches.pipe)
    error = await _caught(verbs, "bad")
    assert isinstance(error, _Mine)
    assert error.one == 1
    assert error.message == "1 and 2"


async def test_an_exception_group_stays_one(open_verbs: OpenVerbs):
    """RUN-14, ERR-04."""
    branches = _Branches()
    branches.cause = ExceptionGroup("several", [ValueError("one"), KeyError("two")])
    verbs = await open_verbs(branches.pipe)
    error = await _caught(verbs, "bad")
    assert isinstance(error.__cause__, ExceptionGroup)
    assert len(error.__cause__.exceptions) == 2


async def test_the_first_failing_target_in_argument_order(open_verbs: OpenVerbs):
    """RUN-04: the rest in `.also`."""
    pipe, gate = Pipeline("several"), Gate()

    @pipe.asset
    async def fine() -> int:
        return 1

    @pipe.asset
    async def late() -> int:
        await gate()
        raise ValueError("late")

    @pipe.asset
    async def early() -> int:
        gate.open()
        raise KeyError("early")

    verbs = await open_verbs(pipe)
    error = await _caught(verbs, "fine", "late", "early")
    assert error.asset == "late"
    assert [each.asset for each in error.also] == ["early"]
    other = await _caught(verbs, "early", "late")
    assert other.asset == "early"
    assert [each.asset for each in other.also] == ["late"]


async def test_an_error_raised_for_two_callers_is_not_shared(open_verbs: OpenVerbs):
    """RUN-16: joined callers share the outcome; the traceback of each is its own."""
    pipe, gate = Pipeline("shared"), Gate()

    @pipe.asset
    async def bad() -> int:
        await gate()
        raise ValueError("no")

    verbs = await open_verbs(pipe)
    callers = [asyncio.create_task(verbs.run(bad)) for _ in range(2)]
    await gate.reached()
    gate.open()
    one, two = await soon(asyncio.gather(*callers, return_exceptions=True))
    assert isinstance(one, ExecutionError)
    assert isinstance(two, ExecutionError)
    assert one is not two
    assert one.__cause__ is two.__cause__
    assert gate.calls == 1
    frames = [len(traceback.extract_tb(each.__traceback__)) for each in (one, two)]
    assert frames[0] == frames[1]


async def test_a_skipped_target_raises_with_the_reason(open_verbs: OpenVerbs):
    """RUN-15: nothing is stored, and an earlier value is not returned in its place."""
    pipe, wanted = Pipeline("skips"), [True]

    async def is_wanted() -> bool:
        return wanted[0]

    @pipe.asset(when=is_wanted)
    async def maybe() -> int:
        return 1

    @pipe.asset
    async def after(maybe: int) -> int:
        return maybe

    verbs = await open_verbs(pipe)
    wanted[0] = False
    with pytest.raises(TargetSkipped, match="is_wanted"):
        await verbs.run(maybe)
    with pytest.raises(NotMaterialized):
        await verbs.get(maybe)
    wanted[0] = True
    assert await verbs.run(after) == 1
    wanted[0] = False
    for target in (maybe, after):
        with pytest.raises(TargetSkipped, match="is_wanted") as caught:
            await verbs.run(target)
        assert "is_wanted" in str(caught.value.details["reason"])
        assert await verbs.get(target) == 1


async def test_a_skip_is_absorbed_where_it_is_tolerated(open_verbs: OpenVerbs):
    """RUN-15, FLOW-05: optional, or annotated `| Skipped`; no earlier value is passed on in its place."""
    pipe, wanted = Pipeline("skips"), [True]

    @pipe.asset(unless=lambda: not wanted[0])
    async def maybe() -> int:
        return 1

    @pipe.asset
    async def optional(maybe: int | None = dep(maybe, optional=True)) -> str:
        return repr(maybe)

    @pipe.asset
    async def received(maybe: int | Skipped) -> str:
        return maybe.asset if isinstance(maybe, Skipped) else repr(maybe)

    verbs = await open_verbs(pipe)
    assert await verbs.run(optional, received) == ("1", "1")
    wanted[0] = False
    assert await verbs.run(optional, received) == ("None", "maybe")
    wanted[0] = True
    assert await verbs.run(optional, received) == ("1", "1")


async def test_what_was_skipped_is_computed_once_its_condition_holds(open_verbs: OpenVerbs):
    """RUN-15, CACHE-08: a value received as absent is an input, and stale once there is one."""
    pipe, wanted, calls = Pipeline("skips"), [False], []

    @pipe.asset(when=lambda: wanted[0])
    async def maybe() -> int:
        calls.append("maybe")
        return 1

    @pipe.asset
    async def optional(maybe: int | None = dep(maybe, optional=True)) -> str:
        calls.append("optional")
        return repr(maybe)

    verbs = await open_verbs(pipe)
    assert await verbs.run(optional) == "None"
    assert await verbs.run(optional) == "None"
    assert calls == ["optional"]
    wanted[0] = True
    assert await verbs.run(optional) == "1"
    assert calls == ["optional", "maybe", "optional"]


async def test_a_condition_is_not_asked_without_what_it_needs(open_verbs: OpenVerbs):
    """RUN-14, FLOW-04: if an upstream of a condition failed, the asset is blocked and the condition not called."""
    pipe, asked = Pipeline("conditions"), []

    @pipe.asset
    async def bad() -> int:
        raise ValueError("no")

    async def positive(bad: int) -> bool:
        asked.append(bad)
        return True

    @pipe.asset(when=positive)
    async def after() -> int:
        return 1

    verbs = await open_verbs(pipe)
    error = await _caught(verbs, "after")
    assert type(error) is DependencyFailed
    assert asked == []


async def test_failures_survive_in_the_store(open_engine: OpenEngine):
    """RUN-14, ERR-06: another engine on the store sees the same type, code and text."""
    branches = _Branches()
    first, second = await open_engine(branches.pipe), await open_engine(branches.pipe)
    await _caught(first, "last")
    bad, last = (await second.status("bad")).error, (await second.status("last")).error
    assert isinstance(bad, ExecutionError)
    assert "no luck" in bad.message
    assert "raise self.cause" in bad.traceback_text
    assert isinstance(last, DependencyFailed)
