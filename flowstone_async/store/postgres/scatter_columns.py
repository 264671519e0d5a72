"""Pages and flushes of scatters as their statements take them: a list for each column."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Any

from flowstone_async.store.postgres.encoding import failure_text
from flowstone_async.store.scatters import Flush, NewPage, kind_of

PLACE = "I"


def cut(page: NewPage) -> tuple[list[int], list[int], list[int]]:
    """Return the chunks of a page: the place of each one's first item, their counts, and how many of them failed."""
    firsts: list[int] = []
    failed: list[int] = []
    first = 0
    for count in page.chunks:
        firsts.append(first)
        failed.append(sum(first <= each.position < first + count for each in page.failed))
        first += count
    return firsts, list(page.chunks), failed


def columns_of(flushes: Sequence[Flush]) -> tuple[list[Any], ...]:
    """Return flushes as the statement takes them: a list for each column, numbered from 1 where rows belong to one."""
    chunks: list[tuple[object, ...]] = []
    later: list[tuple[object, ...]] = []
    rows: list[tuple[object, ...]] = []
    failures: list[tuple[object, ...]] = []
    for place, flush in enumerate(flushes, 1):
        chunk, block = flush.chunk, flush.block
        packed = block is not None and block.rows is None
        chunks.append(
            (
                *(chunk.scatter, chunk.first, chunk.alone, chunk.fence, flush.number, flush.state),
                *(flush.done, flush.succeeded, flush.failed, flush.attempts, flush.due, failure_text(flush.error)),
                None if block is None or not packed else _places(chunk.first, block.positions),
                None if block is None or not packed else block.body,
            )
        )
        later += (
            (place, each.position, each.attempts, each.lost, each.due, failure_text(each.error)) for each in flush.later
        )
        if block is not None and block.rows is not None:
            rows += ((place, *each) for each in zip(block.positions, block.rows, strict=True))
        failures += (
            (place, each.position, each.attempts, kind_of(each.error), failure_text(each.error))
            for each in flush.failures
        )
    return (*turned(chunks, 14), *turned(later, 6), *turned(rows, 3), *turned(failures, 5))


def _places(first: int, positions: Sequence[int]) -> bytes:
    places = array(PLACE, [position - first for position in positions])
    if sys.byteorder == "big":
        places.byteswap()
    return places.tobytes()


def positions(first: int, data: bytes) -> Sequence[int]:
    """Return the positions of a block; the other way round than `_places`."""
    places = array(PLACE, data)
    if sys.byteorder == "big":
        places.byteswap()
    return [first + place for place in places]


def turned(rows: list[tuple[object, ...]], width: int) -> list[list[Any]]:
    """Return rows as columns, so many of them."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def waits_of(flush: Flush) -> list[tuple[int, str]]:
    """Return the items of a flush that wait at gates from then on, each with one of its gates."""
    found = [(flush.chunk.first, gate) for gate in flush.gates]
    return found + [(each.position, gate) for each in flush.later for gate in each.gates]
