"""What `ctx.map` refuses of bodies that are called again, and of what cannot be stored (STEP-10, STEP-13)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any

import pytest

from flowstone_async import ConfigError, Context, ReplayMismatch, StepLimit, StorageError
from flowstone_async._engine.replay import recording
from tests.support.engines import OpenEngine
from tests.support.mapping import Page, Site, fanned, taken_over


def _renamed(site: Site) -> Callable[[int], Awaitable[Any]]:
    async def other(number: int) -> int:
        return number

    return other


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("change", ["arguments", "function", "step", "longer", "moved"])
async def test_other_code_in_the_place_of_a_call_is_refused(open_engine: OpenEngine, change: str, keyed: bool):
    """STEP-10: and what comes behind, or code that is only elsewhere, is none of it."""
    site = Site()

    def named(number: int) -> int:
        return number % 10

    async def written(ctx: Context) -> int:
        return await loop(ctx, site.fetch, [1, 2, 3])

    async def loop(ctx: Context, fn: Any, items: list[int]) -> int:
        found = sum([each.number async for each in ctx.map(fn, items, key=named if keyed else None)])
        await ctx.step(site.ended)
        return found

    async def changed(ctx: Context) -> int:
        match change:
            case "arguments":
                return await loop(ctx, site.fetch, [1, 12, 3])
            case "function":
                return await loop(ctx, _renamed(site), [1, 2, 3])
            case "step":
                return (await ctx.step(site.fetch, 1)).number
            case "longer":
                return await loop(ctx, site.fetch, [1, 2, 3, 4])
            case _:

                async def fetch(number: int) -> Page:
                    return Page(number)

                return await loop(ctx, fetch, [1, 2, 3])

    fits = change not in ("arguments", "function")
    found = await taken_over(open_engine, (fanned(written), fanned(changed)), site.end, fits=fits)
    if change in ("longer", "moved"):
        assert found == (10 if change == "longer" else 6)
        assert site.made == dict.fromkeys(range(1, 5 if change == "longer" else 4), 1)
        return
    if change == "step":  # a map has no result itself: what is below it is simply not asked for
        assert found == 1
        return
    what = "other arguments" if change == "arguments" else "another call"
    key = {"arguments": ("#1", "[2]"), "function": ("#0", "[1]")}[change][keyed]
    assert isinstance(found, ReplayMismatch)
    assert what in found.message
    assert "'map#0/" in found.message
    assert found.details["expected"][0] == "map"
    assert key in found.details["key"]


async def test_a_map_in_the_place_of_a_step_is_refused(open_engine: OpenEngine):
    """STEP-10."""
    site = Site()

    async def written(ctx: Context) -> int:
        await ctx.step(site.fetch, 1)
        await ctx.step(site.ended)
        return 0

    async def changed(ctx: Context) -> int:
        return len([each async for each in ctx.map(site.fetch, [1])])

    found = await taken_over(open_engine, (fanned(written), fanned(changed)), site.end, fits=False)
    assert isinstance(found, ReplayMismatch)
    assert "makes another call there: ctx.map(Site.fetch)" in found.message


async def test_what_cannot_be_stored(open_engine: OpenEngine):
    """STEP-13: a result fails its call; an item counts by its type; a key is refused."""
    told = dict[str, str]()
    handles = [object(), object()]

    async def handle(item: Any) -> object:
        return item

    async def fine(item: Any) -> int:
        return 1

    async def body(ctx: Context) -> int:
        for name, calls in {
            "result": lambda: ctx.map(handle, handles, max_concurrent=1),
            "key": lambda: ctx.map(fine, handles, key=lambda item: item),
        }.items():
            try:
                async for _ in calls():
                    raise AssertionError
            except (StorageError, ConfigError) as error:
                told[name] = f"{type(error).__name__}: {error.message}"
        dates = [date(2025, 1, day) for day in (1, 2)]
        for key in (lambda day: day, lambda day: (day.year, day.day), lambda day: "long" * 100 + str(day)):
            assert [one async for one in ctx.map(fine, dates, key=key)] == [1, 1]
        try:
            async for _ in ctx.map(fine, [dates[0]] * 2, max_concurrent=1, key=lambda day: (day,)):
                pass
        except ConfigError as error:
            told["twice"] = error.message
        return sum([one async for one in ctx.map(fine, handles)])

    assert await (await open_engine(fanned(body))).run("fanned") == 2
    assert told["result"].startswith("StorageError: the result of step 'map#0/handle#0' cannot be stored")
    assert "object" in told["result"]
    assert told["key"].startswith("ConfigError: ctx.map: a key is of type object, which cannot be stored")
    assert told["twice"] == "ctx.map: two calls have the key (datetime.date(2025, 1, 1),)"


def plainly(number: int) -> Awaitable[Page]:
    return Site().fetch(number)


async def test_values_are_of_the_declared_type(open_engine: OpenEngine):
    """STEP-01: also where a function that is not async returns what is awaited; and each is the loop's own."""
    kept = Page(0, ("a",))

    async def one(number: int) -> Page:
        return kept

    async def body(ctx: Context) -> list[bool]:
        plain = [page async for page in ctx.map(plainly, [1])]
        own = [page async for page in ctx.map(one, range(2))]
        return [plain == [Page(1, ("a", "b"))], own == [kept, kept], own[0] is not own[1]]

    assert await (await open_engine(fanned(body))).run("fanned") == [True, True, True]


@pytest.mark.not_in("evict", reason="what evicts puts a wait on record first")
async def test_a_body_makes_so_many_calls_and_no_more(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch):
    """STEP-13."""
    monkeypatch.setattr(recording, "_MOST", 5)
    site = Site()

    async def body(ctx: Context) -> int:
        return len([page async for page in ctx.map(site.fetch, iter(lambda: site.calls.total(), -1), max_concurrent=1)])

    with pytest.raises(StepLimit, match="more than 5 durable calls") as raised:
        await (await open_engine(fanned(body))).run("fanned")
    assert "scatter" in (raised.value.hint or "")
    assert site.calls.total() == 5
