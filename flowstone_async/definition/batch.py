"""What the body of a batched scatter is called with: some items together, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast, overload

from typing_extensions import override

from flowstone_async.errors import ConfigError

T_co = TypeVar("T_co", covariant=True)


class Batch(Sequence[T_co]):
    """Items of a scatter that are handled together: an immutable sequence of them.

    To call a body by hand, as in a test, make one: `Batch(["a", "b"])`.

    Args:
        items: The items.
        number: See `number`.
        of: See `of`.
        shared: See `shared`.
        keys: See `keys`; the items themselves where they are not given.

    Attributes:
        number: Its place among all batches, from 0; the same on every attempt and after a restart.
        of: How many batches there are; None while the source is still read. Items that are sent on alone add to it.
        shared: What `Batching(shared=...)` gave, for all batches of the scatter.
        keys: What identifies each item, in their order.

    Example:
        >>> @pipe.scatter(image_urls, batch=Batching(max_items=10))
        ... async def sizes(urls: Batch[str]) -> list[int]:
        ...     return [len(url) for url in urls]
    """

    __slots__ = ("_items", "keys", "number", "of", "shared")

    def __init__(
        self,
        items: Sequence[T_co],
        *,
        number: int = 0,
        of: int | None = None,
        shared: Any = None,
        keys: Sequence[Any] | None = None,
    ) -> None:
        self._items = tuple(items)
        self.number = number
        self.of = of
        self.shared: Any = shared
        self.keys: tuple[Any, ...] = self._items if keys is None else tuple(keys)

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T_co]: ...
    @override
    def __getitem__(self, index: int | slice) -> T_co | Sequence[T_co]:
        return self._items[index]

    @override
    def __len__(self) -> int:
        return len(self._items)

    @override
    def __repr__(self) -> str:
        return f"<Batch {self.number}: {len(self)} items>"

    @override
    def __eq__(self, other: object) -> bool:
        """Tell whether the items are those of another batch, a tuple or a list."""
        if isinstance(other, Batch | list | tuple):
            return self._items == tuple(cast("Sequence[object]", other))
        return NotImplemented

    @override
    def __hash__(self) -> int:
        return hash(self._items)

    def failed(self, errors: Mapping[int, BaseException], *, value: object = None) -> BatchFailed:
        """Return what to raise where only some items failed: each of them goes on as a batch of its own.

        Naming every item is failing the batch: it is tried again as a whole, and there is no value.

        Args:
            errors: Place of an item in this batch, from 0 -> why it failed.
            value: The result for all others.

        Raises:
            ConfigError: A place is outside of the batch, what it has is no exception, or there is none.

        Example:
            >>> raise batch.failed({3: error}, value=[...])
        """
        if not errors:
            raise ConfigError("batch.failed({}) names no item", hint="Return the result if nothing failed.")
        for place, error in cast("Mapping[object, object]", errors).items():
            if type(place) is not int or not 0 <= place < len(self):
                raise ConfigError(
                    f"batch.failed({{{place!r}: ...}}): the batch has {len(self)} items, from 0",
                    hint="Give the place of the item in the batch.",
                )
            if not isinstance(error, BaseException):
                raise ConfigError(f"batch.failed({{{place}: {error!r}}}): give the exception that the item failed with")
        return BatchFailed(dict(sorted(errors.items())), value, len(self))


class BatchFailed(Exception):
    """Some items of a batch failed and the others did not; made by `batch.failed(...)`, to be raised by a body.

    Attributes:
        errors: Place in the batch -> why that item failed, in order.
        value: The result for the others.
        size: How many items the batch has.
    """

    def __init__(self, errors: Mapping[int, BaseException], value: object, size: int) -> None:
        super().__init__(errors, value, size)
        self.errors, self.value, self.size = errors, value, size

    @override
    def __str__(self) -> str:
        place, error = next(iter(self.errors.items()))
        more = f" and {len(self.errors) - 1} more" if len(self.errors) > 1 else ""
        return f"item {place}{more} of a batch of {self.size} failed: {type(error).__name__}: {error}"
