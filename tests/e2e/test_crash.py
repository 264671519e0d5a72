"""`kill -9` at any point, followed by the same command again: nothing is lost, nothing committed is done again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from flowstone_async.store.embedded.server import EmbeddedServer
from tests.e2e.commands import CHAIN, flowstone, run
from tests.e2e.gates import Gates
from tests.e2e.invariants import assert_whole, counts

RESULT = "9900"
ONCE = {"first": 1, "second": 1, "third": 1}


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the store's server, which is started if it does not run."""
    server = EmbeddedServer(folder / "store")
    address = await server.open()
    try:
        connection = await asyncpg.connect(**address.arguments())
        try:
            yield connection
        finally:
            await connection.close()
    finally:
        await server.close()


async def assert_continued(folder: Path, store: str, expected: dict[str, int]) -> None:
    """Give the command again, and see that the result is that of an undisturbed run."""
    again = run(folder, "third", store).end()
    assert again.code == 0, again
    assert counts(folder) == expected
    got = flowstone(folder, "get", str(CHAIN), "third", "--store", store, "--json").end()
    assert (got.code, got.out.strip()) == (0, RESULT), got
    async with connected(folder) as connection:
        await assert_whole(connection)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("while the schema is made", ONCE),
        ("before the worker is registered", ONCE),
        ("after the worker was registered", ONCE),
        ("before the run is begun", ONCE),
        ("after the run was begun", ONCE),
        ("before second is committed", ONCE | {"second": 2}),
        ("after second was committed", ONCE),
        ("before the run is ended", ONCE | {"third": 2}),
        ("after the run was ended", ONCE),
        ("before the store is left", ONCE),
        ("before the lease is given up", ONCE),
    ],
)
async def test_a_command_that_was_killed_is_gone_on_with_by_the_same_command(
    folder: Path, store: str, point: str, expected: dict[str, int]
) -> None:
    killed = run(folder, "third", store, point=point).end()
    assert killed.code == -9, killed

    await assert_continued(folder, store, expected)
