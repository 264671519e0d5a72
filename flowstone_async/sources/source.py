"""What a source is: a class with `read`, which gives pages of items and says where to continue behind each."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, ForwardRef, Generic, Literal, Self, TypeVar, get_args, get_origin

from flowstone_async.errors import ConfigError
from flowstone_async.retry import Duration, Retry, duration_problem
from flowstone_async.sources.cursor import kept

T_co = TypeVar("T_co", covariant=True)

READ_RETRY = Retry(3)
READ_TIMEOUT = "5m"


@dataclass(frozen=True)  # without slots: see test_public_names
class Page(Generic[T_co]):
    """Items that a source read together, and where to continue behind them.

    Attributes:
        items: The items, in order; there may be none, which does not end the reading.
        cursor: What `read` is to be called with to continue behind this page: None, a bool, number or text, or lists
            and dicts of these. None is "nothing to say": to get behind this page again, the source is read from the
            last cursor that it gave, or from its start, and as many items as were delivered are dropped.
        last: Whether nothing comes behind this page.

    Raises:
        ConfigError: The items are no sequence of items, or the cursor cannot be stored.
    """

    items: Sequence[T_co]
    cursor: Any = None
    last: bool = False

    def __post_init__(self) -> None:
        """Keep copies, so that whoever made the page may change what it was made from."""
        items: object = self.items
        if isinstance(items, str | bytes | bytearray | Mapping):
            kind = type(items).__name__
            raise ConfigError(f"a page of a {kind}", hint="Give the items as a list: Page([item, ...], cursor).")
        object.__setattr__(self, "items", tuple(self.items))
        object.__setattr__(self, "cursor", kept(self.cursor))


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """An item of a page that could not be made: a row that does not fit the declared model.

    Attributes:
        message: What is wrong with it, for people.
        key: What tells it from other rows; equal for the same row read again.
        position: Its position among the items of the source, from 0; filled in where pages are read.
    """

    message: str
    key: str = ""
    position: int = 0


class Source(Generic[T_co]):
    """Where the items of a scatter come from. Subclass it and write `read`.

    One object may be read by several runs at once: keep what belongs to one reading in local variables of `read`, and
    release it in a `finally` or `async with` there. `open`, `read` and `close` of one reading run in one task.

    Attributes:
        max_items: The most items that are taken, over all pages and restarts; False for all.
        read_retry: How often reading is tried again from the last cursor after an error; False for never.
        read_timeout: How long a page may take; False for as long as it likes.
        stable: Whether reading a range again gives identical items, so that the items need not be stored.
        page_cap: The most items that it can give at once, or None.
        resumable: Whether it continues behind a page; else it is read from its start again.

    Example:
        >>> class Feed(Source[Entry]):
        ...     async def read(self, cursor: str | None) -> AsyncIterator[Page[Entry]]:
        ...         while True:
        ...             answer = await fetch(after=cursor)
        ...             cursor = answer.next
        ...             yield Page(answer.entries, cursor, last=cursor is None)
    """

    max_items: int | Literal[False] = False
    read_retry: Retry | Literal[False] = READ_RETRY
    read_timeout: Duration | Literal[False] = READ_TIMEOUT
    stable: bool = False
    page_cap: ClassVar[int | None] = None
    resumable: bool = True

    def read(self, cursor: Any) -> AsyncIterator[Page[T_co]]:
        """Yield pages, beginning behind `cursor`; write it as an async generator.

        Args:
            cursor: The `cursor` of the page to continue behind; None at the start.
        """
        raise NotImplementedError(f"{self.label} has no read()")

    def read_sized(self, cursor: Any, page_size: int) -> AsyncIterator[Page[T_co]]:  # noqa: ARG002 - for overriding
        """Yield pages as `read` does; override it where the source can be asked for as many items as are wanted.

        Args:
            cursor: As in `read`.
            page_size: How many items are taken at once. A larger page is cut, a smaller one is fine.
        """
        return self.read(cursor)

    async def count(self) -> int | None:
        """Return about how many items there are, for the estimate only; None if that is not known."""
        return None

    async def open(self) -> None:
        """Prepare for a reading; each retry opens again."""

    async def close(self) -> None:
        """Clean up after a reading, however it ended, also after an `open` that failed."""

    @property
    def label(self) -> str:
        """What the source is called in messages."""
        return type(self).__name__

    @property
    def item_type(self) -> Any:
        """The declared type of its items; None if it is not known."""
        return _argument(type(self), ())

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the definition of the source, one sentence each, without its full stop."""
        read, sized = (getattr(type(self), name) for name in ("read", "read_sized"))
        if read is vars(Source)["read"] and sized is vars(Source)["read_sized"]:
            yield f"{self.label} has no read(): write `async def read(self, cursor)` that yields Page(items, cursor)"
        elif inspect.isgeneratorfunction(read):
            yield f"{self.label}.read is a plain generator: write `async def read(self, cursor)`"
        limit: object = self.max_items
        if limit is not False and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            yield f"max_items={limit!r}: give a whole number of 1 or more, or False"
        retry: object = self.read_retry
        if isinstance(retry, Retry):
            yield from retry.problems()
        elif retry is not False:
            yield f"read_retry={retry!r}: allowed are Retry(...) and False"
        if self.read_timeout is not False:
            yield from duration_problem(self.label, "read_timeout", self.read_timeout)
        if not isinstance(self.stable, bool):
            yield f"stable={self.stable!r}: allowed are True, False"

    def functions(self) -> tuple[Callable[..., object], ...]:
        """Return the functions of dependencies that stand in for options, always in the same order."""
        return ()

    def parameters(self) -> tuple[str, ...]:
        """Return the names of what these functions take."""
        return ()

    async def resolved(self, arguments: Mapping[str, object], recorded: object = None) -> tuple[Self, object]:  # noqa: ARG002 - for overriding
        """Return the source with values in place of functions, and what is to be stored of them.

        Args:
            arguments: Values of `parameters`; one that has a default may be absent.
            recorded: What an earlier call returned: its values are used again, and only functions whose values cannot
                be stored (a connection pool, a session) are called once more.

        Returns:
            The source to read from, and JSON-compatible values.
        """
        return self, None

    def bound_to(self, database: object) -> Self:  # noqa: ARG002 - for overriding
        """Return the source reading from the engine's database, unless it was told another place.

        Args:
            database: A DSN, or an asyncpg pool.
        """
        return self

    def lending(self) -> AbstractAsyncContextManager[None]:
        """Return the scope in which items of this source may use its connections; for around the bodies."""
        return nullcontext()


def _argument(kind: type, given: tuple[Any, ...]) -> Any:
    """Return what `Source[...]` is given among the bases of a class, its own type variables replaced."""
    own: tuple[Any, ...] = getattr(kind, "__parameters__", ())
    known = dict(zip(own, given, strict=False))
    for base in vars(kind).get("__orig_bases__", kind.__bases__):
        origin: Any = get_origin(base) or base
        if inspect.isclass(origin) and Source in origin.__mro__:
            found = tuple(_substituted(each, known) for each in get_args(base))
            if origin is not Source:
                return _argument(origin, found)
            # A forward reference says nothing here, where the names of its module are not known.
            return found[0] if found and _is_known(found[0]) else None
    return None


def _substituted(argument: Any, known: Mapping[Any, Any]) -> Any:
    if isinstance(argument, TypeVar):
        return known.get(argument, argument)
    variables: tuple[Any, ...] = getattr(argument, "__parameters__", ())
    return argument[tuple(known.get(each, each) for each in variables)] if variables else argument


def _is_known(argument: Any) -> bool:
    return not isinstance(argument, TypeVar | ForwardRef) and not getattr(argument, "__parameters__", ())
