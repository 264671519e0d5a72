# pyright: strict

"""What a type checker knows of batches; nothing here runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, assert_type

from flowstone_async import Batch, BatchFailed, Batching, Daily, Gathered, Item, Pipeline, Rate

pipe = Pipeline("batches")
days = Daily("2025-01-01")


@dataclass
class Settings:
    """What `select` gives."""

    width: int = 1


@pipe.asset
async def numbers() -> list[int]:
    return [1]


@pipe.asset
async def rows() -> list[dict[str, int]]:
    return []


@pipe.asset
async def pieces() -> list[bytes]:
    return []


@pipe.asset
async def settings() -> Settings:
    return Settings()


def shortened(row: dict[str, int]) -> Settings:
    """Select."""
    return Settings()


def measured(row: dict[str, int]) -> float:
    """Measure."""
    return row["size"] / 2


def first_of(batch: Batch[int], settings: Settings) -> int:
    """Key of a rate."""
    return batch[0] * settings.width


@pipe.scatter(numbers, batch=Batching(max_items=10), rate=Rate(10, per="1s", key=first_of))
async def limited(batch: Batch[int]) -> int:
    return len(batch)


@pipe.scatter(numbers, batch=Batching(max_items=10), rate=Rate(10, key=lambda batch: batch.keys[0]))
async def limited_by_a_lambda(batch: Batch[int]) -> int:
    return len(batch)


tens = Batching(max_items=10, shared=measured)


@pipe.scatter(numbers, batch=Batching(group_by=lambda n: n % 3, max_wait="2s"), key=lambda n: n + 1)
async def of_batches(numbers: Batch[int], settings: Settings) -> list[str]:
    assert_type(numbers[0], int)
    assert_type(numbers[1:], Sequence[int])
    assert_type([number for number in numbers], list[int])
    assert_type((numbers.number, numbers.of), tuple[int, int | None])
    assert_type(numbers.keys, tuple[Any, ...])
    assert_type(numbers.failed({0: ValueError()}, value=[""]), BatchFailed)
    return [str(number) for number in numbers]


@pipe.scatter(rows, batch=Batching(max_bytes=1_000, size=measured))
async def of_item_batches(rows: Batch[Item]) -> int:
    return len(rows)


@pipe.scatter(rows, select=shortened, batch=tens, partitions=days)
async def of_daily_batches(rows: Batch[Settings], partition: date) -> bool:
    return bool(rows)


@pipe.scatter(pieces, batch=Batching())
async def of_sequences(pieces: Sequence[bytes]) -> bytes:
    return b"".join(pieces)


@pipe.scatter([1], batch=False)
async def of_single_items(number: int) -> int:
    return number


@pipe.scatter(of_batches, key=lambda texts: texts[0])
async def of_their_results(texts: list[str]) -> int:
    return len(texts)


@pipe.scatter(of_their_results, batch=Batching(max_items=2, group_by=lambda count: count % 2))
async def of_results_in_batches(counts: Batch[int]) -> list[int]:
    assert_type(counts[0], int)
    return list(counts)


@pipe.scatter(of_batches, batch=Batching())
async def of_lists_in_batches(lists: Batch[list[str]]) -> int:
    assert_type(lists[0], list[str])
    return len(lists)


@of_batches.gather
async def gathered_batches(results: Gathered[list[str]]) -> int:
    async for text in results.flat():
        assert_type(text, str)
    return results.total


async def batches() -> None:
    """The value is gathered, a direct call takes a batch."""
    assert_type(await pipe.run(of_batches), Gathered[list[str]])
    assert_type(await pipe.run(of_item_batches), Gathered[int])
    assert_type(await pipe.run(of_daily_batches, partition=date(2025, 1, 1)), Gathered[bool])
    assert_type(await pipe.run(of_sequences), Gathered[bytes])
    assert_type(await pipe.run(of_their_results), Gathered[int])
    assert_type(await pipe.run(of_results_in_batches), Gathered[list[int]])
    assert_type(await pipe.run(of_lists_in_batches), Gathered[int])
    assert_type(await of_batches(Batch([1]), Settings()), list[str])
