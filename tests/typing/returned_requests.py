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
    Batch,
    Batching,
    Context,
    Daily,
    Decision,
    Extend,
    Gathered,
    Item,
    PartitionedAsset,
    PartitionedScatterAsset,
    Pipeline,
    ScatterAsset,
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


@pipe.scatter(["bees", "ants"])
async def leaf(name: str) -> Draft | ApprovalGate[Draft]:
    """Ask for each item."""
    return ApprovalGate("Publish?", value=Draft(name), form=Draft)


@leaf.on_approve
async def printed(name: str, decision: Decision[Draft], topic: str) -> Draft:
    """Make the result of an item of the decision."""
    return Draft(f"{name} {decision.form.text} {topic}")


@leaf.on_reject
async def burnt(name: str, decision: Decision[Draft]) -> Draft:
    """Go on all the same."""
    return Draft(f"{name} {decision.by}")


@leaf.gather
async def leaves(results: Gathered[Draft]) -> int:
    """Take what was approved."""
    return results.total


@pipe.scatter([1, 2], signal=Done, partitions=Daily("2025-01-01"))
async def counted(number: int) -> int | SignalGate[Done] | ApprovalGate[int]:
    """Return one, the other or neither."""
    return ApprovalGate("Well?", value=number) if number else SignalGate(Done, token="t") if number > 1 else 0


@counted.on_approve
async def agreed(number: int, decision: Decision[None]) -> int:
    """Return the result."""
    return number + decision.approved


@pipe.scatter([[1], [2]], batch=Batching(max_items=2))
async def batched(numbers: Batch[list[int]]) -> list[int] | ApprovalGate[list[int]]:
    """Ask for a batch."""
    return ApprovalGate("These?", value=numbers[0])


@pipe.scatter([{"a": 1}])
async def mapped(row: Item) -> str | ApprovalGate[str]:
    """Ask for what has no model."""
    return ApprovalGate("This?", value=str(row))


@leaf.on_approve  # pyright: ignore[reportArgumentType]
async def wrong_leaf(name: str, decision: Decision[Draft]) -> int:
    """Return another type."""
    return int(decision.approved)


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
    leafs: ScatterAsset[[str], Draft] = leaf
    numbers: PartitionedScatterAsset[[int], int, date] = counted
    assert_type(await pipe.run(leafs), Gathered[Draft])
    assert_type(await pipe.run(numbers, partition=date(2025, 1, 1)), Gathered[int])
    assert_type(await pipe.run(batched), Gathered[list[int]])
    assert_type(await pipe.run(mapped), Gathered[str])
    assert_type(await pipe.run(leaves), int)
    assert_type(await pipe.approve(draft, by="alice"), Decision[Any])
    ApprovalGate("Publish?", value=Draft(""), on_timeout="perhaps")  # pyright: ignore[reportArgumentType]
    ApprovalGate("Publish?")  # pyright: ignore[reportCallIssue]
