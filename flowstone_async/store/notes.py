"""The store's port for what bodies of a scatter note and look at, whichever worker calls them."""

from __future__ import annotations

from typing import Protocol


class ScatterNotes(Protocol):
    """Where that lives until the scatter has become a value."""

    async def note(self, scatter: str, noted: str) -> None:
        """Keep a note behind those of all workers, as long as the scatter goes on. Repeated, it may be there twice."""
        ...

    async def noted(self, scatter: str) -> tuple[str, ...]:
        """Return all notes in the order of their commits; also those of scatters whose results are its own too."""
        ...
