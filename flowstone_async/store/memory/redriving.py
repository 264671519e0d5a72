"""Where a scatter begins that goes on from another one, in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import NamedTuple

from flowstone_async.errors import ConfigError
from flowstone_async.store import redrives
from flowstone_async.store.memory.scatter import StoredChunk, StoredScatter
from flowstone_async.store.redrives import Redrive
from flowstone_async.store.scatters import Chunk, StoredFailure


def redriven(
    asked: Redrive, run_id: str, known: Mapping[str, StoredScatter], active: Callable[[str], bool], now: datetime
) -> StoredScatter | None:
    """Return the scatter that a run begins with, not kept yet; None if it cannot be, and need not.

    Args:
        asked: What is to be run.
        run_id: The run.
        known: All scatters.
        active: Tells whether a run goes on.
        now: The time.

    Raises:
        ConfigError: It cannot be, and is required.
    """
    try:
        return _redriven(asked, run_id, known, active, now)
    except ConfigError:
        if asked.required:
            raise
        return None


def _redriven(
    asked: Redrive, run_id: str, known: Mapping[str, StoredScatter], active: Callable[[str], bool], now: datetime
) -> StoredScatter:
    origin = known.get(asked.origin)
    if origin is None:
        raise redrives.gone(asked.origin)
    for each in known.values():
        if each.record.origin == asked.origin:
            raise redrives.redriven(asked.origin, each.record.run_id)
    record = origin.record
    if record.state == "running" and active(record.run_id):
        raise redrives.goes_on(asked.origin, record.run_id)
    carried = carry(asked, origin.chunks.values(), origin.failures.values())
    if record.sealed and carried.final == record.total - carried.rejoined and asked.required:
        raise redrives.nothing_left(asked.origin, refused=len(carried.failures), total=record.total)
    if record.state == "running":  # its run has ended: nobody adds to it any more
        origin.cancel("cancelled")
    return begun(asked, run_id, origin, carried, now)


class Carried(NamedTuple):
    """What a scatter begins with.

    Attributes:
        chunks: With the items on their own back in their pages' chunks, and batches that were split off as they were.
        left: Places in `chunks` of those that have items to be run.
        rejoined: How many were split off and are part of their batches again.
    """

    chunks: list[Chunk]
    left: frozenset[int]
    failures: dict[int, StoredFailure]
    rejoined: int

    @property
    def final(self) -> int:
        """How many items are not to be run."""
        return sum(each.succeeded + each.failed for each in self.chunks)


def carry(asked: Redrive, chunks: Collection[StoredChunk], failures: Collection[StoredFailure]) -> Carried:
    """Return what a scatter begins with.

    Args:
        asked: What is to be run.
        chunks: Those of the scatter that it goes on from.
        failures: Its failed items.
    """
    alone = {each.kept.first: each.kept for each in chunks if each.kept.alone}
    kept = {
        each.position: each
        for each in failures
        if asked.only == "rest" or (not each.attempts and each.position not in alone)
    }
    again = {each.position for each in failures} | {each.first for each in alone.values() if not each.succeeded}
    again -= set(kept)
    made: list[Chunk] = []
    left: set[int] = set()
    rejoined = 0
    for each in chunks:
        if each.is_split_off:
            chunk = _split_off(asked, each.kept, failed=each.kept.first in kept)
            rejoins = asked.only == "all" or each.has_rejoined
            rejoined += rejoins
            is_left = not (rejoins or chunk.succeeded + chunk.failed)
        elif each.kept.alone:
            continue
        else:
            done = each.state == "done"
            chunk = _carried(asked, each.kept, done, again, alone, kept)
            is_left = bool(chunk.done) or asked.only == "all" or not done
        if is_left:
            left.add(len(made))
        made.append(chunk)
    return Carried(made, frozenset(left), kept, rejoined)


def _split_off(asked: Redrive, chunk: Chunk, *, failed: bool) -> Chunk:
    """Return a batch that was split off as it begins anew, with the number that it has."""
    succeeded = 0 if asked.only == "all" else chunk.succeeded
    return Chunk(
        asked.id,
        chunk.first,
        alone=True,
        page=chunk.page,
        size=1,
        succeeded=succeeded,
        failed=int(failed),
        number=chunk.number,
    )


def _carried(
    asked: Redrive,
    chunk: Chunk,
    done: bool,  # noqa: FBT001 - of the chunk
    again: Collection[int],
    alone: dict[int, Chunk],
    kept: dict[int, StoredFailure],
) -> Chunk:
    """Return a chunk as it begins anew; bits only where some of it is left to be run."""
    positions = range(chunk.first, chunk.first + chunk.size)
    new = Chunk(asked.id, chunk.first, alone=False, page=chunk.page, size=chunk.size)
    new = new._replace(failed=sum(each in kept for each in positions))
    if asked.only == "all":
        return new
    succeeded = chunk.succeeded + sum(alone[each].succeeded for each in positions if each in alone)
    new = new._replace(succeeded=succeeded)
    cleared = [each - chunk.first for each in positions if each in again]
    if done and not cleared:
        return new
    bits = (1 << chunk.size) - 1 if done else int.from_bytes(chunk.done, "little")
    for place in cleared:
        bits &= ~(1 << place)
    return new._replace(done=bits.to_bytes(-(-chunk.size // 8), "little"))


def begun(asked: Redrive, run_id: str, origin: StoredScatter, carried: Carried, now: datetime) -> StoredScatter:
    """Return the scatter that goes on from another one; what it has of that one is shared, and never changed."""
    record = origin.record._replace(
        id=asked.id, run_id=run_id, state="running", facts="{}", before=asked.before, origin=asked.origin, fence=0
    )
    made = StoredScatter(record, 0, now, carried.final)
    made.pages, made.fences, made.keys = dict(origin.pages), dict(origin.fences), dict(origin.keys)
    made.failures, made.carry, made.distinct = carried.failures, origin.carry, origin.distinct
    for no, chunk in enumerate(carried.chunks):
        state = "ready" if no in carried.left else "done"
        made.chunks[chunk.first, chunk.alone] = StoredChunk(chunk, state=state)
    if asked.only != "all":
        made.blocks = {page: list(blocks) for page, blocks in origin.blocks.items()}
        made.committed, made.notes = list(origin.committed), list(origin.notes)
    return made
