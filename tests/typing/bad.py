# pyright: strict
# every line marked "# bad" must be rejected by the type checker, before anything runs
# routes have lines of their own in api/bad.py, which come with their issue
from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import date
from typing import Annotated

from flowstone_async import (
    AssetFinished,
    Batch,
    Batching,
    Cache,
    Context,
    Daily,
    Engine,
    Gathered,
    Item,
    Keys,
    PartitionSet,
    Pipeline,
    Rate,
    Retry,
    RunFailed,
    Tolerance,
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


constant_number = pipe.constant("number", 3)


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


@pipe.scatter(raw)                                                 # bad: items are int, fn wants str
async def wrong_item(s: str) -> int:
    return len(s)


@pipe.scatter(urls)                                                # bad: items are str
async def wrong_stream_item(n: int) -> int:
    return n


@pipe.scatter(dep(raw))                                            # bad: items are int
async def wrong_dep_item(s: str) -> int:
    return len(s)


async def pages(raw: list[int]) -> AsyncIterator[bytes]:
    yield b""


@pipe.scatter(pages)                                               # bad: items are bytes
async def wrong_page(s: str) -> int:
    return len(s)


@pipe.scatter([{"id": 1}])                                         # bad: items are mappings
async def wrong_mapping(n: int) -> int:
    return n


@pipe.scatter([1])                                                 # bad: an item without keys is no Item
async def wrong_kind(item: Item) -> int:
    return len(item)


@pipe.scatter(urls, batch=Batching(max_items=3))                   # bad: it is called with batches
async def no_batch(url: str) -> int:
    return len(url)


@pipe.scatter(urls)                                                # bad: it is called with one item
async def no_item(urls: Batch[str]) -> int:
    return len(urls)


@pipe.scatter(raw, batch=Batching(shared=3))                       # bad: items are int
async def wrong_batch(texts: Batch[str]) -> int:
    return len(texts)


@pipe.scatter(raw)                                                 # bad: no parameter for the item
async def itemless() -> int:
    return 1


@pipe.scatter(raw)                                                 # bad: a plain def
def blocking_item(n: int) -> int:
    return n


@pipe.scatter(raw, select=str)                                     # bad: select gives str
async def unselected(n: int) -> int:
    return n


@pipe.scatter(raw)
async def squares(n: int, rate: float) -> float:
    return n * rate


@pipe.scatter(raw, partitions=days)
async def dated(n: int) -> int:
    return n


@squares.gather                                                    # bad: results are float
async def wrong_results(results: Gathered[str]) -> int:
    return results.succeeded


@squares.gather                                                    # bad: results are gathered
async def listed_results(results: list[float]) -> int:
    return len(results)


@squares.gather()                                                  # bad: a plain def
def blocking_gather(results: Gathered[float]) -> int:
    return 1


@pipe.asset
async def wrong_gathered(xs: Gathered[str] = dep(squares)) -> int:      # bad: results are float
    return xs.succeeded


pipe.scatter(3)                                                    # bad: it has no items
pipe.scatter(constant_number)                                      # bad: nor has its value
pipe.scatter(raw, rate=1)                                          # bad: a rate is a Rate
pipe.scatter(raw, rate="openai")                                   # bad: nor a name
Rate(1, key=lambda: 1)                                             # bad: a key takes an item
pipe.scatter(raw, io="files")                                      # bad: results are kept in the store
pipe.scatter(raw, order="random")                                  # bad: no such order
pipe.scatter(raw, results="columns")                               # bad: no such form
pipe.scatter(raw, key=lambda n: n.id)                              # bad: items are int
pipe.scatter(raw, max_concurrent="50")                             # bad: not a number
pipe.scatter(raw, retry=3)                                         # bad: not a policy
pipe.scatter(raw, tolerate="2%")                                   # bad: not a share
pipe.scatter(raw, batch=10)                                        # bad: not a Batching
pipe.scatter(raw, batch=Batching(group_by=lambda n: n.kind))       # bad: items are int
Batching(10)                                                       # bad: items or bytes?
Tolerance(10)                                                      # bad: a count or a fraction?
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
    await pipe.run(dated)                                          # bad: it needs a partition
    await squares("a", 1.0)                                        # bad: an item is an int
    results: list[float] = await pipe.run(squares)                 # bad: results are gathered
    len(await pipe.run(squares))                                   # bad: ... and have no length
    for _ in await pipe.run(squares): print(results)               # bad: ... and are read with async for
    await (await pipe.run(squares)).to_list()                      # bad: a list needs a limit
    await pipe.backfill(raw, only="new")                           # bad: no such choice


async def text_length(text: str) -> int:
    return len(text)


async def mapped(ctx: Context) -> None:
    async for value in ctx.map(text_length, [1, 2]): print(value)  # bad: it takes text
    async for _ in ctx.map(len, ["a"]): pass                       # bad: it gives nothing to await
    for _ in ctx.map(text_length, ["a"]): pass                     # bad: results come with async for
    found: str = await anext(ctx.map(text_length, ["a"]))          # bad: int is not str
    print(found, ctx.map(text_length, ["a"], max_concurrent="2"))  # bad: calls are counted
    ctx.map(text_length, ["a"], key=lambda text: text.id)          # bad: items are text


async def durable(ctx: Context) -> None:
    ctx.metadata(1)                                                # bad: facts have names
    await ctx.limits.check("api", 60)                              # bad: a rate is a Rate
    async with ctx.slots("gpu", "4"): pass                         # bad: slots are counted
    fetched: str = await ctx.limits.with_slot("gpu", 4, lambda: 1) # bad: int is not str
    print(fetched)
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
