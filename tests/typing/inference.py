# pyright: strict

"""What a type checker knows of handles, markers, verbs and reports; nothing here runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Generic, Literal, TypeVar, assert_type
from uuid import UUID

from flowstone_async import (
    Asset,
    AssetEvent,
    AssetFinished,
    AssetRef,
    BlockingAsset,
    Cache,
    Context,
    Daily,
    Dynamic,
    Engine,
    Event,
    Failed,
    Gathered,
    Hourly,
    Item,
    ItemFailure,
    Keys,
    Limits,
    OpenRef,
    PartitionedAsset,
    PartitionedBlockingAsset,
    PartitionedRef,
    PartitionedScatterAsset,
    PartitionedStreamAsset,
    Pipeline,
    Rate,
    Retry,
    RunFailed,
    RunHandle,
    ScatterAsset,
    ScatterCounts,
    Single,
    Skipped,
    Slot,
    Stream,
    StreamAsset,
    Tolerance,
    dep,
    param,
    resource,
    sources,
)

T = TypeVar("T")


class Settings:
    """A resource."""


@dataclass
class Args:
    """Params."""

    limit: int = 10


pipe = Pipeline("inference", params=Args)
days = Daily("2025-01-01")
grid = days * Keys("us", "eu") * Keys(1, 2)


# decorators ---------------------------------------------------------------------
async def in_production(ctx: Context) -> bool:
    """Say whether to run."""
    return ctx.attempt == 1


@pipe.asset
async def plain() -> int:
    return 1


@pipe.asset(
    name="renamed",
    description="With every option.",
    tags=["a"],
    owner="me",
    metadata={"unit": "m"},
    cache=Cache(ttl="1h", version="2"),
    retry=Retry(3, on=(TimeoutError,)),
    timeout=30,
    when=in_production,
    unless=lambda: False,
    renamed_from="older",
)
async def with_options(plain: int) -> list[int]:
    return [plain]


@pipe.asset(partitions=None, run_in=None, timeout=False, cache=False, retry=False)
async def switched_off() -> str:
    return ""


@pipe.asset(run_in="thread")
def blocking(plain: int) -> float:
    return plain / 2


@pipe.asset
async def stream() -> AsyncIterator[str]:
    yield ""


@pipe.asset(tags=("a",))
async def stream_with_options(plain: int) -> AsyncIterator[str]:
    yield str(plain)


@pipe.asset(partitions=days)
async def daily(partition: date) -> int:
    return partition.day


@pipe.asset(partitions=days, run_in="process")
def daily_blocking(partition: date) -> int:
    return partition.day


@pipe.asset(partitions=days)
async def daily_stream(partition: date) -> AsyncIterator[int]:
    yield partition.day


@pipe.asset(partitions=grid)
async def cell(partition: tuple[date, str, int], day: date = grid.key(days)) -> str:
    return f"{partition} {day}"


@pipe.asset(partitions=Hourly("2025-01-01"))
async def hourly(partition: datetime) -> int:
    return partition.hour


@pipe.asset(partitions=Dynamic[UUID]("users"))
async def user(partition: UUID) -> str:
    return str(partition)


@pipe.asset(partitions=Single())
async def single() -> bytes:
    return b""


@pipe.asset(partitions=Single(), run_in="thread")
def single_blocking() -> bytes:
    return b""


def handles() -> None:
    """The kind of function and the options decide the type of the handle."""
    assert_type(plain, Asset[[], int])
    blocking_: BlockingAsset[..., float] = blocking
    stream_: StreamAsset[..., str] = stream_with_options
    daily_: PartitionedAsset[..., int, date] = daily
    daily_blocking_: PartitionedBlockingAsset[..., int, date] = daily_blocking
    daily_stream_: PartitionedStreamAsset[..., int, date] = daily_stream
    cell_: PartitionedRef[str, tuple[date, str, int]] = cell
    any_: list[AssetRef[object]] = [
        plain,
        with_options,
        blocking_,
        stream_,
        daily_,
        daily_blocking_,
        daily_stream_,
        cell_,
    ]
    open_: OpenRef[Stream[str]] = stream
    single_: Asset[..., bytes] = single
    single_blocking_: BlockingAsset[..., bytes] = single_blocking
    wider: AssetRef[int | None] = plain  # covariant
    print(any_, open_, wider, single_, single_blocking_, daily_stream_, plain.name)


async def calls() -> None:
    """A direct call is the body's own."""
    assert_type(await plain(), int)
    assert_type(await with_options(1), list[int])
    assert_type(blocking(plain=1), float)
    assert_type(await daily(date(2025, 1, 1)), int)
    assert_type(daily_blocking(date(2025, 1, 1)), int)
    async for text in stream_with_options(3):
        assert_type(text, str)
    async for number in daily_stream(date(2025, 1, 1)):
        assert_type(number, int)


