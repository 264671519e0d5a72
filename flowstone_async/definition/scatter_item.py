"""Items of a scatter as they are listed, and what goes wrong with them in groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from flowstone_async.errors import ExecutionError, FlowstoneError

ItemState: TypeAlias = Literal["done", "failed", "pending"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterItem:
    """An item of a scatter, as it is listed.

    Attributes:
        key: What identifies it.
        index: Its position among the distinct items in the order of the source, from 0.
        state: `done`, `failed` for good, or `pending`: it has not come to its end, or never will, as the scatter ended.
        item: What the body receives, of a scatter in batches a `Batch`; None where it could not be made or stored.
        place: What to give as `after` for the items behind it. It may be more than 2^53, which not every reader of JSON
            takes for a whole number: give it to those as text.
        attempts: Attempts that were made; None where nobody counted, as of items that are done.
        error: Why the last attempt failed.
        worker: The engine that made it; None if none was made.
    """

    key: Any
    index: int
    state: ItemState
    item: Any
    place: int
    attempts: int | None = None
    error: FlowstoneError | None = None
    worker: str | None = None

    @property
    def error_type(self) -> str | None:
        """Name of the type of what was raised; None for an item that did not fail."""
        return None if self.error is None else str(self.error.details.get("error_type", type(self.error).__name__))

    @property
    def message(self) -> str | None:
        """What the error says."""
        return None if self.error is None else self.error.message

    @property
    def traceback_text(self) -> str:
        """Where it was raised; empty without an error, and for one of the library."""
        return self.error.traceback_text if isinstance(self.error, ExecutionError) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """Failed items of a scatter that raised the same type of error.

    Attributes:
        error_type: Name of the type.
        count: How many items.
        example: The error of one of them.
    """

    error_type: str
    count: int
    example: FlowstoneError
