"""Requests for approval across restarts, races and items (APPR-07, APPR-08, APPR-10, APPR-14, APPR-15)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstone_async import (
    After,
    ApprovalRequest,
    ApprovalRequested,
    Context,
    Decision,
    Engine,
    GateClosed,
    Pipeline,
    Rejected,
    WaitingApproval,
)
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.waits import in_state

SECRET: Any = {"secret": b"s" * 32, "poll": "50ms", "park_after": 0}


async def test_escalation_across_a_restart(open_engine: OpenEngine):
    """APPR-10: once each, by whoever is there when it is due, or at the next start."""
    told, pipe = list[ApprovalRequested](), Pipeline("release")

    async def tell(requested: ApprovalRequested) -> None:
        told.append(requested)

    @pipe.approval(notify=[tell], escalate=[After("50ms", notify=[tell]), After("60ms", to=["boss"])])
    async def approve() -> str:
        return "Deploy?"

    first = await open_engine(pipe, **SECRET)
    with pytest.raises(WaitingApproval):
        await soon(first.run(approve))
    await first.__aexit__(None, None, None)
    second = await open_engine(pipe, **SECRET)
    run_id = (await second.approvals.pending())[0].run_id
    await soon(_told(told, 2))
    await in_state(second, run_id, "waiting")
    assert [each.escalation for each in told] == [None, 0]
    assert len({each.id for each in told}) == 1
    await second.approve(approve, by="boss")
    assert (await soon(second.run(approve))).by == "boss"
    assert len(told) == 2


async def _told(told: list[ApprovalRequested], count: int) -> None:
    while len(told) < count:
        await asyncio.sleep(0)


async def test_what_fell_due_while_nothing_ran_expires_at_the_next_start(open_engine: OpenEngine):
    """APPR-08: and cannot be decided, swept or not."""
    pipe = Pipeline("release")

    @pipe.approval(timeout="30ms")
    async def approve() -> str:
        return "Deploy?"

    first = await open_engine(pipe, **SECRET)
    run = await first.submit(approve)
    found = await soon(_asked(first, run.id))
    await first.__aexit__(None, None, None)
    looking = await open_engine(pipe, **{**SECRET, "slots": 0, "poll": "60s"})
    await soon(_expired(looking, found.id))
    with pytest.raises(GateClosed):
        await looking.approve(found.id, by="alice")
    assert await looking.approvals.pending() == ()
    second = await open_engine(pipe, **SECRET)
    with pytest.raises(Rejected, match="nobody decided"):
        await soon((await second.find(run.id)).result())


async def _asked(engine: Engine, run_id: str) -> ApprovalRequest:
    while True:
        for each in await engine._live().store.gates.of_run(run_id):
            if each.gate.kind == "approval":
                return await engine.approvals.get(each.gate.id)
        await asyncio.sleep(0)


async def _expired(engine: Engine, request: str) -> None:
    while (await engine.approvals.get(request)).state != "expired":
        await asyncio.sleep(0)


async def test_many_decide_at_once_in_several_engines(open_engine: OpenEngine):
    """APPR-07: one wins, whichever engine it is; the run goes on once."""
    pipe, calls = Pipeline("release"), list[str]()

    @pipe.approval
    async def approve() -> str:
        return "Deploy?"

    @pipe.asset
    async def deploy(approve: Decision[None]) -> str:
        calls.append(str(approve.by))
        return str(approve.by)

    engines = [await open_engine(pipe, **SECRET) for _ in range(2)]
    with pytest.raises(WaitingApproval):
        await soon(engines[0].run(deploy))
    [found] = await engines[0].approvals.pending()
    answers = await asyncio.gather(
        *(engines[number % 2].approve(found.id, by=f"person {number}") for number in range(6)), return_exceptions=True
    )
    [won] = [each for each in answers if isinstance(each, Decision)]
    assert await soon((await engines[1].find(found.run_id)).result()) == won.by
    assert calls == [won.by]


async def test_items_ask_too(open_engine: OpenEngine):
    """APPR-15: each item asks for itself; several that match are told by their ids."""
    pipe = Pipeline("trades")

    @pipe.scatter([1, 2, 3], key=lambda n: n)
    async def trades(n: int, ctx: Context) -> str:
        try:
            decision = await ctx.approval(f"Trade {n}?")
        except Rejected as error:
            return f"{n}: no, {error.by}"
        return f"{n}: {decision.by}"

    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit(trades)
    ids = await soon(_pending(engine, 3))
    for text, request in sorted(ids.items()):
        await (engine.reject if text == "Trade 2?" else engine.approve)(request, by=f"for {text}")
    results = await soon(run.result())
    assert sorted(await results.to_list(limit=10)) == ["1: for Trade 1?", "2: no, for Trade 2?", "3: for Trade 3?"]


async def _pending(engine: Engine, count: int) -> dict[str, str]:
    while len(found := await engine.approvals.pending()) < count:
        await asyncio.sleep(0)
    return {each.text: each.id for each in found}
