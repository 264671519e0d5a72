"""Requests for approval that bodies return (APPR-16): the body is over, and nothing is stored. Memory and Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from flowstone_async import (
    After,
    AlreadyDecided,
    ApprovalGate,
    ApprovalRequested,
    ApprovalTimedOut,
    ConfigError,
    Context,
    Decision,
    Engine,
    ExecutionError,
    NotMaterialized,
    PayloadInvalid,
    Pipeline,
    Rejected,
    Retry,
    StorageError,
    WaitingApproval,
    io,
)
from flowstone_async.types import AssetKey
from tests.contract.clock import SetClock
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.waits import in_state, runs_of

SECRET: Any = {"secret": b"s" * 32, "poll": "50ms"}
AGAIN = Retry(attempts=3, backoff="none")


@dataclass
class Draft:
    text: str
    words: int = 1


class Desk:
    """An asset that proposes a draft, and an asset that takes it."""

    def __init__(self, *, retry: Any = None, made: Any = None, **options: Any) -> None:
        self.calls = Counter[str]()
        self.told: asyncio.Queue[ApprovalRequested] = asyncio.Queue()
        self.broken = False
        pipe = self.pipe = Pipeline("desk")
        calls = self.calls

        @pipe.resource(scope="asset")
        async def connection() -> AsyncIterator[Counter[str]]:
            calls["open"] += 1
            yield calls
            calls["closed"] += 1

        @pipe.asset
        async def topic() -> str:
            return "bees"

        async def write() -> str:
            calls["write"] += 1
            return "buzz"

        @pipe.asset(retry=retry)
        async def draft(topic: str, held: Counter[str], ctx: Context) -> Draft | ApprovalGate[Draft]:
            calls["body"] += 1
            if self.broken:
                raise RuntimeError("there is no more of it")
            ctx.metadata(topic=topic)
            text = await ctx.step(write)
            if made is not None:
                return made
            value = Draft(f"{topic} {text} {calls['body']}", 2)
            return ApprovalGate("Publish?", value=value, **{"show": value, **self.options(options)})

        @pipe.asset
        async def page(draft: Draft) -> str:
            return f"<p>{draft.text}</p>"

        self.draft, self.page = draft, page

    def options(self, options: Any) -> Any:
        return {**options, "notify": [self.tell]} if options.get("notify") else options

    async def tell(self, requested: ApprovalRequested) -> None:
        self.told.put_nowait(requested)


async def pending(engine: Engine) -> str:
    """Return the id of the only request once there is one."""

    async def looked() -> str:
        while not (found := await engine.approvals.pending()):
            await asyncio.sleep(0)
        [one] = found
        return one.id

    return await soon(looked())


async def test_nothing_is_held_or_stored_until_somebody_approves(open_engine: OpenEngine):
    """APPR-16, APPR-02: suspended at once; then the value is what was proposed, and the body is called no second time."""
    desk = Desk()
    engine = await open_engine(desk.pipe, **SECRET)
    run = await engine.submit(desk.page)
    request = await pending(engine)
    await in_state(engine, run.id, "waiting")
    await soon(_settled(engine))
    assert desk.calls == {"open": 1, "write": 1, "body": 1, "closed": 1}
    with pytest.raises(NotMaterialized):
        await engine.get(desk.draft)
    found = await engine.approvals.get(request)
    assert (found.text, found.asset, found.show) == ("Publish?", "draft", {"text": "bees buzz 1", "words": 2})
    assert (await engine.status(desk.draft)).waiting_for == f"approval 'Publish?' ({request})"

    decision = await engine.approve(desk.draft, by="ada", reason="nice")

    assert (decision.approved, decision.by, decision.form) == (True, "ada", None)
    assert await soon(run.result()) == "<p>bees buzz 1</p>"
    assert desk.calls == {"open": 1, "write": 1, "body": 1, "closed": 1}
    assert await engine.get(desk.draft) == Draft("bees buzz 1", 2)
    [state] = (await engine._live().store.states([AssetKey("desk", "draft")])).values()
    assert state.current is not None
    assert state.current.metadata == {"topic": "bees", "approved_by": "ada", "modified": False}
    assert [each.name for each in state.current.inputs] == ["topic"]
    with pytest.raises(AlreadyDecided):
        await engine.reject(request, by="bob")
    assert (await engine.report(desk.draft))["draft"].state == "cached"


async def _settled(engine: Engine) -> None:
    while runs_of(engine):
        await asyncio.sleep(0)


async def test_a_body_may_return_its_value(open_engine: OpenEngine):
    desk = Desk(made=Draft("done"))
    engine = await open_engine(desk.pipe, **SECRET)
    assert await soon(engine.run(desk.page)) == "<p>done</p>"
    assert await engine.approvals.pending() == ()


@pytest.mark.parametrize("edited", [False, True])
async def test_a_form_of_the_same_type_is_the_value(open_engine: OpenEngine, edited: bool):
    """APPR-16, APPR-11: what was proposed, or what somebody made of it; the record names who."""
    desk = Desk(form=Draft)
    engine = await open_engine(desk.pipe, **SECRET)
    run = await engine.submit(desk.draft)
    request = await pending(engine)
    assert (await engine.approvals.get(request)).initial == {"text": "bees buzz 1", "words": 2}
    with pytest.raises(PayloadInvalid):
        await engine.approve(request, by="ada", form={"words": 1})
    await engine.approve(request, by="ada", form=Draft("shorter") if edited else None)
    assert await soon(run.result()) == (Draft("shorter") if edited else Draft("bees buzz 1", 2))
    [state] = (await engine._live().store.states([AssetKey("desk", "draft")])).values()
    assert state.current is not None
    assert (state.current.metadata["approved_by"], state.current.metadata["modified"]) == ("ada", edited)


async def test_a_form_of_another_type_is_for_the_handler(open_engine: OpenEngine):
    """APPR-16: what on_approve returns is the value; it is tried again, and nobody is asked again."""
    desk = Desk(form=int, retry=AGAIN)
    calls, seen = desk.calls, list[Decision[int]]()

    async def send() -> str:
        calls["send"] += 1
        return "sent"

    @desk.draft.on_approve
    async def published(topic: str, decision: Decision[int], held: Counter[str], ctx: Context) -> Draft:
        held["handler"] += 1
        seen.append(decision)
        sent = await ctx.step(send)
        if ctx.attempt < 3:
            raise ConnectionError
        return Draft(f"{topic} {sent} by {decision.by}", decision.form)

    engine = await open_engine(desk.pipe, **SECRET)
    run = await engine.submit(desk.draft)
    request = await pending(engine)
    await engine.approve(request, by="ada", form=7)
    assert await soon(run.result()) == Draft("bees sent by ada", 7)
    assert (calls["body"], calls["handler"], calls["send"]) == (1, 3, 1)
    assert seen[0].inputs == {"value": Draft("bees buzz 1", 2)}
    assert len({each.at for each in seen}) == 1


@pytest.mark.parametrize("handled", [False, True])
@pytest.mark.parametrize("late", [False, True])
async def test_a_no(open_engine: OpenEngine, handled: bool, late: bool):
    """APPR-16, APPR-05, APPR-09: never tried again; on_reject may give a value all the same."""
    desk = Desk(retry=AGAIN, timeout="10ms" if late else "1h")
    if handled:

        @desk.draft.on_reject
        async def kept_back(decision: Decision[None]) -> Draft:
            return Draft(f"{decision.by}: {decision.reason}, not {decision.inputs['value'].text}")

    engine = await open_engine(desk.pipe, **SECRET)
    run = await engine.submit(desk.page if handled else desk.draft)
    if not late:
        await engine.reject(await pending(engine), by="bob", reason="dull")
    if handled:
        who = "timeout: None" if late else "bob: dull"
        assert await soon(run.result()) == f"<p>{who}, not bees buzz 1</p>"
    else:
        with pytest.raises(ApprovalTimedOut if late else Rejected, match="'Publish\\?'"):
            await soon(run.result())
    assert desk.calls["body"] == 1


async def test_silence_may_be_a_yes(open_engine: OpenEngine):
    """APPR-09: with the form that was proposed."""
    desk = Desk(form=Draft, timeout="10ms", on_timeout="approve")
    engine = await open_engine(desk.pipe, **SECRET)
    assert await soon(engine.run(desk.draft, on_wait="wait")) == Draft("bees buzz 1", 2)


async def test_the_same_call_joins_and_a_pipeline_alone():
    """APPR-03, APPR-04, APPR-14: in memory without an engine."""
    desk = Desk(notify=True)
    for _ in range(2):
        with pytest.raises(WaitingApproval, match="it waits for 'approval' of asset 'draft'"):
            await desk.pipe.run(desk.page)
    assert desk.told.qsize() == 1
    await desk.pipe.approve(desk.draft, by="ada")
    assert await desk.pipe.run(desk.page) == "<p>bees buzz 1</p>"
    assert desk.calls["body"] == 1


async def test_it_survives_whoever_began_it(open_engine: OpenEngine):
    """APPR-16: the value is on record; another process goes on, where the body would return another one."""
    desk = Desk(form=Draft)
    first = await open_engine(desk.pipe, **SECRET)
    run = await first.submit(desk.page)
    request = await pending(first)
    await in_state(first, run.id, "waiting")
    await kill(first)
    desk.broken = True
    second = await open_engine(desk.pipe, **SECRET)
    await second.approve(request, by="ada")
    assert await soon((await second.find(run.id)).result()) == "<p>bees buzz 1</p>"
    assert desk.calls["body"] == 1


async def test_messages_that_were_not_sent_are_sent_by_whoever_goes_on(open_engine: OpenEngine, monkeypatch: Any):
    """APPR-13, APPR-14: once for each request; whom to tell is only known to the body, which is called again for it."""
    desk = Desk(notify=True)
    held = asyncio.Event()
    tell = desk.tell

    async def stuck(requested: ApprovalRequested) -> None:
        held.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(desk, "tell", stuck)
    first = await open_engine(desk.pipe, **SECRET)
    run = await first.submit(desk.page)
    await soon(held.wait())
    await kill(first)
    monkeypatch.setattr(desk, "tell", tell)
    second = await open_engine(desk.pipe, **SECRET)
    await look_for_orphans(second)
    requested = await soon(desk.told.get())
    assert requested.id == await pending(second)
    await in_state(second, run.id, "waiting")
    await second.approve(requested.id, by="ada")
    assert await soon((await second.find(run.id)).result()) == "<p>bees buzz 1</p>"
    assert (desk.calls["body"], desk.calls["write"], desk.told.qsize()) == (2, 1, 0)


@pytest.mark.parametrize("broken", [False, True])
async def test_more_people_are_told_when_it_is_old(open_engine: OpenEngine, broken: bool):
    """APPR-10: once each, and that the body cannot say whom any more changes nothing else."""
    told, clock = asyncio.Queue[ApprovalRequested](), SetClock()

    async def tell(requested: ApprovalRequested) -> None:
        told.put_nowait(requested)

    desk = Desk(roles=["editor"], escalate=[After("30m", to=["chief"], notify=[tell]), After("1h", to=["owner"])])
    engine = await open_engine(desk.pipe, **SECRET, clock=clock)
    run = await engine.submit(desk.draft)
    request = await pending(engine)
    desk.broken = broken
    clock.advance(1800)
    if not broken:
        requested = await soon(told.get())
        assert (requested.id, requested.escalation, requested.roles) == (request, 0, ("editor", "chief"))
    else:
        await soon(_called(desk, 2))
    await in_state(engine, run.id, "waiting")
    await engine.approve(request, by="ada")
    assert await soon(run.result()) == Draft("bees buzz 1", 2)
    assert (desk.calls["body"], told.qsize()) == (2, 0)


async def _called(desk: Desk, number: int) -> None:
    while desk.calls["body"] < number:
        await asyncio.sleep(0)


class Opaque:
    """Only a pickle keeps it."""

    def __init__(self, number: int) -> None:
        self.number = number


@pytest.mark.parametrize("format_", ["json", "pickle"])
async def test_the_value_is_kept_as_the_asset_keeps_its_values(open_engine: OpenEngine, tmp_path: Any, format_: Any):
    """SEC-06: a pickle only where the asset says so; what cannot be kept fails the asset before anybody is asked."""
    pipe = Pipeline("odd")

    @pipe.asset(io=io.Files(tmp_path, format=format_))
    async def thing() -> Opaque | ApprovalGate[Opaque]:
        return ApprovalGate("This?", value=Opaque(7))

    if format_ == "json":
        with pytest.raises(Exception, match="Opaque"):
            engine = await open_engine(pipe, **SECRET)
            await soon(engine.run(thing))
        return
    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit(thing)
    await engine.approve(await pending(engine), by="ada")
    assert (await soon(run.result())).number == 7


@pytest.mark.parametrize("way", ["unfit", "unannotated", "initial"])
async def test_what_cannot_be_asked_fails_the_asset(open_engine: OpenEngine, way: str):
    pipe = Pipeline("odd")

    @pipe.asset
    async def unfit() -> int | ApprovalGate[int]:
        return ApprovalGate("This?", value="text")  # pyright: ignore[reportArgumentType]

    @pipe.asset
    async def unannotated() -> Any:
        return ApprovalGate("This?", value=1)

    @pipe.asset
    async def initial() -> int | ApprovalGate[int]:
        return ApprovalGate("This?", value=1, form=Draft, initial="text")

    engine = await open_engine(pipe, **SECRET)
    expected = {
        "unfit": (StorageError, "value= of the request that the body returned cannot be kept"),
        "unannotated": (ConfigError, "returned a request for approval, which cannot be its value"),
        "initial": (ConfigError, "does not fit its form"),
    }
    kind, text = expected[way]
    with pytest.raises((kind, ExecutionError), match=text):
        await soon(engine.run({"unfit": unfit, "unannotated": unannotated, "initial": initial}[way]))
    assert await engine.approvals.pending() == ()


async def test_cancelling_the_run_closes_it(open_engine: OpenEngine):
    """APPR-14."""
    desk = Desk(timeout=timedelta(hours=1))
    engine = await open_engine(desk.pipe, **SECRET)
    run = await engine.submit(desk.draft)
    request = await pending(engine)
    await in_state(engine, run.id, "waiting")
    await run.cancel()
    assert (await engine.approvals.get(request)).state == "cancelled"
