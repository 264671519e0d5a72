# pyright: strict

"""What a type checker knows of bodies that return requests for approval; nothing here runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, assert_type

from flowstone_async import (
    After,
    ApprovalGate,
    Asset,
    Context,
    Daily,
    Decision,
    Extend,
    PartitionedAsset,
    Pipeline,
    SignalGate,
)

pipe = Pipeline("typed")


@dataclass
class Draft:
    """What is published."""

    text: str


@dataclass
class Done:
    """What the other side sends."""

    url: str


@pipe.asset
async def topic() -> str:
    """Return what it is about."""
    return "bees"


@pipe.asset
async def draft(topic: str) -> Draft | ApprovalGate[Draft]:
    """Ask whether it may be published."""
    made = Draft(topic)
    return (
        ApprovalGate("Publish?", value=made, form=Draft, show=made, timeout="4h", roles=["editor"]) if topic else made
    )


@draft.on_approve
async def published(decision: Decision[Draft], topic: str) -> Draft:
    """Make the value of the decision."""
    return Draft(f"{decision.form.text} {topic} {decision.inputs['value']}")


@draft.on_reject
async def kept_back(decision: Decision[Draft], ctx: Context) -> Draft:
    """Go on all the same."""
    return Draft(f"{decision.by} {ctx.attempt}")


@pipe.asset(partitions=Daily("2025-01-01"), retry=False)
async def daily(partition: date) -> int | ApprovalGate[int]:
    """Ask for each day."""
    return ApprovalGate(
        f"{partition}?", value=1, on_timeout=Extend("4h"), escalate=[After("4h", to=["oncall"])], name="the day"
    )


@pipe.asset(timeout="1h")
async def plain() -> int | None:
    """Return what has no request in it."""
    return None


@pipe.asset(signal=Done)
async def either(ctx: Context) -> str | SignalGate[Done] | ApprovalGate[str]:
    """Return one or the other."""
    return ctx.signal(Done) if ctx.attempt else ApprovalGate("Well?", value="yes")


@either.on_signal
async def done(payload: Done) -> str:
    """Return the value."""
    return payload.url


@draft.on_approve  # pyright: ignore[reportArgumentType]
async def wrong(decision: Decision[Draft]) -> int:
    """Return another type."""
    return int(decision.approved)


async def main() -> None:
    """The request is stripped from the union."""
    value: Asset[..., Draft] = draft
    partitioned: PartitionedAsset[[date], int, date] = daily
    assert_type(await pipe.run(value), Draft)
    assert_type(await pipe.run(draft), Draft)
    assert_type(await pipe.run(partitioned, partition=date(2025, 1, 1)), int)
    assert_type(await pipe.run(plain), int | None)
    assert_type(await pipe.run(topic), str)
    assert_type(await pipe.run(either), str)
    assert_type(await pipe.approve(draft, by="alice"), Decision[Any])
    ApprovalGate("Publish?", value=Draft(""), on_timeout="perhaps")  # pyright: ignore[reportArgumentType]
    ApprovalGate("Publish?")  # pyright: ignore[reportCallIssue]
