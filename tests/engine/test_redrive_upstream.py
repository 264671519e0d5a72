"""Running items again where scatters follow one another: memory and Postgres (SCAT-25, SCAT-26, READ-09)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from flowstone_async import ConfigError, DependencyFailed, Engine, Gathered, Pipeline, RunHandle
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.redriving import survived

OFTEN: Any = {"poll": "10ms"}


class _Case:
    """`second` follows `first`, of ten numbers; each fails as long as its numbers are broken. `total` adds it up."""

    def __init__(self, *, key: Any = None, **options: Any) -> None:
        self.pipe = pipe = Pipeline("case")
        self.first_broken, self.second_broken = {3}, {5}
        self.calls, self.gate, self.factor = Counter[str](), Gate(), 1
        self.gate.open()
        given: dict[str, Any] = {"tolerate": 0.5, "retry": False, "page_size": 4, **options}

        @pipe.scatter(range(10), **given)
        async def first(no: int) -> int:
            self.calls[f"first {no}"] += 1
            if no in self.first_broken:
                raise ValueError(f"{no} is broken")
            return no * self.factor

        @pipe.scatter(first, **given, key=key)
        async def second(no: int) -> int:
            self.calls[f"second {no}"] += 1
            await self.gate()
            if no in self.second_broken:
                raise ValueError(f"{no} is broken")
            return no

        @second.gather
        async def total(results: Gathered[int]) -> int:
            return sum([value async for value in results])

    def mend(self) -> None:
        self.first_broken.clear()
        self.second_broken.clear()
        self.calls.clear()


async def _failed(open_engine: OpenEngine) -> tuple[_Case, Engine, RunHandle[Any]]:
    """Run a pipeline whose `first` fails as a whole, with some results, while `second` follows it."""
    case = _Case(tolerate=0, max_concurrent=1)
    case.second_broken.clear()
    engine = await open_engine(case.pipe, **OFTEN)
    run = await engine.submit("total")
    with pytest.raises(DependencyFailed):
        await soon(run)
    return case, engine, run


async def counted(run: RunHandle[Any], asset: str) -> tuple[int, int, int, int]:
    counts = (await run.status()).scatters[asset]
    return counts.total, counts.done, counts.failed, counts.skipped


async def test_failed_items_of_what_follows_run_again(open_engine: OpenEngine):
    """SCAT-25: what it follows is taken as it is stored; its other results, keys and what was skipped are kept."""
    case = _Case()
    engine = await open_engine(case.pipe, **OFTEN)
    run = await engine.submit("total")
    assert await soon(run) == 45 - 3 - 5
    assert await counted(run, "second") == (10, 8, 1, 1)
    [failed] = await run.items("second")
    assert (failed.key, failed.item) == (5, 5)
    case.mend()
    again = await run.redrive("second")
    assert await soon(again) == 45 - 3
    assert case.calls == {"second 5": 1}
    assert await counted(again, "second") == (10, 9, 0, 1)
    found = await engine.get("second")
    assert {key: value async for key, value in found.items()} == {no: no for no in range(10) if no != 3}
    assert await found.get(5) == 5
    assert await engine._live().store.verify() == ()
    case.calls.clear()
    assert await engine.run("total") == 45 - 3
    assert case.calls == {}, "it is fresh"


async def test_all_items_of_what_follows_run_again(open_engine: OpenEngine):
    """SCAT-25: those that there are here."""
    case = _Case()
    engine = await open_engine(case.pipe, **OFTEN)
    run = await engine.submit("total")
    await soon(run)
    case.mend()
    again = await run.redrive("second", only="all")
    assert await soon(again) == 45 - 3
    assert case.calls == {f"second {no}": 1 for no in range(10) if no != 3}
    assert await counted(again, "second") == (10, 9, 0, 1)


@pytest.mark.parametrize("only", ["failed", "all"])
@pytest.mark.parametrize("key", [None, False])
async def test_what_is_followed_runs_again_and_what_follows_anew(open_engine: OpenEngine, only: Any, key: Any):
    """SCAT-25, SCAT-26: as any dependant; each result is an item there once, those that were kept included."""
    case = _Case(key=key)
    engine = await open_engine(case.pipe, **OFTEN)
    run = await engine.submit("total")
    assert await soon(run) == 45 - 3 - 5
    case.mend()
    again = await run.redrive("first", only=only)
    assert await soon(again) == 45
    firsts = {"first 3": 1} if only == "failed" else {f"first {no}": 1 for no in range(10)}
    assert case.calls == {**firsts, **{f"second {no}": 1 for no in range(10)}}
    assert await counted(again, "first") == (10, 10, 0, 0)
    assert await counted(again, "second") == (10, 10, 0, 0)
    assert sorted([value async for value in await engine.get("second")]) == list(range(10))
    assert await engine._live().store.verify() == ()


async def test_what_followed_a_scatter_that_failed(open_engine: OpenEngine):
    """SCAT-25, READ-09: it has no value to be taken; redriving the first one, or a retry, computes both."""
    case, engine, run = await _failed(open_engine)
    with pytest.raises(ConfigError, match=r"case\.second has followed case\.first, which has no value") as raised:
        await run.redrive("second")
    assert "Redrive first" in str(raised.value.hint)
    case.mend()
    again = await run.redrive("first")
    assert await soon(again) == 45
    assert {name: count for name, count in case.calls.items() if name.startswith("second")} == {
        f"second {no}": 1 for no in range(10)
    }
    assert await engine._live().store.verify() == ()


async def test_a_retried_run_computes_what_follows_anew(open_engine: OpenEngine):
    """READ-09: with the results that the first one keeps, each once."""
    case, engine, run = await _failed(open_engine)
    done = {each.key for each in await run.items("first", state="done")}
    case.mend()
    assert await soon(await engine.retry(run.id)) == 45
    assert {int(name[6:]) for name in case.calls if name.startswith("first")} == set(range(10)) - done
    assert sorted([value async for value in await engine.get("second")]) == list(range(10))


@pytest.mark.parametrize("how", ["redriven", "computed"])
async def test_what_follows_is_not_redriven_once_the_first_is_another(open_engine: OpenEngine, how: str):
    """SCAT-25: a value that failed would be made of items of two scatters."""
    case = _Case(tolerate=0.1)
    case.second_broken.update({6, 7, 8})
    engine = await open_engine(case.pipe, **OFTEN)
    run = await engine.submit("second")
    with pytest.raises(Exception, match="is broken"):
        await soon(run)
    case.mend()
    other = await engine.submit("first", force=True)
    await soon(other)
    if how == "redriven":
        other = await other.redrive("first", only="all")
        await soon(other)
    with pytest.raises(ConfigError, match=rf"run {other.id} has computed case\.first since") as raised:
        await run.redrive("second")
    assert raised.value.hint == "Run the asset anew."
    assert await soon(engine.run("total")) == 45


async def test_a_value_of_what_follows_is_redriven_and_stale(open_engine: OpenEngine):
    """CACHE-01: as where the source of any scatter has changed since: it has the items that were."""
    case = _Case()
    engine = await open_engine(case.pipe, **OFTEN)
    run = await engine.submit("total")
    await soon(run)
    case.mend()
    case.factor = 2
    await engine.run("first", force=True)
    again = await run.redrive("second")
    assert await soon(again) == 45 - 3
    assert case.calls["second 5"] == 1
    assert not (await engine.status("second")).fresh
    assert await engine.run("total") == 90
    assert await engine._live().store.verify() == ()


async def test_scatters_that_follow_go_on_from_a_redrive_that_died(open_engine: OpenEngine):
    """JOB-09, SCAT-26: killed while both were under way."""
    case = _Case()

    async def begin(engine: Engine) -> RunHandle[Any]:
        run = await engine.submit("total")
        await soon(run)
        return run

    living, again = await survived(open_engine, case.pipe, case.gate, begin, case.mend, asset="first", reached=1)
    assert await soon(asyncio.create_task(again.result())) == 45
    assert case.calls["first 3"] in (1, 2)
    assert sorted([value async for value in await living.get("second")]) == list(range(10))
    assert await living._live().store.verify() == ()
