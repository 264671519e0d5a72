"""A pipeline with scatters: what its items do depends on files in the current directory."""

from datetime import date
from pathlib import Path

from flowstone_async import Batch, Batching, Daily, Gathered, Pipeline, Retry

pipe = Pipeline("scattered")
days = Daily("2025-01-01", end="2025-01-03")


@pipe.scatter(range(10), tolerate=0.5, retry=Retry(2, backoff="none"))
async def items(no: int) -> int:
    if no % 4 == 1 and not Path("mended").exists():
        raise ValueError(f"{no} is broken, password=hunter2")
    if no == 2 and not Path("mended").exists():
        raise KeyError(no)
    return no


@items.gather
async def total(results: Gathered[int]) -> int:
    return sum([value async for value in results])


@pipe.scatter([{"name": "a"}, {"name": "b"}], partitions=days, tolerate=0.5, retry=False)
async def daily(row: dict[str, str], partition: date) -> str:
    if row["name"] == "b" and not Path("mended").exists():
        raise ValueError(f"no {row['name']} on {partition}")
    return row["name"]


@pipe.scatter(range(6), batch=Batching(max_items=2), tolerate=0.5, retry=False)
async def pairs(numbers: Batch[int]) -> list[int]:
    if not Path("mended").exists() and 3 in numbers:
        raise numbers.failed({1: ValueError("3 is broken")}, value=[2])
    if not Path("mended").exists() and 4 in numbers:
        raise KeyError(4)
    return list(numbers)


@pipe.asset
async def plain() -> int:
    return 1
