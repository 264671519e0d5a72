"""Suspension and eviction, held at each point: what comes in between is neither lost nor done twice (SIG-09, STEP-08)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from flowstone_async import Cancelled, Context, Engine, Pipeline, RunCancelled
from tests.support.crash import look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.stops import Stops
from tests.support.waits import Desk, send

OPTIONS: Any = {"secret": b"s" * 32, "park_after": 0, "poll": "50ms"}


@dataclass
class Done:
    url: str


class Job:
    """A body that begins something in a step and waits for its end, once the test lets it."""

    def __init__(self) -> None:
        self.desk, self.calls, self.go, self.clean = Desk(), Counter[str](), Gate(), Gate()
        self.clean.open()
        self.pipe = Pipeline("remote")
        self.ways: list[str] = []

        @self.pipe.asset
        async def job(ctx: Context) -> str:
            self.calls["body"] += 1
            gate = await self.desk.made(ctx.signal(Done))
            await self.go()
            began = await ctx.step(self.begin)
            try:
                done = await gate
            finally:
                await self.clean()
                self.ways.append(await ctx.step(self.end))
            return f"{began}: {done.url}"

    async def begin(self) -> str:
        self.calls["begin"] += 1
        return "begun"

    async def end(self) -> str:
        self.calls["end"] += 1
        return "ended"

    async def submitted(self, engine: Engine) -> Any:
        """Return a run whose body is about to wait."""
        run = await engine.submit("job")
        await self.go.reached()
        return run

    async def signal(self, engine: Engine) -> None:
        """Answer what it waits for."""
        gate = await self.desk.gate()
        assert (await send(engine, gate.id, Done, Done("there"))).state == "accepted"


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stops]:
    made = Stops(monkeypatch)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("name", "when"),
    [("wakes", "before"), ("wakes", "after"), ("outcomes", "before"), ("outcomes", "after"), ("suspend", "before")],
)
async def test_a_signal_before_the_run_is_suspended(open_engine: OpenEngine, stops: Stops, name: str, when: Any):
    """STEP-07: the record comes first; the coroutine just goes on."""
    job = Job()
    engine, other = await open_engine(job.pipe, **OPTIONS), await open_engine(job.pipe, **OPTIONS, slots=0)
    run = await job.submitted(engine)
    held = stops.hold(engine, name, when)
    job.go.open()
    await held.reached()
    await job.signal(other)
    held.open()
    assert await soon(run.result()) == "begun: there"
    assert job.calls == {"body": job.calls["body"], "begin": 1, "end": 1}
    assert job.ways == ["ended"]


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_signal_between_the_suspension_and_the_end_of_the_body(
    open_engine: OpenEngine, stops: Stops, where: str
):
    """STEP-08: the run is somebody else's from then on, and may have ended before the body hears of it."""
    job = Job()
    engine, other = await open_engine(job.pipe, **OPTIONS), await open_engine(job.pipe, **OPTIONS, slots=0)
    run = await job.submitted(engine)
    held = stops.hold(engine, "suspend", "after")
    job.go.open()
    await held.reached()
    calls = job.calls["body"]
    engine._live().closing = where == "elsewhere"  # it takes on nothing
    await job.signal(other)
    if where == "elsewhere":
        await _goes_on(other, run.id)
    held.open()
    assert await soon(run.result()) == "begun: there"
    await _left(engine, run.id)
    assert job.calls == {"body": calls + 1, "begin": 1, "end": 1}
    assert job.ways == ["ended"]


