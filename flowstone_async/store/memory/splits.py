"""Batches that were split off, in memory."""

from __future__ import annotations

from flowstone_async.store.scatters import Chunk, Flush


def split_chunks(flush: Flush, page: int, total: int) -> list[Chunk]:
    """Return the chunks of what a flush splits off, with the numbers that come next.

    Args:
        flush: The flush.
        page: Number of the page that its chunk is in.
        total: How many distinct items there were before.
    """
    return [
        Chunk(
            flush.chunk.scatter,
            each.position,
            alone=True,
            page=page,
            size=1,
            failed=int(each.failed),
            attempts=each.attempts,
            error=each.error,
            number=number,
        )
        for number, each in enumerate(flush.splits, total)
    ]
