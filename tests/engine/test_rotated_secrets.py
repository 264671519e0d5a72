"""Tokens of bodies that go on where another secret comes first by now (SIG-02, SEC-01). Memory and Postgres."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from flowstone_async import Context, Engine, ForgedToken, Pipeline, Retry, SignalGate
from tests.support.crash import kill
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.waits import Desk, in_state

OLD, NEW = b"o" * 32, b"n" * 32
OPTIONS: Any = {"poll": "50ms", "park_after": 0, "base_url": "https://x"}


class Job:
    """A body that gives the tokens of two gates away, and waits at both."""

    def __init__(self, **options: Any) -> None:
        self.desk, self.calls, self.given = Desk(), Counter[str](), list[str]()
        pipe = self.pipe = Pipeline("jobs")

        async def start(token: str) -> None:
            self.calls["start"] += 1
            self.given.append(token)

        @pipe.asset(**options)
        async def job(ctx: Context) -> list[int]:
            first = await self.desk.made(ctx.signal(int))
            await ctx.step(start, first.token)
            second = ctx.signal(int, name="second")
            if self.calls["once"] == 0 and options:
                self.calls["once"] += 1
                raise ConnectionError
            found = await first
            await ctx.step(start, second.url)
            return [found, await (await self.desk.made(second))]

        self.job = job

    async def gate(self, number: int) -> SignalGate[Any]:
        """Return the gate that was made so many calls ago."""
        return await self.desk.gate(number)


@pytest.mark.parametrize("options", [{}, {"retry": Retry(attempts=2, backoff="none")}], ids=["resumed", "retried"])
async def test_the_token_stays_the_same(open_engine: OpenEngine, options: Any):
    """SIG-02: nothing is begun anew, and what the other side has is good; later gates of the body are no exception."""
    job = Job(**options)
    before = await open_engine(job.pipe, **OPTIONS, secret=OLD)
    run = await before.submit(job.job)
    await in_state(before, run.id, "waiting")
    tokens = {each.token for each in job.desk.gates}
    await kill(before)

    after = await open_engine(job.pipe, **OPTIONS, secret=[NEW, OLD])
    [token] = tokens
    assert token == job.given[0]
    await after.signal(token, 1)
    await _given(job, 2)
    await in_state(after, run.id, "waiting")
    last = await open_engine(job.pipe, **OPTIONS, secret=[OLD, NEW], slots=0)
    await last.signal(job.given[1].rpartition("/")[2], 2)
    assert await soon((await after.find(run.id)).result()) == [1, 2]
    assert job.calls["start"] == 2
    assert {each.token for each in job.desk.gates if each.name == "int"} == tokens


async def _given(job: Job, count: int) -> None:
    import asyncio

    async def looked() -> None:
        while len(job.given) < count:
            await asyncio.sleep(0)

    await soon(looked())


async def test_a_secret_that_is_listed_no_more_makes_no_token(open_engine: OpenEngine):
    """SEC-01: bodies that begin get those of the first; the old ones are forged."""
    job = Job()
    before = await open_engine(job.pipe, **OPTIONS, secret=OLD)
    await before.submit(job.job)
    old = (await job.gate(0)).token
    after = await open_engine(job.pipe, **{**OPTIONS, "slots": 0}, secret=NEW)
    with pytest.raises(ForgedToken):
        await after.signal(old, 1)
    assert isinstance(after, Engine)
