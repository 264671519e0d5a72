"""Options of a source that are functions of dependencies (READ-04): memory and Postgres."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import asyncpg
import pytest
from typing_extensions import override

from flowstone_async import ConfigError, Context, DefinitionError, LeaseLost, Pipeline, dep, resource, sources
from flowstone_async.errors import ExecutionError
from flowstone_async.sources import Page
from flowstone_async.sources.options import Configured
from tests.engine.test_scatter_resume import RARELY, kept
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine, PostgresEngines, SharedEngines
from tests.support.gate import Gate, soon


class Numbers(Configured[int]):
    """The numbers from `start`, as many as `where["limits"][0]` says; `client` cannot be stored."""

    live: ClassVar[frozenset[str]] = frozenset({"client"})
    checks: ClassVar[Any] = {"start": lambda value: None if isinstance(value, int) else "give a number"}
    resumable = True

    def __init__(self, start: object, where: object = None, *, client: object = None, max_items: Any = False) -> None:
        options = {"start": start, "where": where, "client": client, "max_items": max_items}
        super().__init__(options)

    @override
    async def read(self, cursor: Any) -> AsyncIterator[Page[int]]:
        client = self.option("client")
        if client is not None:
            client.append(cursor)
        start, most = self.option("start"), self.option("where")["limits"][0]
        for no in range(start + most)[start:] if cursor is None else range(cursor, start + most):
            yield Page([no], cursor=no + 1)


async def test_they_are_called_once_with_dependencies_by_name(open_engine: OpenEngine):
    """READ-04: at any depth; with what a body may take, async or not."""
    pipe, calls, client = Pipeline("options"), Counter[str](), list[Any]()

    @pipe.resource
    async def connection() -> list[Any]:
        return client

    @pipe.asset
    async def first() -> int:
        return 10

    @pipe.asset
    async def count() -> int:
        return 5

    def start(first: int, ctx: Context) -> int:
        calls["start"] += 1
        assert ctx.asset == "items"
        return first

    async def most(count: int, first: int = dep("first")) -> int:
        calls["most"] += 1
        assert first == 10
        return count

    def opened(client: list[Any] = resource("connection")) -> list[Any]:
        calls["client"] += 1
        return client

    @pipe.scatter(Numbers(start, {"limits": [most]}, client=opened), page_size=1)
    async def items(no: int, ctx: Context) -> int:
        assert not ctx.resources
        return no

    engine = await open_engine(pipe)
    assert await (await soon(engine.run(items))).to_list(limit=9) == [10, 11, 12, 13, 14]
    assert calls == {"start": 1, "most": 1, "client": 1}
    assert client == [None]
    assert pipe.asset_info(items).depends_on == ("first", "count")
    await soon(engine.run(items))
    assert calls["start"] == 1, "nothing has changed: it is reused"


async def test_their_values_are_recorded_and_used_again_after_a_restart(open_engine: OpenEngine):
    """READ-04: whatever they would return now; only what cannot be stored is asked for again."""
    pipe, gate, calls, given = Pipeline("options"), Gate(), Counter[str](), [0]

    def start() -> int:
        calls["start"] += 1
        return given[0]

    def opened() -> list[Any]:
        calls["client"] += 1
        return []

    @pipe.scatter(Numbers(start, {"limits": (lambda: 20,)}, client=opened), page_size=1, max_concurrent=1)
    async def items(no: int) -> int:
        if no == 3:
            await gate()
        return no

    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run(items))
    await gate.reached()
    await kept(living, 3)
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    given[0] = 1000
    gate.open()
    await look_for_orphans(living)
    assert await (await soon(living.wait(items))).to_list(limit=20) == list(range(20))
    assert calls == {"start": 1, "client": 2}


async def test_a_run_of_its_own_calls_them_anew(open_engine: OpenEngine):
    """READ-04: what is recorded belongs to a scatter."""
    pipe, given = Pipeline("options"), [0]

    @pipe.scatter(Numbers(lambda: given[0], {"limits": [2]}), cache=False)
    async def items(no: int) -> int:
        return no

    engine = await open_engine(pipe)
    assert await (await soon(engine.run(items))).to_list(limit=2) == [0, 1]
    given[0] = 7
    assert await (await soon(engine.run(items))).to_list(limit=2) == [7, 8]


def _breaks() -> int:
    raise ValueError("no such region")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"start": _breaks}, ExecutionError, "ValueError: no such region"),
        ({"start": lambda: "x"}, ConfigError, "start='x': give a number"),
        ({"start": lambda: object()}, ConfigError, "what the function of start returned holds a object"),
        ({"start": 1, "max_items": lambda: -1}, ConfigError, "max_items=-1"),
    ],
)
async def test_what_they_return_is_checked_before_any_item_runs(
    open_engine: OpenEngine, options: Any, error: type[Exception], says: str
):
    """READ-04, G-05."""
    pipe = Pipeline("options")

    @pipe.scatter(Numbers(where={"limits": [2]}, **options))
    async def items(no: int) -> int:
        raise AssertionError("called")

    engine = await open_engine(pipe)
    with pytest.raises(error, match=says):
        await soon(engine.run(items))


async def test_rows_of_a_query_whose_arguments_are_computed(engines: SharedEngines, open_engine: OpenEngine):
    """READ-04, READ-13: each argument by itself."""
    if not isinstance(engines, PostgresEngines):
        pytest.skip("is about Postgres")
    pipe = Pipeline("options")

    @pipe.asset
    async def least() -> int:
        return 3

    @pipe.scatter(sources.Postgres(dict, "SELECT n FROM generate_series($1::int, $2) AS n", lambda least: least, 5))
    async def items(row: Any) -> int:
        return row["n"]

    engine = await open_engine(pipe)
    assert await (await soon(engine.run(items))).to_list(limit=5) == [3, 4, 5]
    connection = await asyncpg.connect(engines.dsn)
    facts = await connection.fetchval("SELECT facts FROM flowstone.scatter")
    await connection.close()
    assert json.loads(facts)["options"] == {"args[0]": 3}


@pytest.mark.parametrize(
    ("function", "code", "says"),
    [
        (lambda nobody: nobody, "FS101", "items: source(nobody) — 'nobody' is not an asset, param or resource"),
        (lambda number: number, "FS106", "items: source(number) — two functions among its options"),
    ],
)
def test_what_they_take_is_checked_with_the_definition(function: Any, code: str, says: str):
    """READ-04, ASSET-04, ASSET-12."""
    pipe = Pipeline("options")

    @pipe.asset
    async def number() -> int:
        return 1

    @pipe.asset
    async def other() -> int:
        return 1

    def renamed(number: int = dep(other)) -> int:
        return number

    @pipe.scatter(Numbers(function, {"limits": [renamed]}))
    async def items(no: int) -> int:
        return no

    with pytest.raises(DefinitionError) as caught:
        pipe.validate()
    [problem] = caught.value.problems
    assert problem.code == code
    assert says in problem.message


def test_the_same_dependency_may_be_taken_with_and_without_its_type():
    """READ-04: the type that is written decides how it is loaded."""
    pipe = Pipeline("options")

    @pipe.asset
    async def number() -> int:
        return 1

    def typed(number: int) -> int:
        return number

    @pipe.scatter(Numbers(lambda number: number, {"limits": [typed, lambda number: number]}))
    async def items(no: int) -> int:
        return no

    pipe.validate()
    assert pipe.asset_info(items).depends_on == ("number",)
