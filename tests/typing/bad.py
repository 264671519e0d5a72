# pyright: strict
# every line marked "# bad" must be rejected by the type checker, before anything runs
# scatter and route have lines of their own in api/bad.py, which come with their issues
from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import date
from typing import Annotated

from flowstone_async import (
    AssetFinished,
    Cache,
    Context,
    Daily,
    Engine,
    Keys,
    PartitionSet,
    Pipeline,
    Retry,
    RunFailed,
    dep,
)

pipe = Pipeline("bad")
days = Daily("2025-01-01")
regions = Keys("us", "eu")


@pipe.asset
async def raw() -> list[int]:
    return [1]


@pipe.asset
async def wrong_edge(xs: list[str] = dep(raw)) -> int:            # bad: list[int] into list[str]
    return len(xs)


@pipe.asset(partitions=days)
async def daily(partition: date) -> int:
    return 1


@pipe.asset(partitions=days * regions)
async def regional(partition: tuple[date, str]) -> int:
    return 1


@pipe.asset(partitions=days)
async def wrong_key(day: str = days.key()) -> int:                 # bad: date into str
    return len(day)


@pipe.asset
async def not_admitted(xs: list[int] = dep(raw, optional=True)) -> int:     # bad: it may be None
    return len(xs)


@pipe.asset(partitions=days)
async def wrong_values(week: Mapping[date, str] = dep(daily, over=days.last(7))) -> int:        # bad: int into str
    return len(week)


@pipe.asset(partitions=days)
async def wrong_keys(week: Mapping[str, int] = dep(daily, over=days.last(7))) -> int:        # bad: date into str
    return len(week)


@pipe.asset(partitions=days)
async def absent_values(
    week: Mapping[date, int] = dep(daily, over=days.last(7), optional=True),        # bad: a value may be None
) -> int:
    return len(week)


@pipe.asset
async def by_annotation(xs: Annotated[list[str], dep(raw)]) -> int:
    return len(xs)                                                 # not an edge that a type checker sees: FS104


@pipe.asset                                                        # bad: a plain def says where it runs
def blocking() -> int:
    return 1


@pipe.asset(run_in="fiber")                                        # bad: no such place
def elsewhere() -> int:
    return 1


@pipe.asset(cach=Cache())                                          # bad: misspelt option
async def misspelt() -> int:
    return 1


@pipe.asset(retry=3)                                               # bad: not a policy
async def retried() -> int:
    return 1


@pipe.asset(partitions=["us", "eu"])                               # bad: not a partition set
async def listed() -> int:
    return 1


@pipe.asset(run_in="thread")
def counted(raw: list[int]) -> int:
    return len(raw)


@pipe.asset
async def urls() -> AsyncIterator[str]:
    yield "http://x"


@pipe.on(RunFailed)                                                # bad: another event
async def page(event: AssetFinished) -> None:
    print(event.seconds)


@pipe.resource(scope="forever")                                    # bad: no such scope
async def db() -> AsyncIterator[str]:
    yield "db"


constant = pipe.constant("constant", 1, name="other")              # bad: the name is given already
added = pipe.add(raw, name="added", deps={"x": 1})                 # bad: not an asset
tries = Retry("3")                                                 # bad: not a number
text_keys: PartitionSet[str] = days                                # bad: dates


async def main() -> None:
    await pipe.run(daily, partition="2025-01-15")                  # bad: str is not date
    n: str = await pipe.run(daily, partition=date(2025, 1, 15))    # bad: int is not str
    await daily("x")                                               # bad: direct call is typed too
    print(n)
    await pipe.run(daily)                                          # bad: it needs a partition
    await pipe.run(regional, partition=(date(2025, 1, 15), 1))     # bad: int is not str
    await pipe.run(raw, forced=True)                               # bad: misspelt option
    await pipe.run(raw, force="some")                              # bad: no such way
    await pipe.run(1)                                              # bad: not an asset
    pipe.run_sync(daily, partition="2025-01-15")                   # bad: str is not date
    counted(["a"])                                                 # bad: direct call of a blocking body
    length: str = counted([1])                                     # bad: int is not str
    print(length)
    await urls()                                                   # bad: a stream is iterated, not awaited
    list(await pipe.run(urls))                                     # bad: ... with async for
    await pipe.get(daily, partition="2025-01-15")                  # bad: str is not date
    await pipe.wait(daily, partition="2025-01-15")                 # bad: str is not date
    await pipe.backfill(daily, partitions=["2025-01-15"])          # bad: str is not date
    await pipe.backfill(raw, only="new")                           # bad: no such choice


async def durable(ctx: Context) -> None:
    ctx.metadata(1)                                                # bad: facts have names
    async with Engine(pipe) as engine:
        await engine.submit(daily, partition="2025-01-15")         # bad: str is not date
        submitted = await engine.submit(raw)
        text: str = await submitted                                # bad: list[int] is not str
        print(text)
        report = await engine.report(raw)
        value: str = report[raw].value                             # bad: list[int] is not str
        print(value)
    async with pipe.test() as trial:
        await trial.run(daily, partition="2025-01-15")             # bad: str is not date
        await trial.submit(daily)                                  # bad: it needs a partition
