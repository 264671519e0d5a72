"""The context of a body and the streams it may give (FLOW-03, ASSET-07, ASSET-09)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pytest

from flowstone_async import ConfigError, Context, ExecutionError, Pipeline, Retry, Stream, dep, param
from flowstone_async.definition.context import Call
from tests.unit.definition.reading import untyped


@dataclass
class Args:
    """Params."""

    limit: int = 3


class Db:
    """A resource's type."""


async def test_what_a_context_tells() -> None:
    """FLOW-03."""
    pipe = Pipeline("p", params=Args)
    seen: dict[str, Any] = {}

    @pipe.resource
    async def db() -> Db:
        return Db()

    @pipe.resource
    async def other() -> bytes:
        raise AssertionError("nobody takes it")

    @pipe.asset(retry=Retry(2, backoff="none"))
    async def body(ctx: Context, handle: Db, limit: int = param("limit")) -> int:
        if ctx.attempt == 1:
            raise ValueError("again")
        names = ("pipeline", "asset", "partition", "run_id", "attempt", "started_at", "scheduled_at", "params")
        seen.update({name: getattr(ctx, name) for name in names})
        seen["resources"] = dict(ctx.resources)
        ctx.metadata(rows=3)
        ctx.metadata(rows=4, note="x")
        return limit

    assert await pipe.run(body, partition="us", run_id="0198c0de-0000-7000-8000-000000000001") == 3
    assert isinstance(seen.pop("started_at"), datetime)
    assert isinstance(seen["resources"].pop("db"), Db)
    assert seen == {
        "pipeline": "p",
        "asset": "body",
        "partition": "us",
        "run_id": "0198c0de-0000-7000-8000-000000000001",
        "attempt": 2,
        "scheduled_at": None,
        "params": Args(3),
        "resources": {},
    }


def test_idempotency_keys_of_earlier_versions_stay_as_they_were() -> None:
    """FLOW-03: services remember the keys that they were given, whatever version continues the run."""
    facts: Any = {"pipeline": "p", "run_id": "0198c0de-0000-7000-8000-000000000001", "started_at": datetime.now(UTC)}
    cases = [("charge", None), ("charge", "us"), ("charge", 7), ("charge", "7"), ("charge", ("us", date(2025, 1, 2)))]
    keys = {
        case: Context(Call(asset=case[0], partition=case[1], attempt=attempt, **facts)).idempotency_key
        for case in cases
        for attempt in (1, 2)
    }
    assert keys == {
        ("charge", None): "5fe306ba-73f3-524d-a0a7-1d532252c819",
        ("charge", "us"): "e48e1649-be26-5004-9259-d83b1a891e2f",
        ("charge", 7): "02f601b5-2518-5d13-b64d-235c4d6212c8",
        ("charge", "7"): "0ccffc48-9314-5502-be9e-42b892eb682e",
        ("charge", ("us", date(2025, 1, 2))): "c691e4b6-1c72-5d3d-a17b-9e98395609f1",
    }


async def test_a_context_ends_with_its_body() -> None:
    """FLOW-03: using it afterwards is a `ConfigError`, also after a failure."""
    pipe = Pipeline("p")
    kept: list[Context] = []

    @pipe.asset
    async def keeps(ctx: Context) -> int:
        kept.append(ctx)
        return 1

    @pipe.asset
    async def fails(ctx: Context) -> int:
        kept.append(ctx)
        raise ValueError

    await pipe.run(keeps)
    with pytest.raises(ExecutionError):
        await pipe.run(fails)
    for ctx in kept:
        for name in ("asset", "run_id", "params", "log", "resources", "dep_status"):
            with pytest.raises(ConfigError, match="was used after its body had ended"):
                getattr(ctx, name)
        with pytest.raises(ConfigError, match="inside the body"):
            ctx.metadata(rows=1)


