"""What bodies are called with next: the items at hand, in the order in which they came; see `rating.py` for another."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from typing_extensions import override

from flowstone_async._engine.scatter.chunks import LocalChunk, Todo, Withheld


class Supply(Protocol):
    """Gives items to those who call the body.

    There are two kinds, apart from each other: those that anything may run beside, and those that are `alone`.
    """

    def add(self, chunk: LocalChunk, *, alone: bool = False) -> None:
        """Put the items of a chunk behind those of their kind."""
        ...

    @property
    def waiting(self) -> int:
        """How many items could begin if there were room."""
        ...

    def look(self) -> None:
        """Hear that there may be room for more."""
        ...

    def withhold(self, count: int) -> list[Withheld]:
        """Take out some of the items that can go to others, `count` at most: the last ones of their chunks."""
        ...

    def ready(self, *, alone: bool = False) -> bool:
        """Tell whether it is worth taking. Once nothing was given it is not, until something has changed."""
        ...

    def take(self, *, alone: bool = False) -> tuple[LocalChunk, Todo] | None:
        """Give an item that begins now, and its chunk; None if none may."""
        ...

    @property
    def alone_next(self) -> bool:
        """Whether one of those that are `alone` could begin if nothing ran."""
        ...


class AtHand(Supply):
    """Gives whatever there is."""

    def __init__(self) -> None:
        self._chunks = {alone: deque[LocalChunk]() for alone in (False, True)}

    @override
    def add(self, chunk: LocalChunk, *, alone: bool = False) -> None:
        self._chunks[alone].append(chunk)

    @property
    @override
    def waiting(self) -> int:
        return sum(len(chunk.todo) for chunks in self._chunks.values() for chunk in chunks)

    @override
    def look(self) -> None:
        pass

    @override
    def withhold(self, count: int) -> list[Withheld]:
        return withheld(self._chunks[False], count)

    @override
    def ready(self, *, alone: bool = False) -> bool:
        chunks = self._chunks[alone]
        while chunks and not chunks[0].todo:
            chunks.popleft()
        return bool(chunks)

    @override
    def take(self, *, alone: bool = False) -> tuple[LocalChunk, Todo] | None:
        chunks = self._chunks[alone]
        while chunks:
            chunk = chunks[0]
            if chunk.todo:
                return chunk, chunk.todo.pop()
            chunks.popleft()
        return None

    @property
    @override
    def alone_next(self) -> bool:
        return self.ready(alone=True)


def withheld(chunks: Sequence[LocalChunk], count: int) -> list[Withheld]:
    """Take the last items of chunks, `count` at most, those of the last chunks first."""
    found: list[Withheld] = []
    for chunk in reversed(chunks):
        if count <= 0:
            break
        taken = chunk.withhold(count)
        if taken is not None:
            found.append(taken)
            count -= taken.size
    return found
