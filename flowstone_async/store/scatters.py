"""The store's port for scatters: pages of items, chunks of them that workers own, and what became of each.

docs/adr/0008-scatter.md says what is one transaction and why. The obligations of `protocol.py` hold here too. A
position counts the items of a scatter as they were read, duplicates included, from 0; items, keys and results are bytes
that only the engine can read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from flowstone_async.errors import Failure
from flowstone_async.store.batches import Split
from flowstone_async.store.blocks import MOST_AT_ONCE, Block, Committed
from flowstone_async.store.notes import ScatterNotes
from flowstone_async.types import AssetKey

ScatterState: TypeAlias = Literal["running", "closed", "failed", "cancelled"]
Results: TypeAlias = Literal["packed", "rows"]
Left: TypeAlias = Literal["work", "waits", "nothing"]
NEVER: Final = datetime.max.replace(tzinfo=UTC)


class ScatterRecord(NamedTuple):
    """A scatter as it is stored.

    Attributes:
        id: Also that of its value's materialization.
        sealed: Whether the source has ended.
        pages: Number of pages so far, and of the next one.
        read: Items read so far, duplicates included.
        total: Distinct items.
        cursor: Where the source goes on, as JSON; None at its start.
        facts: What was decided when it began, as JSON.
        carry: Items that were read and are in no page yet, as bytes; only `begin` tells.
        origin: The scatter of an ended run that it goes on from.
        before: What was decided for what it keeps of that one, as JSON.
        fence: Under which it is read; 0 if nobody has begun it.
    """

    id: str
    run_id: str
    key: AssetKey
    state: ScatterState = "running"
    sealed: bool = False
    pages: int = 0
    read: int = 0
    total: int = 0
    cursor: str | None = None
    facts: str = "{}"
    carry: bytes | None = None
    origin: str | None = None
    before: str | None = None
    fence: int = 0


class ItemFailed(NamedTuple):
    """An item that failed for good, after so many attempts."""

    position: int
    attempts: int
    error: Failure


class ItemLater(NamedTuple):
    """An item that leaves its chunk to be tried (again) on its own.

    Attributes:
        attempts: Attempts that failed so far.
        lost: Workers that died with it.
        due: When it may be tried; None at once; `NEVER` until one of its `gates` has ended, which may be so already.
        error: Of the last attempt.
    """

    position: int
    attempts: int
    due: datetime | None = None
    lost: int = 0
    error: Failure | None = None
    gates: tuple[str, ...] = ()


class NewPage(NamedTuple):
    """Items that were read together; of a scatter in batches, the batches that were closed.

    Attributes:
        fence: The run's, under which its owner reads.
        no: Number of the page, from 0.
        size: Number of its items.
        items: The items.
        hashes: One of each item's key, 16 bytes as hex digits; None if every position is an item of its own.
        keys: What `key=` made of each item; None where items are their own keys.
        cursor: Where the source goes on behind it, as JSON.
        last: Whether the source has ended.
        failed: Items that cannot be run, by their places in the page (as `position`); duplicates have failed before.
        chunks: Number of items of each chunk; together all of them.
        owned: How many of the chunks, the first ones, the reader's worker owns; None for all. Anybody takes the others.
        places: The place in the page that each of the hashes belongs to; None where each has its own.
        carry: What was read and is in no page yet: kept instead of what was kept before.
        distinct: Of a scatter in batches, the number of items that were read with it and not known.
    """

    scatter: str
    fence: int
    no: int
    size: int
    items: bytes
    hashes: Sequence[str] | None
    keys: bytes | None
    cursor: str | None
    last: bool
    failed: Sequence[ItemFailed]
    chunks: Sequence[int]
    owned: int | None = None
    places: Sequence[int] | None = None
    carry: bytes | None = None
    distinct: int | None = None


class PageAdded(NamedTuple):
    """The answer to a page.

    Attributes:
        first: Position of its first item.
        before: Distinct items of the pages before; of a scatter in batches, how many numbers were given before.
        duplicates: Places in the page of items whose key was known.
    """

    first: int
    before: int
    duplicates: Collection[int]


class Chunk(NamedTuple):
    """Some items of one page, or one item on its own, that a worker owns.

    Attributes:
        first: Position of its first item.
        alone: Whether it is one item that has left its chunk.
        page: Number of its page.
        done: A bit for each item that is final or has left, the first in the lowest bit of the first byte; may be
            shorter.
        succeeded: How many items of it have a result.
        failed: How many failed for good.
        attempts: Attempts that failed, of an item on its own.
        lost: Workers that died with it: the first one that did, and those that had flushed it before, as whoever begins
            any of it does once one has died.
        error: Of the last of the attempts.
        number: Its place among the distinct items, if it was split off; else its page tells.
    """

    scatter: str
    first: int
    alone: bool
    page: int
    size: int
    fence: int = 1
    done: bytes = b""
    succeeded: int = 0
    failed: int = 0
    attempts: int = 0
    lost: int = 0
    error: Failure | None = None
    number: int | None = None


class Flush(NamedTuple):
    """What ended in a chunk since its last flush; state and counts as they are after it.

    Attributes:
        number: How often this owner has flushed the chunk before.
        state: `running` if it goes on, `done` if nothing is left, `ready` for an item on its own that goes on later.
        attempts: As `Chunk.attempts`.
        due, gates: When an item on its own is tried again; as of `ItemLater`.
        error: Why.
        later: Items that leave it.
        splits: Items that leave their batch, and so make the total grow.
    """

    chunk: Chunk
    number: int
    state: Literal["running", "done", "ready"]
    done: bytes
    succeeded: int
    failed: int
    attempts: int = 0
    due: datetime | None = None
    error: Failure | None = None
    block: Block | None = None
    failures: Sequence[ItemFailed] = ()
    later: Sequence[ItemLater] = ()
    splits: Sequence[Split] = ()
    gates: tuple[str, ...] = ()


class ScatterTotals(NamedTuple):
    """How far a scatter is; parts of `total` that are neither succeeded nor failed are still to come.

    Attributes:
        waiting: Items on their own that nobody runs.
        open: Chunks that are not done.
        due: When the first that waits for a time may be tried; None if none does.
        taken: Chunks that somebody owns.
        since: When it began.
        read: Items that were read, duplicates included; of a scatter in batches those items that are distinct.
        carried: Items that were final when it went on from another scatter.
        parked: Those among `waiting` that wait at gates.
    """

    state: ScatterState
    sealed: bool
    total: int
    succeeded: int
    failed: int
    waiting: int
    open: int
    due: datetime | None
    taken: int
    since: datetime
    read: int
    carried: int = 0
    parked: int = 0


class Page(NamedTuple):
    """A page as it is stored; fields as in `NewPage` and `PageAdded`."""

    no: int
    first: int
    before: int
    size: int
    duplicates: Collection[int]
    items: bytes
    keys: bytes | None


class StoredFailure(NamedTuple):
    """A failed item as it is stored; `number` as in `Chunk`."""

    position: int
    page: int
    at: datetime
    attempts: int
    worker: str
    error: Failure
    number: int | None = None


class Scatters(ScatterNotes, Protocol):
    """Where scatters live."""

    async def begin(
        self, scatter: ScatterRecord, fence: int, worker: str, *, instead_of: str | None = None
    ) -> ScatterRecord | None:
        """Begin a scatter for the run that `worker` owns under `fence`, or go on with the one that the run has for this
        key already: then nobody before adds a page any more, and what `worker` had of it is for anybody to take. But
        for `instead_of`: that is deleted first.

        Returns:
            The scatter as it is; None if the run is not owned so any more.
        """
        ...

    async def decide(self, scatter: str, fence: int, known: str, facts: str) -> str | None:
        """Keep what is decided for a scatter that runs under `fence`, where nothing else was than is `known`.

        Returns:
            What is decided from now on; None if the scatter goes on under another fence or not at all.
        """
        ...

    async def known(self, scatter: str, hashes: Collection[str]) -> frozenset[str]:
        """Return those of some hashes that keys on record have; for the reader, besides whom nobody adds any."""
        ...

    async def add_page(self, page: NewPage, worker: str) -> PageAdded | None:
        """Keep a page, its chunks owned by `worker`, and move the cursor, or nothing of it. Repeated, it says so again.

        Returns:
            None if the scatter goes on under another fence or not at all, or the page is not the next one.
        """
        ...

    async def flush(self, flushes: Sequence[Flush], worker: str) -> frozenset[int]:
        """Keep what ended in chunks of `worker`, each as a whole. Repeated, it answers the same.

        An item that waits at gates is due at once if one has ended, or in a while if somebody decides one just now.

        Returns:
            The places in `flushes` of those that were kept; the chunks of the others are not the worker's any more.
        """
        ...

    async def take(
        self,
        scatter: str,
        worker: str,
        *,
        limit: int,
        fresh: int | None = None,
        known: Collection[tuple[int, bool]] | None = None,
    ) -> tuple[Chunk, ...]:
        """Give `worker` at most `limit` chunks that are due and that nobody runs, the first ones first.

        Who owns a chunk runs it for as long as it is alive and owns the run, or attends (`store/crews.py`).

        Args:
            scatter: Which one.
            worker: Who takes them.
            limit: How many.
            fresh: How many of those that wait for no time; None for `limit`.
            known: After a call whose answer was lost: the chunks that the worker knows to be its own, by `first` and
                `alone`. Others that are its own are given again.
        """
        ...

    async def release(self, scatter: str, worker: str) -> None:
        """Let go of all chunks of a scatter that `worker` owns: for anybody to take, and nobody died of them."""
        ...

    async def close(self, scatter: str, fence: int) -> bool:
        """Close a scatter if it is sealed and every item is final; tell whether this call did."""
        ...

    async def left(self, scatter: str, *, besides: str | None = None) -> Left:
        """Tell whether items that were read are not final, but for what `besides` runs, and whether all those wait."""
        ...

    async def end(self, scatter: str, fence: int, state: Literal["failed", "cancelled"]) -> bool:
        """End a scatter that runs under `fence`, before its items are: nothing of it is kept from then on. Tell whether
        this call did.
        """
        ...

    async def scatter(self, scatter: str) -> ScatterRecord | None:
        """Return a scatter."""
        ...

    async def of_run(self, run_id: str) -> tuple[ScatterRecord, ...]:
        """Return the scatters of a run."""
        ...

    async def dues(self, scatter: str, *, limit: int) -> tuple[datetime, ...]:
        """Return when items that wait for a time from now on may be tried, the next ones first."""
        ...

    async def totals(self, scatter: str) -> ScatterTotals | None:
        """Count the items of a scatter."""
        ...

    async def pages(self, scatter: str, numbers: Collection[int]) -> tuple[Page, ...]:
        """Return pages, in order."""
        ...

    async def blocks(self, scatter: str, page: int, *, most: int = MOST_AT_ONCE) -> tuple[Committed, ...]:
        """Return the results of one page in the order of their commits: with contents up to so many bytes together."""
        ...

    async def committed(
        self, scatter: str, *, after: int = -1, limit: int = 50, most: int = MOST_AT_ONCE
    ) -> tuple[Committed, ...]:
        """Return blocks in the order of their commits, behind a number: so many bytes, and one block, at most."""
        ...

    async def page_at(self, scatter: str, position: int) -> int | None:
        """Return the number of the page that a position is in."""
        ...

    async def failures(self, scatter: str, *, after: int = -1, limit: int = 1000) -> tuple[StoredFailure, ...]:
        """Return failed items behind a position, in order."""
        ...

    async def splits(self, scatter: str, *, after: int = -1, limit: int = 1000) -> tuple[Chunk, ...]:
        """Return batches that were split off and count, behind a position, in order."""
        ...

    async def errors(self, scatter: str, *, limit: int = 10) -> tuple[tuple[int, Failure], ...]:
        """Return how often each kind of error (`kind_of`) occurs, with an example: the most frequent first."""
        ...

    async def find(self, scatter: str, hash: str) -> int | None:  # noqa: A002 - what it is
        """Return the position of the item whose key has a hash."""
        ...

    def pin(self, scatter: str) -> object | None:
        """Return what keeps a scatter readable, also once it is deleted, for as long as the caller has it; None where
        deleting is not at once anyway.
        """
        ...

    async def delete(self, scatters: Collection[str]) -> None:
        """Delete scatters with all that is theirs alone: what one that went on from them has stays."""
        ...


def kind_of(error: Failure) -> str:
    """Return what errors of items are grouped by: the type of what was raised, or the code of the library's own."""
    return str(error.details.get("error_type", error.code))