# markers ------------------------------------------------------------------------
def markers() -> None:
    """A marker is declared to be what the parameter receives."""
    assert_type(dep(plain), int)
    assert_type(dep(plain, optional=False), int)
    assert_type(dep(plain, optional=True), int | None)
    assert_type(dep(plain, external=True), int)
    assert_type(dep(plain, external=True, optional=True), int | None)
    assert_type(dep(stream), Stream[str])
    assert_type(dep(blocking), float)
    assert_type(dep(daily), int)
    assert_type(dep(daily, over=days.last(7)), Mapping[date, int])
    assert_type(dep(daily, over=days.all(), optional=True), Mapping[date, int | None])
    assert_type(dep(daily_stream, over=days.last(2)), Mapping[date, Stream[int]])
    assert_type(dep(cell, over=grid.dimension(days)), Mapping[tuple[date, str, int], str])
    assert_type(days.key(), date)
    assert_type(grid.key(), tuple[date, str, int])
    assert_type(grid.key(days), date)


@pipe.asset(partitions=days)
async def marked(
    ctx: Context,
    params: Args,
    number: int = dep(plain),
    wider: float = dep(plain),
    maybe: int | None = dep(plain, optional=True),
    outcome: int | Failed | Skipped = dep(plain),
    by_name: str = dep("switched_off"),
    week: Mapping[date, int] = dep(daily, over=days.last(7)),
    day: date = days.key(),
    limit: int = param("limit"),
    settings: Settings = resource("settings"),
) -> int:
    return number


@pipe.asset
async def annotated(
    number: Annotated[int, dep(plain)],
    limit: Annotated[int, param("limit")],
    maybe: Annotated[int | None, "a note"] = None,
) -> int:
    assert_type(number, int)
    assert_type(maybe, int | None)
    return number + limit


# pipe.add, constants, resources, hooks --------------------------------------------
class Source:
    """An object with an async `__call__`, and a method."""

    async def __call__(self, numbers: list[int]) -> str:
        """Compute."""
        return str(numbers)

    async def rows(self, day: date) -> AsyncIterator[bytes]:
        """Stream."""
        yield str(day).encode()


def blocking_function(n: int) -> set[int]:
    """Block."""
    return {n}


def added() -> None:
    """`pipe.add` gives what the decorator would."""
    text: Asset[[list[int]], str] = pipe.add(Source(), name="text", deps={"numbers": with_options})
    rows: PartitionedRef[Stream[bytes], date] = pipe.add(Source().rows, name="rows", partitions=days, deps={"day": "x"})
    blocked: OpenRef[set[int]] = pipe.add(blocking_function, name="blocked", run_in="thread", deps={"n": plain})
    assert_type(pipe.constant("rate", 0.2, description="Per year."), Asset[[], float])
    print(text, rows, blocked, pipe.include(Pipeline("other"), prefix="other_"))


@pipe.resource
async def settings() -> Settings:
    return Settings()


async def check(handle: Settings) -> bool:
    """Say whether it is well."""
    return bool(handle)


@pipe.resource(name="pool", scope="run", health=check)
async def pool(settings: Settings) -> AsyncIterator[bytearray]:
    yield bytearray()


