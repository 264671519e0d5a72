# pyright: strict

"""What a type checker knows of durable steps; nothing here runs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_type
from uuid import UUID

from flowstone_async import Context, Retry


async def charge(amount: int, *, note: str = "") -> str:
    """Return what a step returns."""
    return f"{amount} {note}"


def plain(amount: int) -> float:
    """Run in a thread."""
    return amount / 2


async def book(connection: object, amount: int) -> int:
    """Write with a connection."""
    return amount if connection else 0


async def steps(ctx: Context) -> None:
    """Each is typed as its function is, arguments included."""
    assert_type(await ctx.step(charge, 5, note="a"), str)
    assert_type(await ctx.step.using(name="pay", key=3, retry=Retry(attempts=2), timeout="1s")(charge, 5), str)
    assert_type(await ctx.step.using(retry=False, timeout=timedelta(seconds=1))(charge, 5), str)
    assert_type(await ctx.step.using(run_in="thread")(plain, 5), float)
    assert_type(await ctx.tx(book, 5), int)
    async with ctx.group() as group:
        child = group.start(charge, 5, note="b")
        assert_type(await child, str)
    assert_type(child.result(), str)
    assert_type(ctx.now(), datetime)
    assert_type(ctx.uuid(), UUID)
    assert_type(ctx.random(), float)
    assert_type(ctx.replaying, bool)
    await ctx.step(charge, "5")  # pyright: ignore[reportArgumentType]
    await ctx.step(plain, 5)  # pyright: ignore[reportArgumentType]
