# pyright: strict

"""What a type checker knows of bodies that return gates; nothing here runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import assert_type

from flowstone_async import Asset, Context, Daily, Gathered, PartitionedAsset, Pipeline, Rearm, SignalGate

pipe = Pipeline("typed")


@dataclass
class JobDone:
    """What the other side sends."""

    result: str


@pipe.asset
async def total() -> int:
    """Return what jobs take."""
    return 1


@pipe.asset(signal=JobDone, timeout="1h")
async def external(total: int, ctx: Context) -> str | SignalGate[JobDone]:
    """Return the gate for the end of a job."""
    return ctx.signal(JobDone, token="t1", timeout="1h") if total else "nothing to do"


@external.on_signal
async def external_done(done: JobDone, total: int) -> str:
    """Return the value."""
    return f"{done.result} {total}"


@external.on_timeout
async def external_late(ctx: Context) -> str | Rearm:
    """Wait on, or give up."""
    return Rearm("15m") if ctx.attempt == 1 else "late"


@pipe.asset(signal=JobDone, max_rearms=1, partitions=Daily("2025-01-01"))
async def daily() -> JobDone | SignalGate[JobDone]:
    """Return a gate with a token of the other side's."""
    return SignalGate(JobDone, token="t2", timeout=False)


@daily.on_timeout
async def daily_late() -> Rearm:
    """Wait on."""
    return Rearm(timeout=900)


@external.on_signal  # pyright: ignore[reportArgumentType]
async def wrong_value(done: JobDone) -> int:
    """Return another type."""
    return len(done.result)


@external.on_timeout  # pyright: ignore[reportArgumentType]
async def wrong_late() -> int | Rearm:
    """Return another type."""
    return 1


@pipe.scatter([1, 2], signal=JobDone, max_rearms=1)
async def items(number: int, total: int, ctx: Context) -> str | SignalGate[JobDone]:
    """Return the gate for the end of an item's job."""
    return ctx.signal(JobDone) if total else f"item {number}"


@items.on_signal
async def item_done(number: int, done: JobDone) -> str:
    """Return the result of an item."""
    return f"{number} {done.result}"


@items.on_timeout
async def item_late(number: int, ctx: Context) -> str | Rearm:
    """Wait on, or give up."""
    return Rearm("15m") if ctx.attempt == 1 else f"{number} is late"


@items.gather
async def all_items(results: Gathered[str]) -> list[str]:
    """Take them together."""
    return [each async for each in results]


@items.on_signal  # pyright: ignore[reportArgumentType]
async def wrong_item_value(number: int, done: JobDone) -> int:
    """Return another type."""
    return number + len(done.result)


@pipe.scatter(["a"])
async def plain(text: str) -> int | None:
    """Return no gate."""
    return len(text) or None


async def main() -> None:
    """The gate is stripped from the union."""
    assert_type(await pipe.run(items), Gathered[str])
    assert_type(await pipe.run(plain), Gathered[int | None])
    assert_type(await pipe.run(all_items), list[str])
    value: Asset[..., str] = external
    partitioned: PartitionedAsset[[], JobDone, date] = daily
    assert_type(await pipe.run(value), str)
    assert_type(await pipe.run(partitioned, partition=date(2025, 1, 1)), JobDone)
    assert_type(await pipe.run(external), str)
    assert_type(await pipe.run(daily, partition=date(2025, 1, 1)), JobDone)
    assert_type(await external_done(JobDone("x"), 1), str)