async def test_how_optional_dependencies_ended() -> None:
    """ASSET-07: by parameter and by asset; a stored None is not an absent value."""
    pipe = Pipeline("p")
    seen: dict[str, str] = {}

    @pipe.asset
    async def none() -> None:
        return None

    @pipe.asset
    async def fails() -> int:
        raise ValueError

    @pipe.asset(when=lambda: False)
    async def skipped() -> int:
        return 1

    @pipe.asset
    async def down(
        ctx: Context,
        none: None,
        a: int | None = dep(fails, optional=True),
        b: int | None = dep(skipped, optional=True),
        c: None = dep(none, optional=True),
    ) -> list[object]:
        seen.update(ctx.dep_status)
        return [none, a, b, c]

    assert await pipe.run(down) == [None, None, None, None]
    assert seen == {
        "none": "ok",
        "a": "failed",
        "fails": "failed",
        "b": "skipped",
        "skipped": "skipped",
        "c": "ok",
    }

    @pipe.asset
    async def missing(ctx: Context, x: int | None = dep("fails", optional=True)) -> str:
        return ctx.dep_status["fails"]

    assert await pipe.run(missing, with_deps=False) == "missing"


@pytest.mark.parametrize("tolerates", [{"failed"}, {"skipped"}, {"missing"}, set()])
async def test_a_pipeline_narrows_what_optional_tolerates(tolerates: Any) -> None:
    """ASSET-07."""
    pipe = Pipeline("p", optional_tolerates=tolerates)

    @pipe.asset
    async def fails() -> int:
        raise ValueError

    @pipe.asset(when=lambda: False)
    async def skipped() -> int:
        return 1

    @pipe.asset
    async def of_failed(x: int | None = dep(fails, optional=True)) -> str:
        return "ran"

    @pipe.asset
    async def of_skipped(x: int | None = dep(skipped, optional=True)) -> str:
        return "ran"

    report = await pipe.report(of_failed, of_skipped)
    assert (report[of_failed].state == "ok") is ("failed" in tolerates)
    assert (report[of_skipped].state == "ok") is ("skipped" in tolerates)
    missing = await pipe.report(of_failed, with_deps=False, force=True)
    assert missing.ok is ("missing" in tolerates)


def test_what_optional_cannot_tolerate() -> None:
    """ASSET-07: lists what is allowed."""
    with pytest.raises(
        ConfigError, match=r"optional_tolerates has 'late'\n  Allowed are 'failed', 'skipped', 'missing'."
    ):
        untyped(Pipeline)("p", optional_tolerates={"failed", "late"})


async def test_the_log_is_bound_to_the_body(caplog: pytest.LogCaptureFixture) -> None:
    """FLOW-03."""
    pipe = Pipeline("p")

    @pipe.asset
    async def body(ctx: Context) -> int:
        ctx.log.info("read %d rows", 3, extra={"table": "orders"})
        return 1

    with caplog.at_level(logging.INFO, logger="flowstone"):
        await pipe.run(body, partition="us")
    (record,) = [each for each in caplog.records if "rows" in each.getMessage()]
    assert record.getMessage() == "[body us] read 3 rows"
    facts = vars(record)
    assert (facts["asset"], facts["partition"], facts["table"]) == ("body", "us", "orders")
    assert facts["run_id"]


def test_a_context_without_partition_in_the_log() -> None:
    """FLOW-03."""
    call = Call(
        pipeline="p", asset="a", partition=None, run_id="r", attempt=1, started_at=datetime(2025, 1, 1, tzinfo=UTC)
    )
    assert Context(call).log.process("text", {})[0] == "[a] text"


# -- streams --------------------------------------------------------------------------------------------------------


async def _numbers() -> AsyncIterator[int]:
    for number in range(3):
        yield number


async def test_a_stream_is_read_as_often_as_one_likes() -> None:
    """ASSET-09."""
    stream = Stream(_numbers)
    assert [n async for n in stream] == [n async for n in stream] == [0, 1, 2]
    assert await stream.to_list(limit=3) == [0, 1, 2]
    assert repr(stream) == "<Stream>"


async def test_a_stream_is_never_held_whole_by_mistake() -> None:
    """ASSET-09, G-03: a list has a limit, beyond which the generator is closed."""
    closed: list[bool] = []

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    with pytest.raises(ConfigError, match="the stream has more than limit=10 items"):
        await Stream(endless).to_list(limit=10)
    assert closed == [True]


async def test_a_stream_asset_that_raises_midway_commits_nothing() -> None:
    """ASSET-09."""
    pipe = Pipeline("p")
    fail = True

    @pipe.asset
    async def numbers() -> AsyncIterator[int]:
        yield 1
        if fail:
            raise ValueError("midway")
        yield 2

    with pytest.raises(ExecutionError):
        await pipe.run(numbers)
    assert not await pipe.exists(numbers)
    fail = False
    assert [n async for n in await pipe.run(numbers)] == [1, 2]
