"""How many statements runs take that go through the queue: counted, so that a needless one is noticed."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from asyncpg import Record

from flowstone_async import Engine, Pipeline
from flowstone_async.store.postgres import connections
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.records import Submission
from tests.contract import builders
from tests.postgres.conftest import OpenStore

RUNS = 100
NAMES = {text: name for name, text in QUERIES.items()}
Sent = dict[Connections, Counter[str]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """The statements that stores send, counted by name for each store; those of `advance` under that name."""
    found: Sent = {}
    send = connections.Session.fetch_text

    async def count(session: connections.Session, text: str, *arguments: object) -> list[Record]:
        name = NAMES.get(text, "advance" if "accepted" in text else "other")
        found.setdefault(session._connections, Counter())[name] += 1
        return await send(session, text, *arguments)

    monkeypatch.setattr(connections.Session, "fetch_text", count)
    return found


def chain() -> Pipeline:
    pipe = Pipeline("chain")

    @pipe.asset
    async def first() -> int:
        return 1

    @pipe.asset
    async def second(first: int) -> int:
        return first + 1

    @pipe.asset
    async def third(second: int) -> int:
        return second + 1

    return pipe


def counted(sent: Sent, engine: Engine) -> Counter[str]:
    store: Any = engine._live().store
    return sent[store._connections]


async def test_runs_share_the_statements_of_the_queue(dsn: str, sent: Sent) -> None:
    async with Engine(chain(), store=dsn, slots=0) as submitter:
        handles = [await submitter.submit("third", partition=f"p{number}") for number in range(RUNS)]
        async with Engine(chain(), store=dsn, slots=RUNS // 2) as worker:
            assert await asyncio.gather(*handles) == [3] * RUNS

            computing, awaiting = counted(sent, worker), counted(sent, submitter)
            assert computing["advance"] < 2 * RUNS, "four steps of each run, shared with other runs"
            assert computing["claim"] + computing["states"] + computing["orphans_seen"] < RUNS
            for needless in ("driven", "events", "run", "runs_known", "committed_before"):
                assert not computing[needless], "a run that nobody has begun has no past"
            assert awaiting["submit"] == RUNS
            assert awaiting["runs_known"] < RUNS, "each run is looked at several times, with others"


async def test_a_worker_hears_again_of_a_queued_run_that_somebody_begins_to_await(open_store: OpenStore) -> None:
    """The row is locked for a moment, so that a claim skips it that was told of the submission."""
    worker, other = await open_store(poll=60), await open_store(poll=60)
    await worker.store.changed("queue", within=0.001)
    run = replace(builders.run_record(), state="queued", submitted=True)
    async with asyncio.timeout(20):
        await other.store.submit(Submission(run=run, subject=""))
        await worker.store.changed("queue", within=60)
        await other.store.changed(f"run:{run.id}", within=60)
        await worker.store.changed("queue", within=60)
