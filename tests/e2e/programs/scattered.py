"""Scatters that write down every call in the current folder, for tests that kill what runs them.

`calls` gets a line for each call of a body: asset, item and process. `data` holds pages of what the sources `feed` and
`stream` give, as JSON; at a page that is the text "die" the process dies, at a number it dies once bodies were called so
often, and at "hang" the source never goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from flowstone_async import Gathered, Pipeline, sources

ITEMS, PAGE = 40, 10
POISON = (7, 23)

pipe = Pipeline("scattered")


def write(asset: str, item: object) -> None:
    """Write a call down."""
    with Path("calls").open("ab", buffering=0) as log:
        log.write(f"{json.dumps([asset, item, os.getpid()])}\n".encode())


def die() -> None:
    """End this process as the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


@pipe.scatter(range(ITEMS), page_size=PAGE)
async def plain(no: int) -> int:
    write("plain", no)
    await asyncio.sleep(0)
    return no * no


@plain.gather
async def total(results: Gathered[int]) -> int:
    write("total", results.total)
    return sum([value async for value in results])


@pipe.scatter(range(ITEMS), page_size=PAGE, tolerate=0.1)
async def poisoned(no: int) -> int:
    write("poisoned", no)
    await asyncio.sleep(0)
    if no in POISON:
        die()
    return no


@poisoned.gather
async def survivors(results: Gathered[int]) -> list[list[Any]]:
    """Return what came of all items: the results, and why the others failed."""
    return [[value async for value in results], [[each.key, each.error_type] async for each in results.failures()]]


async def _calls(count: int) -> None:
    """Wait until bodies were called so often: their items are on record then."""
    while len(Path("calls").read_bytes().splitlines() if Path("calls").exists() else ()) < count:
        await asyncio.sleep(0)


# -- sources ----------------------------------------------------------------------------------------------------------


async def pages(first: int) -> AsyncIterator[tuple[int, list[str]]]:
    """Yield the pages of `data` from a number on."""
    for number, page in enumerate(json.loads(Path("data").read_text())):
        if number < first:
            continue
        if page == "die":
            die()
        if isinstance(page, int):
            await _calls(page)
            die()
        if page == "hang":
            await asyncio.Event().wait()
        yield number, page


class Feed(sources.Source[str]):
    """Says behind each page where it goes on."""

    read_retry = False

    async def read(self, cursor: int | None) -> AsyncIterator[sources.Page[str]]:
        async for number, page in pages(cursor or 0):
            yield sources.Page(page, number + 1)


class Hasty(Feed):
    """Is given up before long."""

    read_timeout = "300ms"


async def stream() -> AsyncIterator[str]:
    """Says nothing: it is read again from the start."""
    async for _, page in pages(0):
        for item in page:
            yield item


@pipe.scatter(Feed(), page_size=3)
async def fed(item: str) -> str:
    write("fed", item)
    return item.upper()


@pipe.scatter(Hasty(), page_size=3)
async def hasty(item: str) -> str:
    write("hasty", item)
    return item.upper()


@pipe.scatter(stream, page_size=3)
async def streamed(item: str) -> str:
    write("streamed", item)
    return item.upper()


async def _all(results: Gathered[str]) -> list[list[str]]:
    return [[key, value] async for key, value in results.items()]


@fed.gather
async def of_feed(results: Gathered[str]) -> list[list[str]]:
    return await _all(results)


@hasty.gather
async def of_hasty(results: Gathered[str]) -> list[list[str]]:
    return await _all(results)


@streamed.gather
async def of_stream(results: Gathered[str]) -> list[list[str]]:
    return await _all(results)
