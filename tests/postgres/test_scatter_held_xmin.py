"""A scatter goes on, and what it asks costs the same, while an old snapshot keeps every dead row (fault 20)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from itertools import pairwise

import asyncpg
import pytest
import pytest_asyncio
from asyncpg import Record

from flowstone_async import Engine, Pipeline
from flowstone_async.store.postgres import connections
from flowstone_async.store.postgres.queries import QUERIES
from tests.postgres.test_held_xmin import SIZE, reader, replicated

ASKED = ("add_page", "flush", "take_chunks")
NAMES = {QUERIES[name]: name for name in ASKED}
EVERY = 5


@pytest_asyncio.fixture(params=["snapshot", pytest.param("slot", marks=pytest.mark.faults)])
async def held(dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The address of a database of which no dead row can be removed."""
    async with reader(dsn) if request.param == "snapshot" else replicated() as address:
        yield address


class Costs:
    """How many blocks statements read: one in a few is run once more, and undone.

    Attributes:
        blocks: By name, in their order.
        kept: Set whenever a flush was committed.
    """

    def __init__(self) -> None:
        self.blocks = defaultdict[str, list[int]](list)
        self.kept = asyncio.Event()
        self._asked = Counter[str]()

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Watch all statements from now on."""
        send = connections.Session.fetch_text

        async def watched(session: connections.Session, text: str, *arguments: object) -> list[Record]:
            name = NAMES.get(text, "")
            self._asked[name] += 1
            if name and self._asked[name] % EVERY == 1:
                await send(session, "BEGIN")
                [explained] = await send(session, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", *arguments)
                await send(session, "ROLLBACK")
                top = json.loads(explained[0])[0]["Plan"]
                self.blocks[name].append(top["Shared Hit Blocks"] + top["Shared Read Blocks"])
            rows = await send(session, text, *arguments)
            if name == "flush":
                self.kept.set()
            return rows

        monkeypatch.setattr(connections.Session, "fetch_text", watched)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> Costs:
    """What statements cost."""
    found = Costs()
    found.watch(monkeypatch)
    return found


async def test_pages_flushes_and_claims_cost_the_same_while_nothing_can_be_vacuumed(held: str, costs: Costs) -> None:
    """With many pages."""
    pages, page = 120, 25
    pipe, sql, sizes = Pipeline("held"), await asyncpg.connect(held), list[int]()

    async def numbers() -> AsyncIterator[int]:
        for no in range(pages * page):
            if not no % (pages * page // 3):
                await sql.execute("VACUUM flowstone.scatter_chunk, flowstone.scatter")
                sizes.append(await sql.fetchval(SIZE))
            yield no

    @pipe.scatter(numbers, page_size=page, max_concurrent=4)
    async def items(no: int) -> int:
        for _ in range(no % 5):
            await asyncio.sleep(0)
        return no

    async with Engine(pipe, store=held, poll="20ms") as engine:
        found = await engine.run(items, timeout=False)
        assert (found.total, found.succeeded) == (pages * page, pages * page)
    sizes.append(await sql.fetchval(SIZE))
    await sql.close()
    adding, early = costs.blocks["add_page"], costs.blocks["add_page"][:5]
    assert max(adding) < 1.5 * max(early) < 15 * page
    assert max(costs.blocks["flush"]) < 30
    assert max(costs.blocks["take_chunks"]) < pages + 50, "a block for each page, as ADR 8 says"
    growth = [after - before for before, after in pairwise(sizes)]
    assert growth[2] < 3 * max(growth[:2]), "how much a third adds depends on how many flushes it took"


async def test_a_page_that_is_kept_item_by_item_costs_the_same_to_the_end(held: str, costs: Costs) -> None:
    """Each flush leaves a dead row of its chunk."""
    pipe, count = Pipeline("held"), 600

    @pipe.scatter(range(count), page_size=count // 2, max_concurrent=1)
    async def items(no: int) -> int:
        if no:
            await costs.kept.wait()
            costs.kept.clear()
        return no

    async with Engine(pipe, store=held) as engine:
        found = await engine.run(items, timeout=False)
        assert found.succeeded == count
    flushing = costs.blocks["flush"]
    assert len(flushing) > count // EVERY // 2
    assert max(flushing) < 40
