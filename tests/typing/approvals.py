# pyright: strict

"""What a type checker knows of approvals; nothing here runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, assert_type

from flowstone_async import After, Ask, Context, Daily, Decision, Engine, Extend, Pipeline, notify

pipe = Pipeline("approvals")
days = Daily("2025-01-01")


@dataclass
class ReleaseForm:
    """What the approver fills."""

    note: str


async def proposed(total: int) -> ReleaseForm:
    """Propose the form."""
    return ReleaseForm(str(total))


@pipe.asset
async def total() -> int:
    """Return what is asked about."""
    return 1


@pipe.approval(timeout="24h", form=ReleaseForm, initial=proposed, roles=["release"], notify=[notify.slack("#deploys")])
async def approve_production(total: int) -> str:
    """Ask with a form."""
    return f"Deploy {total} to production?"


@pipe.approval
async def approve_plainly(total: int) -> str | None:
    """Ask without one."""
    return None if total else "Nothing to see?"


@pipe.approval(partitions=days, form=ReleaseForm, on_timeout=Extend("4h", times=3), escalate=[After("4h", to=["x"])])
async def approve_daily(partition: date) -> Ask:
    """Ask for each day."""
    return Ask(f"{partition}?", show={"day": partition})


@approve_production.on_approve
async def approved(decision: Decision[ReleaseForm], total: int) -> str:
    """Make the value of the decision."""
    return f"{decision.form.note} {total}"


@pipe.asset
async def deploy(total: int, approve_plainly: Decision[None]) -> str:
    """Take the decision."""
    return f"{total} {approve_plainly.by}"


async def inline(ctx: Context) -> None:
    """The form decides what a decision holds."""
    assert_type(await ctx.approval("Large trade", form=ReleaseForm, show=5), Decision[ReleaseForm])
    assert_type((await ctx.approval("Large trade", form=ReleaseForm)).form, ReleaseForm)
    assert_type(await ctx.approval("Large trade", timeout=False, key=3), Decision[None])
    await ctx.approval("Large trade", on_timeout="perhaps")  # pyright: ignore[reportArgumentType]
    await ctx.approval(5)  # pyright: ignore[reportArgumentType]


async def deciding(engine: Engine) -> None:
    """The handle decides what a decision holds."""
    form = ReleaseForm("ok")
    assert_type(await engine.approve(approve_production, by="alice", form=form), Decision[ReleaseForm])
    assert_type(await engine.approve(approve_daily, by="alice", form=form, partition=date.min), Decision[ReleaseForm])
    assert_type(await pipe.approve(approve_plainly, by="alice"), Decision[None])
    assert_type(await engine.approve("request", by="alice"), Decision[Any])
    assert_type(await engine.run(approve_plainly), Decision[None])
    assert_type(await engine.run(approve_daily, partition=date.min), Decision[ReleaseForm])
    assert_type(await approve_production(3), str | Ask | None)
    await engine.run(approve_daily)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await engine.approve(approve_production)  # pyright: ignore[reportCallIssue]
    await approve_production("3")  # pyright: ignore[reportArgumentType]
