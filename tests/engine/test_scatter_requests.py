"""Requests for approval that items of scatters return (APPR-16, SIG-07): nothing of them is held. Memory and Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import (
    After,
    ApprovalGate,
    ApprovalRequested,
    Batch,
    Batching,
    ConfigError,
    Context,
    Decision,
    Engine,
    Extend,
    Gathered,
    Pipeline,
    Retry,
    ScatterThreshold,
    SignalGate,
)
from flowstone_async.types import AssetKey
from tests.engine.test_scatter_waits import parked
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.waits import in_state, send

SECRET: Any = {"secret": b"s" * 32, "poll": "50ms", "park_after": "1ms"}
AGAIN = Retry(attempts=3, backoff="none")


@dataclass
class Draft:
    text: str
    words: int = 1


class Desk:
    """A scatter that proposes a draft for each topic, and an asset that takes what came of it."""

    def __init__(self, *, topics: Any = ("bees", "ants"), tolerate: float = 0, **options: Any) -> None:
        self.calls = Counter[Any]()
        self.told: asyncio.Queue[ApprovalRequested] = asyncio.Queue()
        self.broken = self.mute = False
        self.pipe, calls = Pipeline("desk"), self.calls

        async def write(topic: str) -> str:
            calls["write", topic] += 1
            return f"on {topic}"

        @self.pipe.asset
        async def house() -> str:
            return "x"

        @self.pipe.scatter(list(topics), retry=AGAIN, tolerate=tolerate)
        async def draft(topic: str, house: str, ctx: Context) -> Draft | ApprovalGate[Draft]:
            calls["body", topic] += 1
            if self.broken:
                raise RuntimeError("there is no more of it")
            text = await ctx.step(write, topic)
            if topic == "ready":
                return Draft(text)
            value = Draft(f"{text} {calls['body', topic]}", 2)
            return ApprovalGate(f"Publish {topic}?", value=value, **{"show": value, **options})

        @draft.gather
        async def paper(results: Gathered[Draft]) -> list[str]:
            return [each.text async for each in results]

        self.draft, self.paper = draft, paper

    async def tell(self, requested: ApprovalRequested) -> None:
        if self.mute:
            await asyncio.Event().wait()
        self.told.put_nowait(requested)


async def requests(engine: Engine, count: int, **of: Any) -> dict[Any, str]:
    """Return the ids of the pending requests by the key of their item, once there are so many."""

    async def looked() -> dict[Any, str]:
        while len(found := await engine.approvals.pending(**of)) != count:
            await asyncio.sleep(0)
        return {each.item if isinstance(each.item, str) else tuple(each.item): each.id for each in found}

    return await soon(looked())


async def test_nothing_is_held_of_an_item_until_somebody_approves(open_engine: OpenEngine):
    """APPR-16, SIG-07: it counts as waiting, is listed with its key, and its body is called no second time."""
    desk = Desk(topics=["bees", "ready", "ants"])
    engine = await open_engine(desk.pipe, **SECRET)
    run = await engine.submit(desk.paper)
    asked = await requests(engine, 2)
    await in_state(engine, run.id, "waiting")
    await soon(_without_tasks("run ", "scatter ", "body "))
    assert sorted(asked) == ["ants", "bees"]
    counts = (await run.status()).scatter
    assert counts is not None
    assert (counts.waiting, counts.done, counts.running) == (2, 1, 0)
    found = await engine.approvals.get(asked["bees"])
    assert (found.text, found.asset, found.item) == ("Publish bees?", "draft", "bees")
    assert found.show == {"text": "on bees 1", "words": 2}
    with pytest.raises(ConfigError, match=r"has 2 requests that are pending: .*\(item '"):
        await engine.approve(desk.draft, by="ada")

    await engine.approve(asked["bees"], by="ada")
    await parked(engine, run, 1)
    decision = await engine.approve(desk.draft, by="bob")

    assert (decision.approved, decision.by) == (True, "bob")
    assert await soon(run.result()) == ["on bees 1", "on ready", "on ants 1"]
    assert {key: desk.calls["body", key] for key in ("bees", "ready", "ants")} == {"bees": 1, "ready": 1, "ants": 1}
    assert await engine._live().store.verify() == ()


async def _without_tasks(*names: str) -> None:
    while any(name in task.get_name() for task in asyncio.all_tasks() for name in names):
        await asyncio.sleep(0)


async def test_a_form_of_the_same_type_is_the_result(open_engine: OpenEngine):
    """APPR-11: what was proposed, or what somebody made of it; roles see theirs."""
    desk = Desk(form=Draft, roles=["editor"])
    engine = await open_engine(desk.pipe, **SECRET)
    run = await engine.submit(desk.paper)
    asked = await requests(engine, 2, role="editor")
    assert await engine.approvals.pending(role="printer") == ()
    assert (await engine.approvals.get(asked["ants"])).initial == {"text": "on ants 1", "words": 2}
    await engine.approve(asked["bees"], by="ada", form=Draft("shorter"))
    await engine.approve(asked["ants"], by="ada")
    assert await soon(run.result()) == ["shorter", "on ants 1"]


async def test_handlers_take_the_item_and_the_decision(open_engine: OpenEngine):
    """APPR-16: on_approve is tried again under the retry of the scatter, and nobody is asked again."""
    desk, seen = Desk(form=int), dict[str, Decision[int]]()
    calls = desk.calls

    async def post() -> str:
        calls["post"] += 1
        return "posted"

    @desk.draft.on_approve
    async def published(topic, house: str, decision: Decision[int], ctx: Context) -> Draft:
        calls["handler", topic] += 1
        seen[topic] = decision
        posted = await ctx.step(post)
        if topic == "bees" and ctx.attempt < 3:
            raise ConnectionError
        return Draft(f"{topic} {house} {posted} by {decision.by} ({ctx.item.key})", decision.form)

    @desk.draft.on_reject
    async def kept_back(topic: str, decision: Decision[None]) -> Draft:
        return Draft(f"{topic}: {decision.reason}, not {decision.inputs['value'].text}")

    engine = await open_engine(desk.pipe, **SECRET)
    run = await engine.submit(desk.paper)
    asked = await requests(engine, 2)
    await engine.approve(asked["bees"], by="ada", form=7)
    await engine.reject(asked["ants"], by="bob", reason="dull")
    assert await soon(run.result()) == ["bees x posted by ada (bees)", "ants: dull, not on ants 1"]
    assert (calls["body", "bees"], calls["handler", "bees"], calls["post"]) == (1, 3, 1)
    assert seen["bees"].inputs == {"value": Draft("on bees 1", 2)}
    [state] = (await engine._live().store.states([AssetKey("desk", "draft")])).values()
    assert state.current is not None
    assert state.current.metadata == {}  # a decision is about one of many


@pytest.mark.parametrize("late", [False, True])
async def test_a_no_is_a_failure_of_its_item_and_redrive_asks_anew(open_engine: OpenEngine, late: bool):
    """APPR-05, APPR-09, SCAT-09, SCAT-25: it counts against what is tolerated, after one attempt."""
    desk = Desk(topics=["bees", "ready"], timeout="20ms" if late else "1h", tolerate=0.5)
    engine = await open_engine(desk.pipe, **SECRET)
    run = await engine.submit(desk.draft)
    if not late:
        await engine.reject((await requests(engine, 1))["bees"], by="bob")
    results = await soon(run.result())
    [failure] = [each async for each in results.failures()]
    assert (failure.key, failure.error_type) == ("bees", "ApprovalTimedOut" if late else "Rejected")
    assert (failure.attempts, desk.calls["body", "bees"]) == (1, 1)
    again = await run.redrive(desk.draft)
    if not late:
        await engine.approve((await requests(engine, 1))["bees"], by="bob")
        assert (await soon(again.result())).succeeded == 2
    else:
        assert (await soon(again.result())).failed == 1
    assert desk.calls["body", "bees"] == 2


@pytest.mark.parametrize("on_timeout", ["approve", Extend("20ms", times=2)])
async def test_what_silence_means(open_engine: OpenEngine, on_timeout: Any):
    """APPR-09: a yes, or another deadline."""
    desk = Desk(topics=["bees"], timeout="20ms", on_timeout=on_timeout)
    engine = await open_engine(desk.pipe, **SECRET)
    if on_timeout == "approve":
        assert await soon(engine.run(desk.paper, on_wait="wait")) == ["on bees 1"]
    else:
        with pytest.raises(ScatterThreshold, match="nobody decided"):
            await soon(engine.run(desk.draft, on_wait="wait"))


async def test_more_failures_than_are_tolerated_or_a_cancellation_close_the_requests(open_engine: OpenEngine):
    """SCAT-11, APPR-14."""
    desk = Desk()
    engine = await open_engine(desk.pipe, **SECRET)
    run = await engine.submit(desk.draft)
    asked = await requests(engine, 2)
    await engine.reject(asked["bees"], by="bob")
    with pytest.raises(ScatterThreshold, match="rejected by bob"):
        await soon(run.result())
    assert (await engine.approvals.get(asked["ants"])).state == "cancelled"
    run = await engine.submit(desk.draft)
    asked = await requests(engine, 2)
    await parked(engine, run, 2)
    await run.cancel()
    assert [(await engine.approvals.get(each)).state for each in asked.values()] == ["cancelled"] * 2


async def test_it_survives_whoever_began_it(open_engine: OpenEngine):
    """APPR-16, SIG-09: what is to be approved is on record; another worker goes on, where the body would fail."""
    desk = Desk(form=Draft)
    first = await open_engine(desk.pipe, **SECRET)
    run = await first.submit(desk.paper)
    asked = await requests(first, 2)
    await parked(first, run, 2)
    await kill(first)
    desk.broken = True
    second = await open_engine(desk.pipe, **SECRET)
    for request in asked.values():
        await second.approve(request, by="ada")
    assert await soon((await second.find(run.id)).result()) == ["on bees 1", "on ants 1"]
    assert (desk.calls["body", "bees"], desk.calls["body", "ants"]) == (1, 1)


async def test_messages_that_were_not_sent_are_sent_by_whoever_goes_on(open_engine: OpenEngine):
    """APPR-13, APPR-14: once for each request, with the key; the body is called again for whom to tell."""

    async def tell(requested: ApprovalRequested) -> None:
        await desk.tell(requested)

    desk = Desk(topics=["bees"], notify=[tell])
    desk.mute = True
    first = await open_engine(desk.pipe, **SECRET)
    run = await first.submit(desk.paper)
    asked = await requests(first, 1)
    await kill(first)
    desk.mute = False
    second = await open_engine(desk.pipe, **SECRET)
    await look_for_orphans(second)
    requested = await soon(desk.told.get())
    assert (requested.id, requested.item, requested.asset) == (asked["bees"], "bees", "draft")
    await parked(second, run, 1)
    await second.approve(requested.id, by="ada")
    assert await soon((await second.find(run.id)).result()) == ["on bees 1"]
    assert (desk.calls["body", "bees"], desk.calls["write", "bees"], desk.told.qsize()) == (2, 1, 0)


async def test_more_people_are_told_when_it_is_old(open_engine: OpenEngine):
    """APPR-10: once each, although nothing of the item is in memory."""
    told = asyncio.Queue[ApprovalRequested]()

    async def tell(requested: ApprovalRequested) -> None:
        told.put_nowait(requested)

    desk = Desk(roles=["editor"], escalate=[After("30ms", to=["chief"], notify=[tell]), After("1h", to=["owner"])])
    engine = await open_engine(desk.pipe, **SECRET)
    run = await engine.submit(desk.paper)
    found = [await soon(told.get()) for _ in range(2)]
    assert {(each.item, each.escalation, each.roles) for each in found} == {
        ("bees", 0, ("editor", "chief")),
        ("ants", 0, ("editor", "chief")),
    }
    await parked(engine, run, 2)
    await in_state(engine, run.id, "waiting")
    for each in found:
        await engine.approve(each.id, by="ada")
    assert await soon(run.result()) == ["on bees 1", "on ants 1"]
    assert told.empty()
    assert desk.calls["body", "bees"] <= 2  # once more for whom to tell, unless it was old before it was let go of


async def test_batches_ask_as_one(open_engine: OpenEngine):
    """APPR-16: their key is those of their items."""
    pipe = Pipeline("batches")

    @pipe.scatter(["a", "b", "c"], batch=Batching(max_items=2))
    async def named(names: Batch[str]) -> list[str] | ApprovalGate[list[str]]:
        return ApprovalGate("These?", value=[name.upper() for name in names])

    @named.gather
    async def flat(results: Gathered[list[str]]) -> list[str]:
        return [each async for each in results.flat()]

    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit(flat)
    asked = await requests(engine, 2)
    assert sorted(asked) == [("a", "b"), ("c",)]
    for each in asked.values():
        await engine.approve(each, by="ada")
    assert await soon(run.result()) == ["A", "B", "C"]


async def test_requests_that_items_await_have_their_key_too(open_engine: OpenEngine):
    """APPR-15."""
    pipe = Pipeline("inline")

    @pipe.scatter(["a", "b"])
    async def named(name: str, ctx: Context) -> str:
        return (await ctx.approval(f"{name}?")).by or ""

    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit(named)
    asked = await requests(engine, 2)
    for name, each in asked.items():
        await engine.approve(each, by=name * 2)
    assert await (await soon(run.result())).to_list(limit=2) == ["aa", "bb"]


async def test_an_item_returns_a_signal_gate_or_a_request(open_engine: OpenEngine):
    """SIG-07, APPR-16: with the handlers of both."""
    pipe, gates = Pipeline("either"), list[SignalGate[int]]()

    @pipe.scatter(["person", "job"], signal=int)
    async def either(item: str, ctx: Context) -> str | SignalGate[int] | ApprovalGate[str]:
        if item == "person":
            return ApprovalGate("Well?", value="approved")
        gates.append(ctx.signal(int))
        return gates[0]

    @either.on_signal
    async def sent(item: str, number: int) -> str:
        return f"{item} {number}"

    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit(either)
    await parked(engine, run, 2)
    await send(engine, gates[0].id, int, 3)
    await engine.approve(either, by="ada")
    assert await (await soon(run.result())).to_list(limit=2) == ["approved", "job 3"]
