"""Asking people inline, and deciding (APPR-03..APPR-17). Memory and Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import (
    After,
    AlreadyDecided,
    ApprovalRequested,
    ApprovalTimedOut,
    ConfigError,
    Context,
    Decision,
    Engine,
    Extend,
    GateClosed,
    GateNotFound,
    NothingPending,
    PayloadInvalid,
    Pipeline,
    Rejected,
    Retry,
    TimedOut,
    WaitingApproval,
)
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.waits import in_state

SECRET: Any = {"secret": b"s" * 32, "poll": "50ms"}
PARKED: Any = {**SECRET, "park_after": False}
EVICTED: Any = {**SECRET, "park_after": 0}
IN_MEMORY = pytest.mark.not_in("evict", reason="is about a body in memory")
both = pytest.mark.parametrize("options", [pytest.param(PARKED, marks=IN_MEMORY), EVICTED], ids=["parked", "evicted"])


@dataclass
class Release:
    note: str
    percent: int = 100


async def pending(engine: Engine, count: int = 1) -> list[str]:
    """Return the ids of pending requests once there are so many."""
    return await soon(_pending(engine, count))


async def _pending(engine: Engine, count: int) -> list[str]:
    while True:
        found = await engine.approvals.pending()
        if len(found) >= count:
            return [each.id for each in found]
        await asyncio.sleep(0)


def asking(calls: Counter[str], retry: Any = None, **options: Any) -> tuple[Pipeline, Any]:
    """Return an asset that asks whether to trade."""
    pipe = Pipeline("trades")

    async def book() -> int:
        calls["book"] += 1
        return 7

    @pipe.asset(retry=retry)
    async def trade(ctx: Context) -> str:
        calls["body"] += 1
        number = await ctx.step(book)
        found = await ctx.approval("Large trade", **options)
        form: Any = found.form
        return f"{number} by {found.by}: {form.note if form else found.reason}"

    return pipe, trade


@both
async def test_a_body_goes_on_once_somebody_says_yes(open_engine: OpenEngine, options: Any):
    """APPR-15, APPR-04: typed, whether it was evicted or not; no step is called twice."""
    calls = Counter[str]()
    pipe, trade = asking(calls, form=Release)
    engine = await open_engine(pipe, **options)
    run = await engine.submit(trade)
    [request] = await pending(engine)
    if options is EVICTED:
        await in_state(engine, run.id, "waiting")
    decision = await engine.approve(trade, by="alice", form=Release("ok"), reason="why not")
    assert (decision.approved, decision.needed, decision.by, decision.form) == (True, True, "alice", Release("ok"))
    assert await soon(run.result()) == "7 by alice: ok"
    assert calls == {"book": 1, "body": 1 if options is PARKED else 2}
    found = await engine.approvals.get(request)
    assert (found.state, found.by, found.form) == ("approved", "alice", {"note": "ok", "percent": 100})
    assert decision.at == found.decided_at


@both
async def test_no_is_raised_where_it_was_asked_and_never_tried_again(open_engine: OpenEngine, options: Any):
    """APPR-05, APPR-15."""
    calls = Counter[str]()
    pipe, trade = asking(calls, retry=Retry(attempts=3, backoff="none"))
    engine = await open_engine(pipe, **options)
    run = await engine.submit(trade)
    [request] = await pending(engine)
    await engine.reject(request, by="bob", reason="too large")
    with pytest.raises(Rejected, match="'Large trade' was rejected by bob: too large") as caught:
        await soon(run.result())
    error = caught.value
    assert (error.by, error.reason, error.asset, error.run_id) == ("bob", "too large", "trade", run.id)
    assert error.at == (await engine.approvals.get(request)).decided_at
    assert calls["body"] <= 2


@both
async def test_a_no_can_be_caught_and_is_on_record(open_engine: OpenEngine, options: Any):
    """APPR-15: another attempt asks nobody again."""
    pipe, seen = Pipeline("trades"), list[str]()

    @pipe.asset(retry=Retry(attempts=2, backoff="none"))
    async def trade(ctx: Context) -> str:
        try:
            await ctx.approval("Large trade")
        except Rejected as error:
            seen.append(f"{type(error).__name__} by {error.by}")
        if ctx.attempt == 1:
            raise RuntimeError("once more")
        return (await ctx.approval("Small trade")).by or ""

    engine = await open_engine(pipe, **options)
    run = await engine.submit(trade)
    await pending(engine)
    await engine.reject(trade, by="bob")
    [request] = await pending(engine)
    assert (await engine.approvals.get(request)).text == "Small trade"
    await engine.approve(request, by="alice")
    assert await soon(run.result()) == "alice"
    assert set(seen) == {"Rejected by bob"}


@IN_MEMORY
async def test_nobody_decides_in_time(open_engine: OpenEngine):
    """APPR-08, APPR-09: a `Rejected` and a `TimedOut`, not tried again; deciding it is `GateClosed`."""
    calls = Counter[str]()
    pipe, trade = asking(calls, retry=Retry(attempts=3, backoff="none"), timeout="20ms")
    engine = await open_engine(pipe, **PARKED)
    with pytest.raises(ApprovalTimedOut, match="nobody decided 'Large trade' in time") as caught:
        await soon(engine.run(trade, on_wait="wait"))
    assert isinstance(caught.value, Rejected)
    assert isinstance(caught.value, TimedOut)
    assert calls["body"] == 1
    gate: Any = caught.value.details["gate"]
    with pytest.raises(GateClosed) as closed:
        await engine.approve(gate, by="alice")
    assert closed.value.details["state"] == "expired"
    assert (await engine.approvals.get(gate)).state == "expired"


async def test_silence_may_be_a_yes(open_engine: OpenEngine):
    """APPR-09."""
    pipe, trade = asking(Counter(), timeout="20ms", on_timeout="approve", form=Release, initial=Release("as it is"))
    engine = await open_engine(pipe, **PARKED)
    assert await soon(engine.run(trade, on_wait="wait")) == "7 by timeout: as it is"


async def test_a_deadline_that_moves(open_engine: OpenEngine):
    """APPR-09: decided after the first deadline; beyond the last one it is a no."""
    pipe, trade = asking(Counter(), timeout="10ms", on_timeout=Extend("1h", times=2))
    engine = await open_engine(pipe, **PARKED)
    run = await engine.submit(trade)
    [request] = await pending(engine)
    found = await engine.approvals.get(request)
    assert found.expires_at is not None
    while (found := await engine.approvals.get(request)).due is None or (found.due - found.opened_at).seconds < 3600:
        await asyncio.sleep(0)
    assert found.expires_at is not None
    assert (found.expires_at - found.opened_at).total_seconds() == 2 * 3600 + 0.01
    await engine.approve(request, by="alice")
    assert await soon(run.result()) == "7 by alice: None"


async def test_the_first_decision_stands(open_engine: OpenEngine):
    """APPR-07: also when two arrive at once."""
    pipe, trade = asking(Counter())
    engine = await open_engine(pipe, **EVICTED)
    await engine.submit(trade)
    [request] = await pending(engine)
    answers = await asyncio.gather(
        engine.approve(request, by="alice"),
        engine.reject(request, by="bob"),
        engine.approve(request, by="alice"),
        return_exceptions=True,
    )
    decisions = [each for each in answers if isinstance(each, Decision)]
    refused = [each for each in answers if isinstance(each, AlreadyDecided)]
    assert len(decisions) + len(refused) == 3
    assert {each.by for each in decisions} == ({"alice"} if len(decisions) == 2 else {"bob"})
    first = decisions[0]
    assert first.by is not None
    again: Any = engine.approve if first.approved else engine.reject
    assert await again(trade, by=first.by) == first
    with pytest.raises(AlreadyDecided, match=f"{first.by} has") as caught:
        await again(trade, by=first.by, reason="another")
    assert caught.value.details["decision"]["by"] == first.by  # pyright: ignore[reportIndexIssue]


async def test_what_cannot_be_decided(open_engine: OpenEngine):
    """APPR-04, APPR-11, APPR-12: refused with what is wrong, and as pending as before."""
    pipe, trade = asking(Counter(), form=Release)
    engine = await open_engine(pipe, **EVICTED)
    with pytest.raises(NothingPending):
        await engine.approve(trade, by="alice", form=Release("x"))
    run = await engine.submit(trade)
    [request] = await pending(engine)
    for wrong in ("", "  ", None, 7):
        with pytest.raises(ConfigError, match="by="):
            await engine.approve(request, by=wrong)  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(PayloadInvalid) as caught:
        await engine.approve(request, by="alice", form={"percent": "lots"})
    assert set(caught.value.details["fields"]) == {"note", "percent"}  # pyright: ignore[reportArgumentType]
    with pytest.raises(PayloadInvalid, match="missing"):
        await engine.approve(request, by="alice")
    with pytest.raises(GateNotFound):
        await engine.approve(run.id, by="alice")
    assert (await engine.approvals.get(request)).state == "pending"
    await engine.approve(request, by="alice", form={"note": "ok", "percent": "5"})
    assert await soon(run.result()) == "7 by alice: ok"


async def test_several_that_match_are_listed(open_engine: OpenEngine):
    """APPR-04."""
    pipe, trade = asking(Counter())
    engine = await open_engine(pipe, **EVICTED)
    for partition in ("a", "b"):
        await engine.submit(trade, partition=partition)
    ids = await pending(engine, 2)
    with pytest.raises(ConfigError, match="2 requests that are pending") as caught:
        await engine.approve(trade, by="alice")
    assert set(caught.value.details["gates"]) == set(ids)  # pyright: ignore[reportArgumentType]
    await engine.approve(trade, by="alice", partition="b")
    [left] = await engine.approvals.pending(asset=trade)
    assert left.partition == "a"


async def test_an_edited_form_says_so(open_engine: OpenEngine):
    """APPR-11: both versions are kept; without a form the proposed one is taken."""
    pipe, trade = asking(Counter(), form=Release, initial=Release("draft"))
    engine = await open_engine(pipe, **EVICTED)
    await engine.submit(trade, partition="a")
    await engine.submit(trade, partition="b")
    await pending(engine, 2)
    edited = await engine.approve(trade, by="alice", form=Release("better"), partition="a")
    kept = await engine.approve(trade, by="alice", partition="b")
    assert (edited.modified, edited.form, edited.initial) == (True, Release("better"), Release("draft"))
    assert (kept.modified, kept.form, kept.initial) == (False, Release("draft"), Release("draft"))


@both
async def test_people_are_told_once(open_engine: OpenEngine, options: Any):
    """APPR-13, APPR-14: whatever is called again; one that fails is tried 3 times and changes nothing."""
    told, tries = list[ApprovalRequested](), Counter[str]()

    async def tell(requested: ApprovalRequested) -> None:
        told.append(requested)

    async def broken(_: ApprovalRequested) -> None:
        tries["broken"] += 1
        raise OSError("no such channel")

    pipe, trade = asking(Counter(), notify=[tell, broken], show={"size": 5, "password": "hunter2"}, roles=["desk"])
    engine = await open_engine(pipe, **options)
    for _ in range(2):
        with pytest.raises(WaitingApproval, match="it waits for 'approval' of asset 'trade'"):
            await soon(engine.run(trade))
    [found] = told
    assert (found.text, found.show, found.roles) == ("Large trade", {"size": 5, "password": "***"}, ("desk",))
    assert tries["broken"] == 3
    await engine.approve(found.id, by="alice")
    assert await soon(engine.run(trade)) == "7 by alice: None"
    assert (len(told), tries["broken"]) == (1, 3)


@both
async def test_escalation(open_engine: OpenEngine, options: Any):
    """APPR-10: at its age, once each, while the run is suspended; the deadline does not move."""
    told = list[ApprovalRequested]()

    async def tell(requested: ApprovalRequested) -> None:
        told.append(requested)

    escalate = [After("20ms", to=["boss"], notify=[tell]), After("40ms", notify=[tell])]
    pipe, trade = asking(Counter(), roles=["desk"], escalate=escalate, notify=[tell])
    engine = await open_engine(pipe, **options)
    run = await engine.submit(trade)
    [request] = await pending(engine)
    while len(told) < 3:
        await asyncio.sleep(0)
    assert [(each.escalation, each.roles) for each in told] == [
        (None, ("desk",)),
        (0, ("desk", "boss")),
        (1, ("desk", "boss")),
    ]
    assert len({each.due for each in told}) == 1
    [found] = await engine.approvals.pending(role="boss")
    assert found.roles == ("desk", "boss")
    await engine.approve(request, by="alice")
    assert await soon(run.result()) == "7 by alice: None"
    assert len(told) == 3
