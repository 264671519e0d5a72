"""The value of a scatter: its results, read from the store page by page and never held whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, cast

from typing_extensions import override

from flowstone_async.config import whole
from flowstone_async.definition.stream import AsyncClosing
from flowstone_async.errors import ConfigError, ExecutionError, FlowstoneError, NotFound

R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)
ItemOrder: TypeAlias = Literal["source", "completion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFailure:
    """An item of a scatter that failed for good.

    Attributes:
        key: What identifies the item.
        index: Its position among the distinct items in the order of the source, from 0.
        item: What the body received; None where it could not be made or stored.
        error: Why the last attempt failed; the same in every process that reads it.
        attempts: Attempts that were made.
        worker: The engine that made the last one; None if none was made.
    """

    key: Any
    index: int
    item: Any
    error: FlowstoneError
    attempts: int
    worker: str | None = None

    @property
    def error_type(self) -> str:
        """Name of the type of what was raised."""
        return str(self.error.details.get("error_type", type(self.error).__name__))

    @property
    def message(self) -> str:
        """What the error says."""
        return self.error.message

    @property
    def traceback_text(self) -> str:
        """Where it was raised; empty for an error of the library."""
        return self.error.traceback_text if isinstance(self.error, ExecutionError) else ""


class GatheredReader(Protocol[T_co]):
    """What a `Gathered` reads from.

    Each call begins anew and gives an async generator, which may be closed before its end.
    """

    def values(self) -> AsyncIterator[T_co]:
        """Yield the results of the items that succeeded."""
        ...

    def items(self) -> AsyncIterator[tuple[Any, T_co]]:
        """Yield key and result of the items that succeeded."""
        ...

    def failures(self) -> AsyncIterator[ItemFailure]:
        """Yield the items that failed for good."""
        ...

    async def get(self, key: object) -> T_co:
        """Return the result of the item with that key.

        Raises:
            NotFound: No item has that key, or it did not succeed.
        """
        ...


class Gathered(Generic[T_co]):
    """The results of a scatter. Iterate it with `async for`, as often as you like.

    It is no collection: it has no `len()` (see `total`, `succeeded`, `failed`), and nothing turns it into a list but
    `to_list`.

    Attributes:
        total: Distinct items.
        succeeded: Those that succeeded, which are the values.
        failed: Those that failed for good, which are the `failures`.
        order: In which it is read: `"source"`, or `"completion"` for the order in which results were committed.

    Example:
        >>> @images.gather
        ... async def album(results: Gathered[Image]) -> Album:
        ...     async for image in results: ...
        ...     async for failure in results.failures(): ...
    """

    __slots__ = ("_reader", "failed", "order", "succeeded", "total")

    def __init__(
        self,
        reader: GatheredReader[T_co],
        *,
        total: int,
        succeeded: int,
        failed: int,
        order: ItemOrder = "source",
    ) -> None:
        self._reader = reader
        self.total = total
        self.succeeded = succeeded
        self.failed = failed
        self.order: ItemOrder = order

    @staticmethod
    def of(values: Iterable[R], *, failures: Iterable[ItemFailure] = ()) -> Gathered[R]:
        """Return results as they would be gathered, to call a gathering body with in a test.

        Args:
            values: The results; their keys are their positions.
            failures: The items that failed.
        """
        reader = GivenResults(tuple(values), tuple(failures))
        succeeded, failed = len(reader.given), len(reader.failed)
        return Gathered(reader, total=succeeded + failed, succeeded=succeeded, failed=failed)

    def __aiter__(self) -> AsyncIterator[T_co]:
        return self._reader.values()

    def items(self) -> AsyncIterator[tuple[Any, T_co]]:
        """Iterate pairs of key and result of the items that succeeded."""
        return self._reader.items()

    def failures(self) -> AsyncIterator[ItemFailure]:
        """Iterate the items that failed for good."""
        return self._reader.failures()

    async def get(self, key: object) -> T_co:
        """Return the result of one item.

        Args:
            key: What identifies it: what `key=` gave for it, else the item itself.

        Raises:
            NotFound: No item has that key, or it did not succeed.
        """
        return await self._reader.get(key)

    async def flat(self: Gathered[Iterable[R]]) -> AsyncGenerator[R]:
        """Iterate the elements of results that are lists, tuples or sets, as those of a scatter in batches often are.

        Raises:
            ConfigError: A result is none of these.

        Example:
            >>> @sizes.gather
            ... async def total(results: Gathered[list[int]]) -> int:
            ...     return sum([size async for size in results.flat()])
        """
        async with aclosing(cast("AsyncClosing[Iterable[R]]", self._reader.values())) as values:
            async for value in values:
                if not isinstance(value, list | tuple | AbstractSet):
                    kind = type(cast("object", value)).__name__
                    raise ConfigError(f"flat() needs results that are lists, and found one that is a {kind}")
                for element in cast("Iterable[R]", value):
                    yield element

    async def to_list(self, *, limit: int) -> list[T_co]:
        """Return the results as a list.

        Args:
            limit: The most results you are ready to hold in memory.

        Raises:
            ConfigError: There are more than `limit` results, or `limit` is no whole number.
        """
        whole(limit, what="limit", least=0)
        if self.succeeded > limit:
            raise ConfigError(
                f"the scatter has {self.succeeded} results, more than limit={limit}",
                hint="Raise limit=, or iterate it with `async for`.",
            )
        async with aclosing(cast("AsyncClosing[T_co]", self._reader.values())) as values:
            return [value async for value in values]

    @override
    def __repr__(self) -> str:
        return f"<Gathered: {self.succeeded} of {self.total} succeeded, {self.failed} failed>"


@dataclass(frozen=True, slots=True)
class GivenResults(GatheredReader[T_co]):
    """Results that are all there: what `Gathered.of` reads from."""

    given: tuple[T_co, ...]
    failed: tuple[ItemFailure, ...]

    @override
    async def values(self) -> AsyncIterator[T_co]:
        for value in self.given:
            yield value

    @override
    async def items(self) -> AsyncIterator[tuple[Any, T_co]]:
        for item in enumerate(self.given):
            yield item

    @override
    async def failures(self) -> AsyncIterator[ItemFailure]:
        for failure in self.failed:
            yield failure

    @override
    async def get(self, key: object) -> T_co:
        if not isinstance(key, int) or not 0 <= key < len(self.given):
            raise NotFound(f"no item has the key {key!r}", hint="Keys of given results are their positions.")
        return self.given[key]


def given_results(value: object) -> GivenResults[Any] | None:
    """Return what `Gathered.of` was called with; None for results that are stored, and for anything else."""
    reader: object = None
    if isinstance(value, Gathered):
        reader = cast("Gathered[Any]", value)._reader  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of this module
    return reader if isinstance(reader, GivenResults) else None