@pipe.on(AssetFinished)
async def finished(event: AssetFinished) -> None:
    assert_type(event.seconds, float)


@pipe.on(RunFailed)
def anything(event: Event) -> None:  # a handler of a wider type serves as well
    print(event.run_id)


def hooks(engine: Engine) -> None:
    """A hook is given back as it is, and typed by its event."""
    back: Callable[[AssetFinished], Coroutine[Any, Any, None]] = finished

    @engine.on(AssetEvent)
    async def each(event: AssetEvent) -> None:
        print(event.asset)

    print(each, back)


# scatter and gather -----------------------------------------------------------------
class Page(Generic[T]):
    """What a source reads."""

    items: Sequence[T]


class Bytes:
    """A source."""

    async def read(self, cursor: str | None) -> AsyncIterator[Page[bytes]]:
        """Read pages."""
        yield Page[bytes]()


async def lines(plain: int) -> AsyncIterator[str]:
    """Yield items."""
    yield str(plain)


def shortened(row: dict[str, int], rates: list[float]) -> Settings:
    """Select."""
    return Settings()


@pipe.asset
async def rows() -> list[dict[str, int]]:
    return []


@pipe.scatter(with_options)
async def of_asset(n: int, settings: Settings) -> str:
    return str(n)


@pipe.scatter(
    stream,
    name="all",
    description="With every option.",
    tags=["a"],
    owner="me",
    metadata={"unit": "m"},
    cache=Cache(ttl="1h"),
    when=in_production,
    renamed_from="older",
    max_concurrent=False,
    tolerate=Tolerance(count=10, fraction=0.5),
    retry=False,
    timeout=False,
    key=lambda text: text.upper(),
    order="completion",
    page_size=10,
    results="rows",
)
async def of_stream(text: str | None) -> int:  # a body of a wider type serves as well
    return 1


@pipe.scatter(dep(stream), select=lambda text: len(text), key=lambda n: n + 1)
async def of_selected(n: float) -> float:
    return n


@pipe.scatter(lines)
async def of_function(text: str) -> list[str]:
    return [text]


@pipe.scatter(Bytes(), key=False)
async def of_source(data: bytes) -> bytes:
    return data


@pipe.scatter(rows)
async def of_rows(row: Item) -> int:
    assert_type(row.id, Any)
    return row["id"]


@pipe.scatter(rows, partitions=days)
async def of_dicts(row: dict[str, int], partition: date) -> int:
    return row["id"]


@pipe.scatter(rows, select=shortened, partitions=Single())
async def of_settings(row: Settings) -> None: ...


@pipe.scatter([1, 2], tolerate=0.02)
async def of_list(n: int) -> tuple[int, str]:
    return n, ""


@of_asset.gather
async def gathered(results: Gathered[str], plain: int) -> int:
    async for text in results:
        assert_type(text, str)
    async for key, text in results.items():
        assert_type(key, Any)
        assert_type(text, str)
    async for failure in results.failures():
        assert_type(failure, ItemFailure)
    assert_type(await results.get("k"), str)
    assert_type(await results.to_list(limit=3), list[str])
    return results.total + results.succeeded + results.failed


@of_asset.gather(name="lines", retry=Retry(2))
async def gathered_lines(results: Gathered[str | None]) -> AsyncIterator[bytes]:
    yield b""


@of_dicts.gather
async def gathered_daily(results: Gathered[int], partition: date) -> bool:
    return True


@pipe.asset
async def taking(
    all_of_it: Gathered[str] = dep(of_asset), maybe: Gathered[int] | None = dep(of_rows, optional=True)
) -> int:
    return all_of_it.succeeded


