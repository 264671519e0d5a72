"""A batch of which only some items failed: the others have their result, and those go on alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from flowstone_async._engine.scatter.chunks import LocalChunk, Todo
from flowstone_async.definition.batch import BatchFailed
from flowstone_async.errors import FlowstoneError
from flowstone_async.failures import describe
from flowstone_async.store.batches import Split, split_off


def part(
    chunk: LocalChunk,
    todo: Todo,
    failed: BatchFailed,
    failing: Callable[[BaseException, int], tuple[FlowstoneError, float | None]],
    now: Callable[[], datetime],
) -> BaseException | None:
    """Note what a body raised with `batch.failed(...)`.

    Args:
        chunk: Which the batch is of.
        todo: The batch.
        failed: What was raised.
        failing: Tells of an error: the error, and seconds until the next attempt or None.
        now: The store's clock.

    Returns:
        None if that is done; else what the batch as a whole failed with: all of its items did, or it is not that batch.
    """
    if failed.size != len(todo.item):
        return failed
    attempts = chunk.chunk.attempts + 1
    told = {place: (error, *failing(error, attempts)) for place, error in failed.errors.items()}
    if len(told) == failed.size:
        again = (error for error, _, wait in told.values() if wait is not None)
        return next(again, next(iter(failed.errors.values())))
    for place, (_, error, wait) in told.items():
        due = None if wait is None else now() + timedelta(seconds=wait)
        chunk.split(Split(split_off(todo.position, place), attempts, due, describe(error), wait is None))
    chunk.succeed(todo.position, failed.value)
    return None
