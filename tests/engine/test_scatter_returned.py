"""Items of scatters that return gates (SIG-07, with SIG-03 to SIG-05): nothing of them is held. Memory and Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from flowstone_async import (
    Batch,
    Batching,
    ConfigError,
    Context,
    Gathered,
    Pipeline,
    Rearm,
    Retry,
    ScatterThreshold,
    SignalGate,
    Tolerance,
    param,
)
from tests.engine.test_scatter_waits import parked
from tests.support.crash import kill
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.waits import Desk, in_state, opened, send

SECRET: Any = {"secret": b"s" * 32, "poll": "50ms"}
AGAIN = Retry(attempts=3, backoff="none")


@dataclass
class Done:
    url: str


class Wanted(BaseModel):
    suffix: str = "!"


class Remote:
    """A scatter that starts a job for each item and returns the gate for its callback."""

    def __init__(self, items: Any, **options: Any) -> None:
        self.desk, self.calls, self.attempts = Desk(), Counter[Any](), list[Any]()
        self.pipe = pipe = Pipeline("remote")
        desk, calls = self.desk, self.calls

        async def start(token: str) -> str:
            calls["start"] += 1
            return token[:3]

        @pipe.asset
        async def docs() -> list[str]:
            return ["a", "b"]

        @pipe.scatter(items, signal=Done, **options)
        async def job(item: str, docs: list[str], ctx: Context) -> str | SignalGate[Done]:
            calls["body", item] += 1
            if item == "nothing":
                return "nothing to do"
            gate = await desk.made(ctx.signal(Done, name=item))
            await ctx.step(start, gate.token)
            return gate

        self.job = job

        @job.gather
        async def all_of_them(results: Gathered[str]) -> list[str]:
            return [each async for each in results]

        self.all_of_them = all_of_them

    def gate(self, item: str) -> SignalGate[Any]:
        return next(gate for gate in self.desk.gates if gate.name == item)


async def test_items_return_gates_and_a_handler_makes_their_results(open_engine: OpenEngine):
    """SIG-07, SIG-04: it takes the item and the payload; whoever returns a value at once is done."""
    remote = Remote(["a", "nothing", "b"], retry=AGAIN)

    async def finish(url: str) -> str:
        remote.calls["finish"] += 1
        return url.upper()

    @remote.job.on_signal
    async def job_done(item: str, done: Done, docs: list[str], ctx: Context) -> str:
        remote.attempts.append((item, ctx.attempt, ctx.item.key))
        found = await ctx.step(finish, done.url)
        if ctx.attempt == 1 and item == "b":
            raise ConnectionError("again, with the same payload")
        return f"{item}: {found} of {len(docs)}"

    engine = await open_engine(remote.pipe, **SECRET, park_after="1ms")
    run = await engine.submit(remote.all_of_them)
    await parked(engine, run, 2)
    await in_state(engine, run.id, "waiting")
    await soon(_without_tasks("run ", "scatter ", "body "))
    await engine.signal(remote.gate("b").token, {"url": "there"})
    await parked(engine, run, 1)
    await engine.signal(remote.gate("a").token, Done("here"))
    assert await soon(run.result()) == ["a: HERE of 2", "nothing to do", "b: THERE of 2"]
    assert remote.attempts == [("b", 1, "b"), ("b", 2, "b"), ("a", 1, "a")]
    assert remote.calls == {("body", "a"): 1, ("body", "nothing"): 1, ("body", "b"): 1, "start": 2, "finish": 2}
    assert (await engine.signal(remote.gate("b").token, {"url": "there"})).duplicate


async def _without_tasks(*names: str) -> None:
    while any(name in task.get_name() for task in asyncio.all_tasks() for name in names):
        await asyncio.sleep(0)


async def test_without_a_handler_the_payload_is_the_result(open_engine: OpenEngine):
    """SIG-11: with tokens that the other side chose, and a body without a context."""
    pipe, calls = Pipeline("plain"), Counter[str]()

    @pipe.scatter(["x", "y"], signal=Done)
    async def job(item: str) -> Done | SignalGate[Done]:
        calls[item] += 1
        return SignalGate(Done, token=f"job/{item}")

    @job.gather
    async def urls(results: Gathered[Done]) -> list[str]:
        return [each.url async for each in results]

    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit(urls)
    await parked(engine, run, 2)
    for item in "yx":
        await engine.signal(f"job/{item}", Done(item * 2))
    assert await soon(run.result()) == ["xx", "yy"]
    assert calls == {"x": 1, "y": 1}


async def test_what_is_done_when_nobody_signals_in_time(open_engine: OpenEngine):
    """SIG-05: a value, the same token again, or a failure that is not tried again."""
    pipe, tokens, calls = Pipeline("late", params=Wanted), Counter[str](), Counter[str]()

    @pipe.scatter(["value", "again", "never"], signal=str, max_rearms=1, retry=AGAIN, tolerate=Tolerance(count=1))
    async def job(item: str, ctx: Context) -> str | SignalGate[str]:
        calls[item] += 1
        return ctx.signal(str, name=item, timeout="20ms")

    @job.on_timeout
    async def job_late(item: str, ctx: Context, suffix: str = param("suffix")) -> str | Rearm:
        tokens[item] += 1
        return f"late{suffix}" if item == "value" else Rearm("20ms" if item == "never" else "1h")

    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit(job)
    await parked(engine, run, 1)
    [waiting] = await engine.gates.waiting()
    assert waiting.name == "again"
    await soon(_until(lambda: tokens["never"] == 2))
    await send(engine, waiting.id, str, "at last")
    results = await soon(run.result())
    failures = [each async for each in results.failures()]
    assert [(each.key, each.error_type, each.attempts) for each in failures] == [("never", "TimedOut", 1)]
    assert await results.get("value") == "late!"
    assert calls == {"value": 1, "again": 1, "never": 1}
    assert tokens == {"value": 1, "again": 1, "never": 2}


async def _until(holds: Any) -> None:
    while not holds():
        await asyncio.sleep(0)


async def test_a_worker_that_dies_leaves_its_items_gates_to_the_next(open_engine: OpenEngine):
    """SIG-02, SIG-09: the handler is called, and the body is not."""
    remote = Remote(["a", "b", "c"])

    @remote.job.on_signal
    async def job_done(item: str, done: Done) -> str:
        remote.calls["done", item] += 1
        return done.url

    engine = await open_engine(remote.pipe, **SECRET, park_after="1ms")
    run = await engine.submit(remote.all_of_them)
    await parked(engine, run, 3)
    await kill(engine)
    other = await open_engine(remote.pipe, **SECRET)
    for item in "abc":
        await other.signal(remote.gate(item).token, Done(item))
    assert await soon((await other.find(run.id)).result()) == ["a", "b", "c"]
    assert {remote.calls["body", item] for item in "abc"} == {remote.calls["done", item] for item in "abc"} == {1}
    assert remote.calls["start"] == 3


async def test_a_handler_waits_inline_itself(open_engine: OpenEngine):
    remote, second = Remote(["a"]), Desk()

    @remote.job.on_signal
    async def job_done(item: str, done: Done, ctx: Context) -> str:
        remote.calls["done"] += 1
        return f"{done.url} {await (await second.made(ctx.signal(str)))}"

    engine = await open_engine(remote.pipe, **SECRET, park_after=0)
    run = await engine.submit(remote.all_of_them)
    await parked(engine, run, 1)
    await engine.signal(remote.gate("a").token, Done("once"))
    gate = await second.gate()
    await opened(engine, gate.id)
    await engine.signal(gate.token, "twice")
    assert await soon(run.result()) == ["once twice"]
    assert remote.calls["body", "a"] == 1


async def test_batches_return_gates_too(open_engine: OpenEngine):
    pipe, desk = Pipeline("batches"), Desk()

    @pipe.scatter(range(5), batch=Batching(max_items=2), signal=int)
    async def job(numbers: Batch[int], ctx: Context) -> list[int] | SignalGate[int]:
        return await desk.made(ctx.signal(int, name=str(numbers.number)))

    @job.on_signal
    async def job_done(numbers: Batch[int], more: int) -> list[int]:
        return [number + more for number in numbers]

    @job.gather
    async def flat(results: Gathered[list[int]]) -> list[int]:
        return [each async for each in results.flat()]

    engine = await open_engine(pipe, **SECRET)
    run = await engine.submit(flat)
    await parked(engine, run, 3)
    for gate in list(desk.gates):
        await engine.signal(gate.token, 10)
    assert await soon(run.result()) == [10, 11, 12, 13, 14]


async def test_a_gate_that_is_not_asked_for_is_no_result(open_engine: OpenEngine):
    pipe = Pipeline("unasked")

    @pipe.scatter(["a"], retry=False)
    async def job(item: str, ctx: Context) -> Any:
        return ctx.signal(Done)

    engine = await open_engine(pipe, **SECRET)
    with pytest.raises(ScatterThreshold, match="returned a gate") as failed:
        await soon(engine.run(job))
    assert not isinstance(failed.value, ConfigError)
