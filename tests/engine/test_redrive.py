"""Running items of an ended scatter again: memory and Postgres (SCAT-25)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from flowstone_async import (
    AssetNotFound,
    Batching,
    ConfigError,
    Context,
    DependencyFailed,
    Engine,
    Gathered,
    Keys,
    Pipeline,
    Rate,
    Retry,
    RunHandle,
    ScatterRedriven,
    dep,
)
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.redriving import redriven_but_for_one, survived


class _Case:
    """Twenty items of which 3 and 7 fail as long as they are broken; `total` adds the others up, for `report`."""

    def __init__(self, **options: Any) -> None:
        self.pipe = pipe = Pipeline("case")
        self.calls: Counter[str] = Counter()
        self.broken, self.attempts, self.gate, self.held = {3, 7}, list[int](), Gate(), set(range(20))
        self.gate.open()

        @pipe.asset(cache=False)
        async def numbers() -> list[int]:
            self.calls["numbers"] += 1
            return list(range(20))

        @pipe.scatter(numbers, **{"tolerate": 0.5, "retry": Retry(2, backoff="none"), "page_size": 6, **options})
        async def items(no: int, ctx: Context) -> int:
            self.calls[f"item {no}"] += 1
            self.attempts.append(ctx.item.attempt)
            if no in self.held:
                await self.gate()
            if no in self.broken:
                raise ValueError(f"{no} is broken")
            return no

        @items.gather
        async def total(results: Gathered[int]) -> int:
            self.calls["total"] += 1
            return sum([value async for value in results])

        @pipe.asset
        async def report(total: int) -> str:
            self.calls["report"] += 1
            return f"total {total}"

    @property
    def items_called(self) -> dict[int, int]:
        return {int(name[5:]): count for name, count in self.calls.items() if name.startswith("item ")}

    async def first(self, engine: Engine, **options: Any) -> RunHandle[Any]:
        run = await engine.submit("report", **options)
        assert await soon(run) == "total 180"
        return run


async def current(engine: Engine, key: str = "items") -> Gathered[int]:
    return await engine.get(key)


async def test_failed_items_are_run_again_and_what_depends_on_them(open_engine: OpenEngine):
    """SCAT-25: with fresh attempts; the others keep their results, and nothing above is computed."""
    case = _Case()
    engine = await open_engine(case.pipe)
    run = await case.first(engine)
    case.broken.clear()
    case.calls.clear()
    case.attempts.clear()
    again = await run.redrive("items")
    assert again.id != run.id
    assert await soon(again) == "total 190"
    assert case.calls == {"item 3": 1, "item 7": 1, "total": 1, "report": 1}
    assert case.attempts == [1, 1]
    found = await current(engine)
    assert (found.total, found.succeeded, found.failed) == (20, 20, 0)
    assert await found.to_list(limit=20) == list(range(20))
    assert [each async for each in found.failures()] == []
    assert await found.get(3) == 3
    counts = (await again.status()).scatter
    assert counts is not None
    assert (counts.total, counts.done, counts.failed) == (20, 20, 0)


async def test_all_items_are_run_again(open_engine: OpenEngine):
    """SCAT-25: `only="all"`; the source is not read again."""
    case = _Case()
    engine = await open_engine(case.pipe)
    run = await case.first(engine)
    case.broken.clear()
    case.calls.clear()
    assert await soon(await run.redrive("items", only="all")) == "total 190"
    assert case.items_called == dict.fromkeys(range(20), 1)
    assert case.calls["numbers"] == 0
    assert (await current(engine)).succeeded == 20


@pytest.mark.parametrize("results", ["packed", "rows"])
@pytest.mark.parametrize("order", ["source", "completion"])
async def test_kept_results_are_read_with_the_new_ones(open_engine: OpenEngine, results: Any, order: Any):
    """SCAT-20: in whatever form and order."""
    case = _Case(results=results, order=order, max_concurrent=1)
    engine = await open_engine(case.pipe)
    run = await case.first(engine)
    case.broken.clear()
    await soon(await run.redrive("items"))
    values = await (await current(engine)).to_list(limit=20)
    rest = [no for no in range(20) if no not in (3, 7)]
    if order == "source":
        assert values == list(range(20))
    else:  # those of one flush in any order
        assert (sorted(values[:18]), sorted(values[18:])) == (rest, [3, 7])


async def test_a_value_stays_until_the_new_one_is_there(open_engine: OpenEngine):
    """RUN-08: also if the redrive fails, or is cancelled."""
    case = _Case()
    engine = await open_engine(case.pipe)
    run = await case.first(engine)
    before = await current(engine)
    case.gate.close()
    again = await run.redrive("items")
    await case.gate.reached(24)  # 18 and 2 x 2 of the first run, and the two of this one
    found = await current(engine)
    assert (found.succeeded, found.failed) == (18, 2)
    assert len(await found.to_list(limit=20)) == 18
    assert [each.key async for each in found.failures()] == [3, 7]
    await again.cancel()
    assert len(await (await current(engine)).to_list(limit=20)) == 18
    assert len(await before.to_list(limit=20)) == 18


async def test_a_scatter_that_failed_goes_on(open_engine: OpenEngine):
    """SCAT-25, SCAT-11: what it has is kept, what it never came to is run; it is judged anew."""
    case = _Case(tolerate=0, retry=False, page_size=4)
    case.held = set(range(4, 20))
    case.gate.close()
    engine = await open_engine(case.pipe)
    run = await engine.submit("report")
    with pytest.raises(DependencyFailed):
        await soon(run)
    kept = {each.key for each in await run.items("items", state="done")}
    assert kept <= {0, 1, 2}
    case.gate.open()
    case.broken.remove(3)
    second = await run.redrive("items")
    with pytest.raises(DependencyFailed, match="7 is broken"):
        await soon(second)
    kept |= {each.key for each in await second.items("items", state="done")}
    case.broken.clear()
    case.calls.clear()
    assert await soon(await second.redrive("items")) == "total 190"
    assert set(case.items_called) == set(range(20)) - kept
    assert case.calls["numbers"] == 0


async def test_only_the_last_of_a_chain_is_redriven(open_engine: OpenEngine):
    """SCAT-25: it has the results of those before."""
    case = _Case()
    engine = await open_engine(case.pipe)
    run = await case.first(engine)
    case.broken.remove(3)
    second = await run.redrive("items")
    assert await soon(second) == "total 183"
    with pytest.raises(ConfigError, match=second.id):
        await run.redrive("items")
    case.broken.clear()
    assert await soon(await second.redrive("items")) == "total 190"
    assert (await current(engine)).succeeded == 20


async def test_the_same_redrive_twice_is_one_run(open_engine: OpenEngine):
    """Two operators, or one who heard nothing."""
    case = _Case()
    engine = await open_engine(case.pipe)
    run = await case.first(engine)
    case.broken.clear()
    case.gate.close()
    first, second = await asyncio.gather(run.redrive("items"), run.redrive("items"))
    assert first.id == second.id
    with pytest.raises(ConfigError, match=first.id):
        await run.redrive("items", only="all")
    case.gate.open()
    assert await soon(second) == "total 190"
    assert {case.items_called[no] for no in (3, 7)} == {3}


async def test_an_unfinished_scatter_is_not_redriven(open_engine: OpenEngine):
    """SCAT-25."""
    case = _Case()
    case.gate.close()
    engine = await open_engine(case.pipe)
    run = await engine.submit("report")
    await case.gate.reached()
    with pytest.raises(ConfigError, match="has not ended"):
        await run.redrive("items")
    case.gate.open()
    assert await soon(run) == "total 180"


async def test_what_cannot_be_redriven_says_why(open_engine: OpenEngine):
    """G-05, ERR-05."""
    case = _Case()
    case.broken.clear()
    engine = await open_engine(case.pipe)
    run = await engine.submit("report")
    assert await soon(run) == "total 190"
    with pytest.raises(ConfigError, match="no item of the scatter failed"):
        await run.redrive("items")
    with pytest.raises(ConfigError, match="'total' is no scatter"):
        await run.redrive("total")
    with pytest.raises(AssetNotFound, match="items"):
        await run.redrive("item")
    with pytest.raises(ConfigError, match="only='some'"):
        await run.redrive("items", only="some")  # pyright: ignore[reportArgumentType]
    source = await engine.submit("numbers")
    await soon(source)
    with pytest.raises(ConfigError, match="has no items of 'items'") as raised:
        await source.redrive("items")
    assert raised.value.hint is not None
    assert run.id in raised.value.hint
    newer = await engine.submit("items", force=True)
    await soon(newer)
    with pytest.raises(ConfigError, match=newer.id):
        await run.redrive("items", only="all")


async def test_items_that_could_not_be_made_stay_failed(open_engine: OpenEngine):
    """SCAT-04, SCAT-06: there is nothing to call the body with."""
    pipe, broken = Pipeline("made"), {2}

    def halved(no: int) -> float:
        return 10 / no

    @pipe.scatter([0, 1, 2, 4], select=halved, tolerate=0.9)
    async def items(half: float) -> float:
        if 10 / half in broken:
            raise ValueError("broken")
        return half

    found = await redriven_but_for_one(await open_engine(pipe), items, broken.clear)
    assert (found.total, found.succeeded, found.failed) == (4, 3, 1)


@pytest.mark.parametrize("batch", [False, Batching(max_items=2)])
async def test_items_whose_rate_key_could_not_be_told_run(open_engine: OpenEngine, batch: Any):
    """SCAT-25, RATE-08: unlike those that could not be made, they are on record; keys are asked for again."""
    pipe, broken, asked = Pipeline("keyed"), {3}, Counter[int]()

    def key(item: Any) -> str:
        first = item[0] if batch else item
        asked[first] += 1
        if first in broken:
            raise ValueError("no key")
        return "all"

    @pipe.scatter(range(1, 7), batch=batch, rate=Rate(1000, per="1s", key=key), tolerate=0.5)
    async def items(item: Any) -> int:
        return sum(item) if batch else item

    engine = await open_engine(pipe)
    run = await engine.submit(items)
    first = await soon(run)
    [failure] = [each async for each in first.failures()]
    assert (failure.error_type, failure.attempts, first.failed) == ("ValueError", 1, 1)
    assert failure.worker is not None
    again = await run.redrive(items)  # nothing is mended yet
    assert (await soon(again)).failed == 1
    broken.clear()
    mended = await again.redrive(items)
    found = await soon(mended)
    assert (found.succeeded, found.failed) == (found.total, 0)
    assert sum(await found.to_list(limit=6)) == 21
    assert (asked[3], asked[1]) == (3, 1)


async def test_each_partition_of_a_run_is_redriven(open_engine: OpenEngine):
    """SCAT-25, PART-06: all that have failed items, or one."""
    pipe, broken, calls = Pipeline("parts"), {"us", "eu"}, Counter[str]()
    regions = Keys("us", "eu", "asia")

    @pipe.scatter(range(3), partitions=regions, tolerate=0.5)
    async def items(no: int, partition: str) -> str:
        calls[partition] += 1
        if no == 1 and partition in broken:
            raise ValueError("broken")
        return f"{partition}{no}"

    @pipe.asset
    async def everything(items: Any = dep(items, over=regions.all())) -> list[int]:
        return [each.succeeded for each in items.values()]

    engine = await open_engine(pipe)
    run = await engine.submit("everything")
    assert await soon(run) == [2, 2, 3]
    with pytest.raises(ConfigError, match="scatters of 'items' for 3 partitions"):
        await run.items(items)
    broken.clear()
    calls.clear()
    one = await run.redrive(items, partition="us")
    assert await soon(one) == [3, 2, 3]
    assert calls == {"us": 1}
    assert await soon(await run.redrive(items, partition="eu")) == [3, 3, 3]
    assert calls == {"us": 1, "eu": 1}


async def test_a_value_is_judged_by_what_its_results_came_from(open_engine: OpenEngine):
    """CACHE-01, LIN-01: the source has changed since; a redrive is of the items that were."""
    pipe, listed, broken = Pipeline("changed"), [1, 2, 3], {2}

    @pipe.asset(cache=False)
    async def numbers() -> list[int]:
        return list(listed)

    @pipe.scatter(numbers, tolerate=0.5)
    async def items(no: int) -> int:
        if no in broken:
            raise ValueError("broken")
        return no

    engine = await open_engine(pipe)
    run = await engine.submit(items)
    assert (await soon(run)).succeeded == 2
    listed.append(4)
    await engine.run(numbers)
    broken.clear()
    again = await run.redrive(items)
    assert await (await soon(again)).to_list(limit=9) == [1, 2, 3]
    assert not (await engine.status(items)).fresh
    assert await engine._live().store.verify() == ()
    assert await (await engine.run(items)).to_list(limit=9) == [1, 2, 3, 4]


async def test_a_redriven_value_is_fresh(open_engine: OpenEngine):
    """CACHE-01."""
    case = _Case()
    engine = await open_engine(case.pipe)
    run = await case.first(engine)
    case.broken.clear()
    await soon(await run.redrive("items"))
    case.calls.clear()
    assert await engine.run("report") == "total 190"
    assert case.calls == {"numbers": 1}, "it is never fresh, and came out equal"
    assert await engine._live().store.verify() == ()


async def test_a_redrive_survives_its_engine(open_engine: OpenEngine):
    """JOB-09: killed right after it was stored, and in the middle of it."""
    case = _Case()
    living, again = await survived(open_engine, case.pipe, case.gate, case.first, case.broken.clear, reached=2)
    assert await soon(again) == "total 190"
    assert await living._live().store.verify() == ()
    assert {no: case.items_called[no] for no in range(20) if no not in (3, 7)} == {
        no: 1 for no in range(20) if no not in (3, 7)
    }


async def test_the_test_kit_drives_a_redrive():
    """TEST-03: nobody else would."""
    case = _Case(retry=False)
    async with case.pipe.test() as t:
        run = await t.submit("report")
        await t.until(run)
        case.broken.clear()
        again = await run.redrive("items")
        await t.until(again)
        assert await again == "total 190"
        assert t.calls("items") == 20 + 2


async def test_a_redrive_and_who_asked_for_it_are_on_record(open_engine: OpenEngine):
    """AUD-01, EVT-05."""
    case = _Case()
    engine = await open_engine(case.pipe)
    run = await case.first(engine)
    again = await run.redrive("items")
    await soon(again)
    acts = [entry for _, _, entry in await engine._live().store.audit() if entry.action == "scatter.redriven"]
    [act] = acts
    assert (act.subject, act.actor, act.run_id) == ("case.items", "process", again.id)
    assert act.details == {"only": "failed", "of_run": run.id}
    told = [event.type async for event in again.events()]
    assert (told[:2], told[-1]) == (["run.started", "scatter.redriven"], "run.finished")
    [event] = [each async for each in again.events() if isinstance(each, ScatterRedriven)]
    assert (event.asset, event.partition, event.of_run, event.only) == ("items", None, run.id, "failed")


async def test_items_are_listed_by_page(open_engine: OpenEngine):
    """SCAT-25: key, item, error type, message, trace, attempts and worker."""
    case = _Case()
    case.broken.update(range(10, 15))
    engine = await open_engine(case.pipe)
    run = await engine.submit("report")
    await soon(run)
    [first, second] = await run.items("items", limit=2)
    assert (first.key, first.index, first.item, first.state, first.attempts) == (3, 3, 3, "failed", 2)
    assert (first.error_type, first.message) == ("ValueError", first.error.message if first.error else None)
    assert "3 is broken" in (first.message or "")
    assert "in items" in first.traceback_text
    assert first.worker is not None
    rest = await run.items("items", after=second.place)
    assert [each.key for each in rest] == list(range(10, 15))
    done = await run.items("items", state="done", limit=4, after=first.place)
    assert [each.key for each in done] == [4, 5, 6, 8]
    assert (done[0].error, done[0].error_type, done[0].message, done[0].traceback_text) == (None, None, None, "")
    assert await run.items("items", state="pending") == ()
    [group] = await run.item_errors("items")
    assert (group.error_type, group.count) == ("ValueError", 7)
    assert "is broken" in group.example.message


async def test_items_of_a_scatter_without_a_value_are_listed(open_engine: OpenEngine):
    """SCAT-25: of one that failed, with what it never came to."""
    case = _Case(tolerate=0, retry=False)
    case.held = set(range(20)) - {3}
    case.gate.close()
    engine = await open_engine(case.pipe)
    run = await engine.submit("report")
    with pytest.raises(DependencyFailed):
        await soon(run)
    assert [each.key for each in await run.items("items")] == [3]
    assert await run.items("items", state="done") == ()
    assert [each.key for each in await run.items("items", state="pending", limit=4)] == [0, 1, 2, 4]
    with pytest.raises(ConfigError, match="state='open'"):
        await run.items("items", state="open")  # pyright: ignore[reportArgumentType]


async def test_errors_of_different_types_are_apart(open_engine: OpenEngine):
    """SCAT-25: the most frequent first."""
    pipe = Pipeline("errors")

    @pipe.scatter(range(6), tolerate=1.0, retry=False)
    async def items(no: int) -> int:
        raise (KeyError if no % 3 == 0 else ValueError)(no)

    engine = await open_engine(pipe)
    run = await engine.submit(items)
    await soon(run)
    groups = await run.item_errors(items)
    assert [(each.error_type, each.count) for each in groups] == [("ValueError", 4), ("KeyError", 2)]
    assert len(await run.item_errors(items, limit=1)) == 1


@pytest.mark.parametrize("page_size", [5, 40])
async def test_several_workers_run_a_redrive(open_engine: OpenEngine, page_size: int):
    """SCAT-16: what one gives to another has no result yet; each item is run once."""
    pipe, broken, calls, gate = Pipeline("shared"), set(range(0, 40, 2)), Counter[int](), Gate()

    @pipe.scatter(range(40), tolerate=0.5, retry=False, page_size=page_size, max_concurrent=4)
    async def items(no: int) -> int:
        calls[no] += 1
        if no in broken:
            raise ValueError("broken")
        await gate()
        return no

    options: Any = {"poll": "10ms"}
    one, other = await open_engine(pipe, **options), await open_engine(pipe, **options)
    gate.open()
    run = await one.submit(items)
    assert (await soon(run)).succeeded == 20
    broken.clear()
    calls.clear()
    gate.close()
    began = gate.calls
    again = await run.redrive(items)
    for more in range(2, 20):
        await gate.reached(began + more)
        gate.open()
        await asyncio.sleep(0)
        gate.close()
    gate.open()
    found = await soon(again)
    assert await found.to_list(limit=40) == list(range(40))
    assert calls == Counter(range(0, 40, 2))
    assert await other._live().store.verify() == ()
