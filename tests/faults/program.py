"""What the worker processes of a fault run are: two pipelines, and an engine that is opened again whatever happens."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import random
import signal
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowstone_async import (
    Batch,
    Batching,
    Context,
    Engine,
    FlowstoneError,
    Gathered,
    Keys,
    LeaseExpired,
    Pipeline,
    Retry,
    dep,
)
from flowstone_async.store.postgres import connections
from tests.e2e.programs.chain import lost, written

KEYS = Keys(*(f"k{number}" for number in range(8)))
LONGEST_BODY = 0.04
ANSWERS = ("red", "blue")
"""What each run of `asked` waits for."""
ITEMS = 60
ANSWER = 3.0
EXIT = 9
MAX_LOST = 1
"""Of the deadly pipeline."""

shop = Pipeline("shop")
deadly = Pipeline("deadly")
PIPELINES = {"shop": shop, "deadly": deadly}
for each in PIPELINES.values():
    each.on(LeaseExpired)(lost)
_open: Engine | None = None


class Flaky(Exception):
    """What a body raises that succeeds the second time."""


@asynccontextmanager
async def _called(ctx: Context) -> AsyncGenerator[None]:
    """Write a call down, with the worker's id: an engine that has lost its lease comes back under another."""
    assert _open is not None
    with written(ctx, _open._live().services.worker or ""):
        yield


async def _take_time() -> None:
    await _pass(asyncio.Event(), random.uniform(0, LONGEST_BODY))


async def _pass(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


@shop.asset(partitions=KEYS)
async def raw(partition: str, ctx: Context) -> dict[str, str]:
    async with _called(ctx):
        await _take_time()
    return {"key": partition, "salt": uuid.uuid4().hex}


@shop.asset(partitions=KEYS, retry=Retry(3, backoff="none"))
async def clean(raw: dict[str, str], ctx: Context) -> dict[str, str]:
    async with _called(ctx):
        await _take_time()
    if ctx.attempt == 1:
        raise Flaky(ctx.asset)
    return {**raw, "clean": raw["salt"]}


@shop.asset
async def table(by_key: Mapping[str, dict[str, str]] = dep(clean, over=KEYS.all()), *, ctx: Context) -> dict[str, str]:
    async with _called(ctx):
        await _take_time()
    return {key: value["clean"] for key, value in by_key.items()}


@shop.asset(partitions=KEYS)
async def text(raw: dict[str, str], ctx: Context) -> dict[str, str]:
    async with _called(ctx):
        ctx.metadata(note="a NUL \0 and a half \ud800 of a character")
    return {"text": f"\0{raw['salt']}"}


@shop.asset(partitions=KEYS)
async def odd(raw: dict[str, str], ctx: Context) -> Any:
    async with _called(ctx):
        return object()


@shop.asset(partitions=KEYS)
async def endless(raw: dict[str, str], ctx: Context) -> str:
    async with _called(ctx):
        await asyncio.Event().wait()
    return raw["salt"]


@shop.asset(partitions=KEYS, park_after=0)
async def asked(raw: dict[str, str], ctx: Context) -> dict[str, Any]:
    """Wait for two answers at once, out of memory, and note which came first."""
    order: list[str] = []

    async def begin() -> str:
        async with _called(ctx):
            await _take_time()
        return uuid.uuid4().hex

    async def answered(name: str) -> str:
        answer = await ctx.signal(str, name=name, token=token_of(ctx.run_id, name), timeout=False)
        order.append(name)
        return answer

    began = await ctx.step(begin)
    answers = await asyncio.gather(*(answered(name) for name in ANSWERS))
    ended = await ctx.step(_ended, began, order)  # other arguments than on record would be a ReplayMismatch
    return {"salt": raw["salt"], "began": began, "answers": answers, "order": order, "ended": ended}


async def _ended(began: str, order: list[str]) -> str:
    return f"{began} {'+'.join(order)}"


def token_of(run_id: str, name: str) -> str:
    """Return the token of a gate of `asked`."""
    return f"{run_id} {name}"


@shop.scatter(
    range(ITEMS), page_size=9, max_concurrent=8, retry=Retry(3, initial="20ms", jitter=False), partitions=KEYS
)
async def parts(number: int, ctx: Context) -> int:
    await _pass(asyncio.Event(), random.uniform(0, LONGEST_BODY / 4))
    if number % 10 == 3 and ctx.item.attempt == 1:
        raise Flaky(ctx.asset)
    return number


@parts.gather
async def whole(results: Gathered[int], ctx: Context) -> list[int]:
    async with _called(ctx):
        return [value async for value in results]


async def numbers() -> AsyncIterator[int]:
    for number in range(ITEMS):
        if not number % 9:
            await _pass(asyncio.Event(), random.uniform(0, LONGEST_BODY))
        yield number


def salt() -> str:
    return uuid.uuid4().hex


@shop.scatter(
    numbers,
    batch=Batching(max_items=5, max_wait="10ms", group_by=lambda number: number % 3, shared=salt),
    page_size=9,
    max_concurrent=4,
    retry=Retry(3, initial="20ms", jitter=False),
    partitions=KEYS,
)
async def packs(batch: Batch[int], ctx: Context) -> list[tuple[int, str]]:
    await _pass(asyncio.Event(), random.uniform(0, LONGEST_BODY / 4))
    odd = {place: Flaky(ctx.asset) for place, number in enumerate(batch) if number % 10 == 3}
    if odd and ctx.item.attempt == 1:
        raise batch.failed(odd, value=[(number, batch.shared) for number in batch if number % 10 != 3])
    return [(number, batch.shared) for number in batch]


@packs.gather
async def unpacked(results: Gathered[list[tuple[int, str]]], ctx: Context) -> list[tuple[int, str]]:
    async with _called(ctx):
        return [pair async for pair in results.flat()]


@deadly.asset
async def doomed(ctx: Context) -> int:
    async with _called(ctx):
        os._exit(EXIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """How a worker process is to be.

    Attributes:
        dsn: Its store.
        folder: Where it runs and writes what it says.
        pipelines: What it works for.
        options: Of its engine.
    """

    dsn: str
    folder: Path
    name: str
    pipelines: tuple[str, ...]
    seed: int
    options: dict[str, Any] = field(default_factory=dict)


def main(spec: Spec) -> None:
    """Work until SIGTERM."""
    os.setsid()
    os.chdir(spec.folder)
    said = os.open(f"{spec.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(
        format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr
    )
    random.seed(spec.seed)
    shorten()
    asyncio.run(_work(spec))


def shorten() -> None:
    """Let a connection that does not answer be given up sooner than people want it to be."""
    connections._ANSWER = ANSWER
    assert connections.Connections.__init__.__kwdefaults__ is not None
    connections.Connections.__init__.__kwdefaults__["patience"] = ANSWER


async def _work(spec: Spec) -> None:
    global _open
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    pipelines = [PIPELINES[name] for name in spec.pipelines]
    while not stop.is_set():
        try:
            async with Engine(*pipelines, store=spec.dsn, **spec.options) as _open:
                await stop.wait()
        except FlowstoneError as error:
            logging.getLogger("worker").warning("%s: %s", type(error).__name__, error.message)
            await _pass(stop, 0.1)