async def scatters() -> None:
    """The value is gathered, a direct call takes an item, a gathering body is an ordinary asset."""
    day = date(2025, 1, 1)
    assert_type(await pipe.run(of_asset), Gathered[str])
    assert_type(await pipe.run(of_stream), Gathered[int])
    assert_type(await pipe.run(of_selected), Gathered[float])
    assert_type(await pipe.run(of_function), Gathered[list[str]])
    assert_type(await pipe.run(of_source), Gathered[bytes])
    assert_type(await pipe.run(of_rows), Gathered[int])
    assert_type(await pipe.run(of_dicts, partition=day), Gathered[int])
    assert_type(await pipe.run(of_settings), Gathered[None])
    assert_type(await pipe.run(of_list, gathered), tuple[Gathered[tuple[int, str]], int])
    assert_type(await pipe.run(gathered), int)
    assert_type(await pipe.run(gathered_lines), Stream[bytes])
    assert_type(await pipe.run(gathered_daily, partition=day), bool)
    assert_type(dep(of_asset), Gathered[str])
    assert_type(dep(of_dicts, over=days.last(2)), Mapping[date, Gathered[int]])
    assert_type(await of_asset(1, Settings()), str)
    assert_type(await gathered(Gathered.of(["a"]), 1), int)
    scatter: ScatterAsset[..., str] = of_asset
    keyed: PartitionedScatterAsset[..., int, date] = of_dicts
    wider: OpenRef[Gathered[object]] = of_asset
    status = await pipe.status(of_asset)
    assert_type(status.scatter, ScatterCounts | None)
    print(scatter, keyed, wider)


# verbs ----------------------------------------------------------------------------
async def run() -> None:
    """`run` gives the value, a tuple for several, and requires the key that a partition set has."""
    day = date(2025, 1, 15)
    assert_type(await pipe.run(plain), int)
    assert_type(await pipe.run(with_options, force="all", timeout=False, params={"limit": 1}), list[int])
    assert_type(await pipe.run(plain, partition="whatever"), int)  # it follows the run's key
    assert_type(await pipe.run(stream), Stream[str])
    assert_type(await pipe.run(daily, partition=day), int)
    assert_type(await pipe.run(daily_blocking, partition=day), int)
    assert_type(await pipe.run(daily_stream, partition=day), Stream[int])
    assert_type(await pipe.run(cell, partition=(day, "us", 1)), str)
    assert_type(await pipe.run(hourly, partition=datetime(2025, 1, 1)), int)  # noqa: DTZ001 - only a type
    assert_type(await pipe.run(user, partition=UUID(int=1)), str)
    assert_type(await pipe.run(single), bytes)  # one value, whatever the run's key is
    assert_type(await pipe.run(single, partition=day), bytes)
    assert_type(await pipe.get(single, partition="any"), bytes)
    assert_type(await pipe.run("plain"), Any)
    assert_type(await pipe.run(plain, blocking), tuple[int, float])
    assert_type(await pipe.run(plain, daily, partition=day), tuple[int, int])
    assert_type(await pipe.run(plain, blocking, stream), tuple[int, float, Stream[str]])
    assert_type(await pipe.run(plain, "blocking"), tuple[Any, ...])
    assert_type(await pipe.run(plain, blocking, stream, with_options), tuple[Any, ...])
    assert_type(pipe.run_sync(plain), int)
    assert_type(pipe.run_sync(daily, partition=day), int)
    assert_type(pipe.run_sync(plain, blocking), tuple[int, float])


async def other_verbs() -> None:
    """Everything that gives a value gives it typed."""
    day = date(2025, 1, 15)
    assert_type(await pipe.get(plain), int)
    assert_type(await pipe.get(daily, partition=day), int)
    assert_type(await pipe.get("plain"), Any)
    assert_type(await pipe.wait(blocking, timeout="1m"), float)
    assert_type(await pipe.wait(daily, partition=day), int)
    assert_type(await pipe.exists(daily, partition=day), bool)
    report = await pipe.report(with_options)
    assert_type(report[plain].value, int)
    assert_type(report[stream].value, Stream[str])
    assert_type(report[daily].value, int)
    assert_type(report["plain"].value, Any)
    state: Literal["ok", "cached", "failed", "blocked", "skipped", "waiting", "cancelled"] = report[plain].state
    print(state)
    await pipe.backfill(daily, partitions=days.range("2025-01-01", "2025-01-31"), parallel=4, only="missing")
    await pipe.backfill(daily, partitions=[day])
    await pipe.backfill(plain, partitions=["a", 1])