@pytest.mark.parametrize("meanwhile", ["nothing", "signalled", "gone on"])
@pytest.mark.parametrize("how", ["run", "submit"])
async def test_the_reply_to_a_suspension_is_lost(open_engine: OpenEngine, stops: Stops, how: str, meanwhile: str):
    """It is asked again; what has become of the run since is found out."""
    job = Job()
    engine, other = await open_engine(job.pipe, **OPTIONS), await open_engine(job.pipe, **OPTIONS, slots=0)
    if how == "run":
        result: Awaitable[Any] = asyncio.create_task(engine.run("job", on_wait="wait"))
        await job.go.reached()
    else:
        result = (await job.submitted(engine)).result()
    held = stops.lose(engine, "suspend")
    job.go.open()
    await held.reached()
    calls = job.calls["body"]
    [run] = await engine.runs()
    engine._live().closing = meanwhile == "gone on"  # it takes on nothing
    if meanwhile != "nothing":
        await job.signal(other)
    if meanwhile == "gone on":
        await _goes_on(other, run.id)
    held.open()
    if meanwhile == "nothing":
        await _left(engine, run.id)
        await job.signal(other)
    assert await soon(result) == "begun: there"
    assert job.calls == {"body": calls + 1, "begin": 1, "end": 1}
    assert job.ways == ["ended"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_lease_is_lost_while_a_run_is_suspended(open_engine: OpenEngine, stops: Stops, when: Any):
    """STEP-14: whoever has lost it suspends nothing of others; whoever takes the run finds all that there was."""
    job = Job()
    dying, other = await open_engine(job.pipe, **OPTIONS), await open_engine(job.pipe, **OPTIONS, slots=0)
    run = await job.submitted(dying)
    held = stops.hold(dying, "suspend", when)
    job.go.open()
    await held.reached()
    calls = job.calls["body"]
    await _expire(dying)
    await job.signal(other)
    await _goes_on(other, run.id)
    held.open()
    await _left(dying, run.id)
    assert job.calls == {"body": calls + 1, "begin": 1, "end": 1}
    assert job.ways == ["ended"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_engine_is_left_while_a_run_is_suspended(open_engine: OpenEngine, stops: Stops, when: Any):
    """STEP-06: another one goes on with it, whether it was suspended or handed back."""
    job = Job()
    engine, other = await open_engine(job.pipe, **OPTIONS), await open_engine(job.pipe, **OPTIONS, slots=0)
    run = await job.submitted(engine)
    held = stops.hold(engine, "suspend", when)
    job.go.open()
    await held.reached()
    calls = job.calls["body"]
    leaving = asyncio.create_task(engine.__aexit__(None, None, None))
    await _stopping(engine, run.id)
    held.open()
    await soon(leaving)
    await job.signal(other)
    await _goes_on(other, run.id)
    assert job.calls == {"body": calls + 1, "begin": 1, "end": 1}
    assert job.ways == ["ended"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_run_is_cancelled_while_it_is_suspended(open_engine: OpenEngine, stops: Stops, where: str, when: Any):
    """SIG-09, RUN-22: it is cancelled, told once, and takes no signal any more."""
    job, told = Job(), list[str]()
    engine, other = await open_engine(job.pipe, **OPTIONS), await open_engine(job.pipe, **OPTIONS, slots=0)
    engine.on(RunCancelled)(lambda event: told.append(event.run_id))
    run = await job.submitted(engine)
    held = stops.hold(engine, "suspend", when)
    job.go.open()
    await held.reached()
    handle = run if where == "here" else await other.find(run.id)
    await handle.cancel()
    held.open()
    with pytest.raises(Cancelled):
        await soon(run.result())
    await _left(engine, run.id)
    gate = await job.desk.gate()
    assert (await send(other, gate.id, Done, Done("late"))).state == "closed"
    assert (await run.status()).state == "cancelled"
    assert told == ([run.id] if where == "here" else told)


async def test_a_signal_while_an_evicted_body_cleans_up(open_engine: OpenEngine):
    """STEP-08: it is called again once it has ended, and not before."""
    job, work = Job(), Gate()

    @job.pipe.asset
    async def works() -> int:
        await work()
        return 1

    engine = await open_engine(job.pipe, **OPTIONS)
    job.clean.close()
    run = await engine.submit("job", "works")
    await job.go.reached()
    job.go.open()
    await job.clean.reached()  # the rest of the run goes on: the body alone is evicted
    calls = job.calls["body"]
    await job.signal(engine)
    await engine._live().services.clock.sleep(0)
    assert job.calls["body"] == calls
    job.clean.open()
    await soon(_called(job, calls + 1))
    work.open()
    assert await soon(run.result()) == ("begun: there", 1)
    assert job.calls == {"body": calls + 1, "begin": 1, "end": 1}


async def _goes_on(engine: Engine, run_id: str) -> None:
    """Let an engine take a run on that nobody owns, and drive it to its end."""
    await look_for_orphans(engine)
    assert await soon((await engine.find(run_id)).result()) == "begun: there"


async def _called(job: Job, times: int) -> None:
    while job.calls["body"] < times:
        await asyncio.sleep(0)


async def _expire(engine: Engine) -> None:
    """Let an engine lose its lease, and not come back."""
    session: Any = engine._live()
    session.closing = True
    expired = session.store.expire(session.services.worker)
    if expired is not None:
        await expired


async def _stopping(engine: Engine, run_id: str) -> None:
    flight = engine._live().flights[run_id]
    while flight.driver.stopping is None:
        await asyncio.sleep(0)


async def _left(engine: Engine, run_id: str) -> None:
    """Return once an engine drives a run no longer."""

    async def left() -> None:
        while run_id in engine._live().flights:
            await asyncio.sleep(0)

    await soon(left())
