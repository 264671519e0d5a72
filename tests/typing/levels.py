# pyright: strict

"""The levels of the API that exist so far, as a user writes them; pyright must be content with all of it.

What is left out comes with its own issue: scatters on scatters (6), sources (7), routes (8), parallel
branches (9), approvals, signals and steps (10), schedules (12), and `io.Parquet`. Each adds its part of api/levels.py
here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from typing import assert_type

from flowstone_async import (
    Asset,
    AssetFinished,
    Batch,
    Batching,
    Context,
    Daily,
    Engine,
    ErrorGroup,
    Gathered,
    Keys,
    Mapped,
    Pipeline,
    Rate,
    Retry,
    RunFailed,
    RunHandle,
    ScatterItem,
    Stream,
    dep,
    io,
)

# 1 hello world ----------------------------------------------------------------
pipe = Pipeline("levels")


@pipe.asset
async def greeting() -> str:
    return "Hello, World!"


# 2 dependencies ---------------------------------------------------------------
@pipe.asset
async def raw() -> list[int]:
    return [1, 2, 3, 4, 5]


@pipe.asset
async def doubled(raw: list[int]) -> list[int]:
    return [n * 2 for n in raw]


@pipe.asset
async def total(numbers: list[int] = dep(doubled)) -> int:  # by reference: checked by pyright
    return sum(numbers)


# 3 partitions -----------------------------------------------------------------
days = Daily("2025-01-01")


@dataclass
class Metrics:
    n: int


@pipe.asset(partitions=days)
async def events(partition: date) -> list[str]:
    return [f"{partition}:{i}" for i in range(3)]


@pipe.asset(partitions=days)
async def metrics(events: list[str], day: date = days.key()) -> Metrics:
    return Metrics(len(events))


@pipe.asset(partitions=days)
async def weekly(last7: object = dep(events, over=days.last(7))) -> int:
    return 7


regions = Keys("us", "eu")
grid = days * regions


@pipe.asset(partitions=grid, cache=False, retry=Retry(3), timeout="30s", io=io.Files("data"))  # io.Parquet comes later
async def regional(partition: tuple[date, str]) -> list[Metrics]:
    return [Metrics(1)]


# 6 scatter / gather -----------------------------------------------------------
@dataclass
class Image:
    url: str


@pipe.asset
async def image_urls() -> AsyncIterator[str]:
    for i in range(10):
        yield f"http://x/{i}"


@pipe.scatter(image_urls, max_concurrent=50, rate=Rate(100, per="1s"), tolerate=0.02)
async def images(url: str) -> Image:
    return Image(url)


@images.gather
async def album(results: Gathered[Image]) -> list[Image]:
    return [img async for img in results]


@pipe.scatter(image_urls, batch=Batching(max_items=10))
async def sizes(urls: Batch[str]) -> list[int]:
    return [len(u) for u in urls]


async def length_of(url: str) -> int:
    return len(url)


@pipe.asset
async def lengths(image_urls: Stream[str], ctx: Context) -> list[int]:
    assert_type(ctx.map(length_of, ["a"], max_concurrent=5, key=len), Mapped[int])
    async with ctx.map(lambda url: length_of(url.upper()), ("a", "b")) as results:
        assert_type([result async for result in results], list[int])
    found = [length async for length in ctx.map(length_of, image_urls, max_concurrent=20)]
    assert_type(found, list[int])
    return sorted(found)


@pipe.scatter([("a", 1)], rate=Rate(5, per="1m", key=lambda item: item[0]))
async def by_tenant(item: tuple[str, int]) -> int:
    return item[1]


@pipe.scatter(images)  # scatter on a scatter: per-item pipelining
async def thumbs(img: Image) -> bytes:
    return img.url.encode()


@pipe.scatter(raw)
async def squares(n: int, total: int) -> int:
    return n * n


# 7 sources, 8 routing, 9 parallel, 10 approvals and signals come later ----------


# hooks, params ----------------------------------------------------------------
@pipe.on(RunFailed)
async def page(ev: RunFailed) -> None:
    print(ev.error)


@pipe.on(AssetFinished)
async def timing(ev: AssetFinished) -> None:
    print(ev.seconds)


@dataclass
class Args:
    start: date = date(2025, 1, 1)
    batch_size: int = 100


etl = Pipeline("etl", params=Args)


@etl.asset  # schedule=Cron("0 2 * * *") comes later
async def fetched(params: Args) -> int:
    return params.batch_size


@pipe.asset(run_in="process")
def crunch(total: int) -> float:
    return total / 2


# inference --------------------------------------------------------------------
async def main() -> None:
    assert_type(await pipe.run(greeting), str)
    assert_type(await pipe.run(total), int)
    assert_type(await pipe.run(greeting, total), tuple[str, int])
    assert_type(await pipe.run(metrics, partition=date(2025, 1, 15)), Metrics)
    assert_type(await pipe.run(image_urls), Stream[str])
    assert_type(await pipe.run(album), list[Image])
    assert_type(await pipe.run(images), Gathered[Image])
    assert_type(await pipe.run(sizes), Gathered[list[int]])
    assert_type(await pipe.run(thumbs), Gathered[bytes])
    assert_type(await pipe.run(squares), Gathered[int])
    assert_type(await doubled([1, 2]), list[int])  # a unit test is a plain call
    assert_type(crunch(3), float)  # ... also for a blocking body
    assert_type(await pipe.run(crunch), float)


async def durable() -> None:
    async with Engine(pipe) as engine:
        assert_type(await engine.run(metrics, partition=date(2025, 1, 15), force=True), Metrics)
        run = await engine.submit(album)
        assert_type(run, RunHandle[list[Image]])
        assert_type(await run, list[Image])
        assert_type(await run.redrive(images, only="failed"), RunHandle[list[Image]])
        assert_type(await run.items(images, state="done", limit=3, after=7), tuple[ScatterItem, ...])
        assert_type(await run.item_errors("images"), tuple[ErrorGroup, ...])
        assert_type(await engine.get(total), int)
        rep = await engine.report(total)
        assert_type(rep[doubled].value, list[int])
        await engine.backfill(metrics, partitions=days.range(date(2025, 1, 1), date(2025, 1, 31)))


_check: Asset[..., int] = total

if __name__ == "__main__":

    async def demo() -> None:
        print(await pipe.run(greeting), await pipe.run(total), await pipe.run(metrics, partition=date(2025, 1, 15)))
        assert await pipe.run(lengths) == [10] * 10
        print(await (await pipe.run(image_urls)).to_list(limit=100), await etl.run(fetched))

    asyncio.run(demo())