async def submit(engine: Engine) -> None:
    """A submitted run knows what it will give."""
    day = date(2025, 1, 15)
    assert_type(await engine.submit(plain), RunHandle[int])
    assert_type(await engine.submit(daily, partition=day), RunHandle[int])
    assert_type(await (await engine.submit(stream)).result(timeout="1m"), Stream[str])
    assert_type(await engine.submit(plain, blocking), RunHandle[tuple[int, float]])
    assert_type(await engine.submit("plain"), RunHandle[Any])
    assert_type(await engine.submit("plain", plain, "blocking"), RunHandle[tuple[Any, ...]])
    assert_type(await engine.find("some-id"), RunHandle[Any])


async def tried() -> None:
    """A pipeline under test has the same verbs."""
    day = date(2025, 1, 15)
    async with pipe.test(values={plain: 1}) as trial:
        assert_type(await trial.run(plain), int)
        assert_type(await trial.run(daily, partition=day, values={"plain": 2}), int)
        assert_type(await trial.run(plain, blocking), tuple[int, float])
        assert_type(await trial.run("plain"), Any)
        assert_type(await trial.submit(stream), RunHandle[Stream[str]])
        assert_type(await trial.submit(daily, partition=day), RunHandle[int])


def generic(target: OpenRef[int], keyed: PartitionedRef[str, date]) -> None:
    """Functions may take handles by what they give."""

    async def both() -> tuple[int, str]:
        return await pipe.run(target), await pipe.run(keyed, partition=date(2025, 1, 1))

    print(both)


@dataclass
class Entry:
    """A row."""

    id: int


class Feed(sources.Source[Entry]):
    """A source of the user's, with a cursor of its own type."""

    max_items = 10
    read_retry = Retry(5)
    read_timeout = "1m"

    async def read(self, cursor: str | None) -> AsyncIterator[sources.Page[Entry]]:
        """Give one page."""
        yield sources.Page([Entry(1)], "behind", last=cursor is not None)


def items_of(source: sources.Source[sources.S3Object]) -> None:
    """What takes a source of some items takes those of narrower ones."""
    print(source)


async def yesterday(day: date) -> str:
    """Stand in for an option, which depends on an asset."""
    return str(day)


def built_in() -> None:
    """Built-in sources know what their items are."""
    rows = sources.Postgres(Entry, "SELECT id FROM entries WHERE day = $1", yesterday, cursor=("day", "id"))
    assert_type(rows, sources.Postgres[Entry])
    assert_type(sources.DynamoDB(Entry, "entries", where={"id": yesterday}), sources.DynamoDB[Entry])
    items_of(sources.S3("bucket", prefix=yesterday, suffix=[".pdf", yesterday], start_after=yesterday))
    widest: sources.Source[object] = Feed()
    print(widest)


async def limited(ctx: Context) -> None:
    """Limits return what the function returns, sync or async, and slots are released."""
    for limits in (ctx.limits, Limits()):
        assert_type(await limits.check("api", Rate(60, per="1m", burst=5)), float)
        assert_type(await limits.with_limit("api", Rate(1), lambda: limits.check("other"), max_wait=False), float)
        assert_type(await limits.with_limit("api", None, lambda: 1), int)
        assert_type(await limits.with_slot("gpu", 4, lambda: limits.check("other"), max_wait="1m"), float)
        assert_type(await limits.acquire("gpu", 4), Slot | None)
        assert_type((await limits.status("gpu")).remaining, int | None)
    async with ctx.limit("api"), ctx.slots("gpu", 2) as slot:
        assert_type(slot, Slot)
    async with Engine(pipe, limits={"api": Rate(1), "gpu": 4}) as engine:
        await engine.limits.set("gpu", 2)
        await engine.limits.back_off("api", timedelta(seconds=3))
