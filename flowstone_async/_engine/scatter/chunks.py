"""A chunk that this process runs: what is left of it, and what ended since its last flush."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from flowstone_async.errors import Failure
from flowstone_async.io.bulk import bulk
from flowstone_async.store.batches import Split, split_from
from flowstone_async.store.blocks import MOST_AT_ONCE, Block, weight
from flowstone_async.store.crews import Gift
from flowstone_async.store.scatters import NEVER, Chunk, Flush, ItemFailed, ItemLater, Page

UNTOLD: Final = object()
"""Stands for a key that its page tells."""


class Todo(NamedTuple):
    """An item that is to be run.

    Attributes:
        position: Among all that were read.
        number: Among the distinct ones.
        key: What `key=` made of it, as it is stored, if the page is not kept for it.
    """

    position: int
    number: int
    item: Any
    key: Any = UNTOLD


class Withheld(NamedTuple):
    """Items of a chunk that its bodies do not begin: the last ones, so many, for others to take."""

    chunk: LocalChunk
    gift: Gift
    size: int


class LocalChunk:
    """A chunk that this process owns.

    Attributes:
        chunk: As it was when it became ours.
        todo: What has not begun, the last one first.
        left: How many items of it have not ended.
        changed: Whether it waits for a flush.
        plain: Whether the keys of its page are plain values.
        trial: What is put on record of an item while it runs with nothing beside it.
        identities: Texts that stand for the keys of some items that have not begun, by position.
    """

    __slots__ = (
        *("_at_once", "_done", "_failed", "_flushes", "_rest", "_succeeded", "changed", "chunk", "failures"),
        *("identities", "later", "left", "page", "plain", "positions", "splits", "todo", "trial", "values"),
    )

    def __init__(self, chunk: Chunk, page: Page, items: Mapping[int, Any]) -> None:
        self.chunk, self.page = chunk, page
        self._done = int.from_bytes(chunk.done, "little") & ((1 << chunk.size) - 1)
        self._succeeded, self._failed = chunk.succeeded, chunk.failed
        self._flushes = 0
        self._rest: list[int] = []
        self._at_once = chunk.size
        self.positions: list[int] = []
        self.values: list[Any] = []
        self.failures: list[ItemFailed] = []
        self.later: list[ItemLater] = []
        self.splits: list[Split] = []
        self.changed = False
        self.trial: Failure | None = None
        self.identities: dict[int, str] = {}
        self.plain = True
        self.todo = self._what_is_left(items)
        self.left = len(self.todo)

    def _what_is_left(self, items: Mapping[int, Any]) -> list[Todo]:
        chunk, page = self.chunk, self.page
        position, place = split_from(chunk.first)
        if place is not None:
            return [Todo(chunk.first, chunk.number or 0, (items[position - page.first][place],))]
        start, done, duplicates = chunk.first - page.first, self._done, page.duplicates
        index = page.before + start - sum(place < start for place in duplicates)
        todo: list[Todo] = []
        for place in range(start, start + chunk.size):
            if place in duplicates:
                continue
            if place in items and not (done and done >> (place - start) & 1):
                todo.append(Todo(page.first + place, index, items[place]))
            index += 1
        todo.reverse()
        return todo

    def apart(self) -> list[Todo]:
        """Take out what has not begun, for lines of its own; few may wait there long, and keep no page for it."""
        todo, self.todo = self.todo, []
        page = self.page
        if page.keys is not None and self.plain:
            keys = from_json(page.keys)
            todo = [each._replace(key=_key_among(keys, page.first, each.position)) for each in todo]
        self.page = page._replace(items=b"", keys=None if self.plain else page.keys)
        return todo

    def withhold(self, count: int) -> Withheld | None:
        """Let none of the last items begin, `count` at most; None if all have begun.

        Where items behind them are final already, the chunk goes whole or not at all: what is cut off begins anew.
        """
        count = min(count, len(self.todo))
        if not count:
            return None
        keep = self.todo[count - 1].position - self.chunk.first
        if self._done >> keep:
            if count < self.left or self._flushes or self.ended:
                return None
            keep = 0
        del self.todo[:count]
        return Withheld(self, Gift(self.chunk.first, self.chunk.fence, keep, self.chunk.alone), count)

    def cut(self, keep: int, size: int) -> bool:
        """Be the first `keep` items from now on: `size` items that can be run are others' now. Tell if any is left."""
        self.chunk = self.chunk._replace(size=keep)
        self.left -= size
        return self.left > 0

    def succeed(self, position: int, value: object) -> None:
        """Note a result."""
        self.positions.append(position)
        self.values.append(value)
        self.left -= 1

    def fail(self, position: int, attempts: int, error: Failure) -> None:
        """Note that an item failed for good."""
        self.failures.append(ItemFailed(position, attempts, error))
        self.left -= 1

    def postpone(
        self, position: int, attempts: int, due: datetime | None, error: Failure | None, lost: int = 0
    ) -> None:
        """Note that an item is to be tried (again) on its own."""
        self.later.append(ItemLater(position, attempts, due, lost, error))
        self.left -= 1

    def park(self, position: int, gates: tuple[str, ...]) -> None:
        """Note that an item goes on once one of its gates has ended: with the attempts that it has had."""
        chunk = self.chunk
        self.later.append(ItemLater(position, chunk.attempts, NEVER, chunk.lost, chunk.error, gates))
        self.left -= 1

    def split(self, *splits: Split) -> None:
        """Note that items of a batch, which has a result without them, go on as batches of their own."""
        self.splits += splits

    @property
    def ended(self) -> int:
        """How many items ended since the last flush."""
        return len(self.positions) + len(self.failures) + len(self.later)

    def flush(self, pack: Callable[[Sequence[Any]], tuple[Block, Mapping[int, Failure]]]) -> Flush:
        """Return what ended since the last flush, and begin anew. Results that are too many stay for the next one.

        Args:
            pack: Encodes results; tells which of them, by place, cannot be.
        """
        values, self._rest = self.values, []
        block = self._block(pack) if self.positions else None
        # What is split off goes on record with the result of the batch that it left; from one without it nothing left.
        rest, failed = frozenset(self._rest), frozenset(each.position for each in self.failures)
        splits = [each for each in self.splits if split_from(each.position)[0] in rest]
        self.splits = [each for each in self.splits if split_from(each.position)[0] not in rest | failed]
        flush = self._flush(block)
        self._flushes += 1
        self.positions, self.failures, self.later, self.changed = self._rest, [], [], False
        self.values = values[len(values) - len(self._rest) :]
        self.splits = splits
        return flush

    def _block(self, pack: Callable[[Sequence[Any]], tuple[Block, Mapping[int, Failure]]]) -> Block:
        count = min(len(self.values), self._at_once)
        size = bulk(self.values[:count])
        if size > MOST_AT_ONCE:
            count = self._at_once = max(1, count * MOST_AT_ONCE // size)
        block, refused = pack(self.values[:count])
        while count > 1 and (size := weight(block)) > MOST_AT_ONCE:
            count = self._at_once = max(1, min(count // 2, count * MOST_AT_ONCE // size))
            block, refused = pack(self.values[:count])
        self.positions, self._rest = self.positions[:count], self.positions[count:]
        positions = self.positions
        if refused:
            attempts = self.chunk.attempts + 1
            self.failures += [ItemFailed(positions[place], attempts, error) for place, error in refused.items()]
            positions = [position for place, position in enumerate(positions) if place not in refused]
        self._succeeded += len(positions)
        return block._replace(positions=positions)

    def _flush(self, block: Block | None) -> Flush:
        self._failed += len(self.failures)
        chunk = self.chunk
        again = self.later[0] if chunk.alone and self.later else None
        state = "ready" if again is not None else "running" if self.left or self._rest else "done"
        attempts, due, error = (
            (again.attempts, again.due, again.error) if again else (chunk.attempts, None, self.trial or chunk.error)
        )
        return Flush(
            chunk,
            self._flushes,
            state,
            self._bits() if state == "running" else b"",
            self._succeeded,
            self._failed,
            attempts=attempts,
            due=due,
            error=error,
            block=block if block is not None and block.positions else None,
            failures=[*self.failures, *(ItemFailed(*each[:2], each.error) for each in self.splits if each.failed)],
            later=() if chunk.alone else self.later,
            splits=self.splits,
            gates=again.gates if again else (),
        )

    def _bits(self) -> bytes:
        first, done = self.chunk.first, self._done
        for position in self.positions:
            done |= 1 << (position - first)
        for each in (*self.failures, *self.later):
            done |= 1 << (each.position - first)
        self._done = done
        return done.to_bytes(-(-self.chunk.size // 8), "little")


def _key_among(keys: Sequence[Any], first: int, position: int) -> Any:
    """Return the key of an item, or the keys of a batch, among those of a page as they are stored."""
    read, place = split_from(position)
    key = keys[read - first]
    return key if place is None else [key[place]]
