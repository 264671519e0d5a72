"""`kill -9` of whoever runs a scatter, followed by the same command again (faults 1 and 17 to 19 of scatters).

On the embedded store: nobody waits for a lease to run out there.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests.e2e.commands import ROOT, Ended, flowstone
from tests.e2e.database import connected
from tests.e2e.invariants import assert_scatters, assert_whole, recorded
from tests.e2e.programs.scattered import ITEMS, POISON

PROGRAM = str(ROOT / "tests/e2e/programs/scattered.py")
SUM = sum(no * no for no in range(ITEMS))
VALUE = "SELECT payload FROM flowstone.materialization AS m JOIN flowstone.asset_key AS k ON k.current = m.id WHERE k.asset = $1"
MADE = "SELECT count(*) FROM flowstone.materialization WHERE asset = $1"
SCATTER = "SELECT id FROM flowstone.scatter WHERE asset = $1"
MOST_LOST = 3
LONG = pytest.mark.faults


def run(folder: Path, asset: str, point: str | None = None) -> Ended:
    """Run an asset; the process may be killed."""
    return flowstone(folder, "run", PROGRAM, asset, "--store", "embedded:store", "--json", point=point).end()


def killed(folder: Path, asset: str, point: str | None = None) -> None:
    """Run an asset; the process must be killed."""
    ended = run(folder, asset, point)
    assert ended.code == -signal.SIGKILL, ended


def called(folder: Path, asset: str) -> Counter[Any]:
    """Return how often the body of an asset was called, by item."""
    log = folder / "calls"
    lines = map(json.loads, log.read_text().splitlines() if log.exists() else ())
    return Counter(item for name, item, _ in lines if name == asset)


@pytest_asyncio.fixture
async def sql(folder: Path, store: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the server of the store, which runs for as long as the test does."""
    del store
    async with connected(folder) as opened:
        yield opened


async def kept(sql: asyncpg.Connection, asset: str) -> set[int]:
    """Return the positions whose results are on record, after whatever happened to its process."""
    if not await sql.fetchval("SELECT to_regclass('flowstone.scatter') IS NOT NULL"):
        return set()
    scatter = await sql.fetchval(SCATTER, asset)
    await assert_scatters(sql, closed=False)
    return set() if scatter is None else set(await recorded(sql, scatter))


async def value(sql: asyncpg.Connection, asset: str, *, ended: bool = True) -> Any:
    """Return a value as it is stored, once all is seen to be whole.

    Args:
        sql: To the database.
        asset: Its name.
        ended: Whether every run must have ended; those of several dead processes may be left to others.
    """
    await assert_whole(sql, ended=ended)
    await assert_scatters(sql)
    return json.loads((await sql.fetchval(VALUE, asset)).strip())


# -- the barrier ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "gathered"),
    [
        pytest.param("before a page is added", 1, marks=LONG),
        pytest.param("after a page was added", 1, marks=LONG),
        pytest.param("before results are kept", 1, marks=LONG),
        ("after results were kept", 1),
        pytest.param("before the scatter is closed", 1, marks=LONG),
        pytest.param("after the scatter was closed", 1, marks=LONG),
        pytest.param("before plain is committed", 1, marks=LONG),
        pytest.param("after plain was committed", 1, marks=LONG),
        ("before total is committed", 2),
        pytest.param("after total was committed", 1, marks=LONG),
    ],
)
async def test_results_on_record_stand_and_are_gathered_once(
    folder: Path, sql: asyncpg.Connection, point: str, gathered: int
) -> None:
    """SCAT-16, SCAT-19: wherever the process dies, also between the last commit and the close."""
    killed(folder, "total", point)
    before = await kept(sql, "plain")
    if "closed" in point or "plain" in point or "total" in point:
        assert len(before) == ITEMS

    again = run(folder, "total")

    assert again.code == 0, again
    calls = called(folder, "plain")
    assert calls.keys() == set(range(ITEMS))
    assert {no: calls[no] for no in before} == dict.fromkeys(before, 1)
    assert max(calls.values()) <= 2
    assert called(folder, "total") == {ITEMS: gathered}
    assert await value(sql, "total") == SUM
    assert [await sql.fetchval(MADE, asset) for asset in ("plain", "total")] == [1, 1]


@LONG
async def test_whoever_continues_a_scatter_may_be_killed_too(folder: Path, sql: asyncpg.Connection) -> None:
    before = set[int]()
    for point in ("after results were kept", "before the scatter is closed", "before plain is committed"):
        killed(folder, "total", point)
        now = await kept(sql, "plain")
        assert before <= now
        before = now
    assert len(before) == ITEMS

    again = run(folder, "total")

    assert again.code == 0, again
    assert called(folder, "total") == {ITEMS: 1}
    assert await value(sql, "total", ended=False) == SUM


# -- poison -----------------------------------------------------------------------------------------------------------


async def test_only_items_that_kill_their_process_every_time_fail(folder: Path, sql: asyncpg.Connection) -> None:
    """SCAT-14: two of them; what was on record when a process died is not called again."""
    for _ in range(MOST_LOST * len(POISON) + 1):
        before, calls = await kept(sql, "poisoned"), called(folder, "poisoned")
        ended = run(folder, "survivors")
        assert {no: called(folder, "poisoned")[no] for no in before} == {no: calls[no] for no in before}
        if not ended.code:
            break
        assert ended.code == -signal.SIGKILL, ended
    assert ended.code == 0, ended
    calls = called(folder, "poisoned")
    assert all(1 <= calls[no] <= MOST_LOST * len(POISON) for no in POISON)
    survived, failed = await value(sql, "survivors", ended=False)
    assert survived == [no for no in range(ITEMS) if no not in POISON]
    assert failed == [[no, "WorkerLost"] for no in POISON]


# -- the reader -------------------------------------------------------------------------------------------------------


def give(folder: Path, *pages: object) -> None:
    """Let sources give such pages."""
    (folder / "data").write_text(json.dumps(pages))


DATA = [list("abc"), list("de"), [], list("bfg"), list("hi")]
FEED, STREAM = ("fed", "of_feed"), ("streamed", "of_stream")


@pytest.mark.parametrize(("scatter", "gathered"), [FEED, STREAM])
@pytest.mark.parametrize("at", [3, *(pytest.param(at, marks=LONG) for at in (0, 1, 2, 4, 5))])
async def test_a_reader_that_dies_leaves_no_gap(
    folder: Path, sql: asyncpg.Connection, scatter: str, gathered: str, at: int
) -> None:
    """READ-07: at each page, also before the first and behind the last."""
    give(folder, *DATA[:at], "die")
    killed(folder, gathered)
    before = await kept(sql, scatter)
    give(folder, *DATA)

    again = run(folder, gathered)

    assert again.code == 0, again
    assert await value(sql, gathered) == [[item, item.upper()] for item in "abcdefghi"]
    calls = called(folder, scatter)
    assert calls.keys() == set("abcdefghi")
    assert len(before) <= sum(times == 1 for times in calls.values())


@pytest.mark.parametrize(
    ("scatter", "gathered", "expected"),
    [(*FEED, "abcdewxyz"), (*STREAM, "abcduvwxyz")],
)
async def test_a_source_that_says_something_else_later_repeats_and_loses_nothing(
    folder: Path, sql: asyncpg.Connection, scatter: str, gathered: str, expected: str
) -> None:
    """READ-07: what was recorded stands. A source that says where it goes on is asked for what comes behind."""
    read = 5 if scatter == "fed" else 3
    give(folder, list("abc"), list("de"), [], read)
    killed(folder, gathered)
    assert await sql.fetchval("SELECT read FROM flowstone.scatter") == read
    give(folder, list("uv"), list("da"), list("b"), list("wx"), list("yzw"))

    again = run(folder, gathered)

    assert again.code == 0, again
    found = await value(sql, gathered)
    assert sorted(item for item, _ in found) == sorted(expected)
    assert called(folder, scatter).keys() == set(expected)


async def test_a_reader_that_hangs_ends_the_asset_and_keeps_what_was_read(
    folder: Path, sql: asyncpg.Connection
) -> None:
    """READ-08, READ-09: nothing waits for it for ever."""
    give(folder, list("abc"), list("de"), "hang")

    ended = run(folder, "of_hasty")

    assert ended.code == 1, ended
    assert "SourceError" in ended.out
    assert "a page took longer than read_timeout='300ms'" in ended.out
    assert len(await kept(sql, "hasty")) == len(called(folder, "hasty")) == 5


@pytest.mark.parametrize("count", [0, *(pytest.param(count, marks=LONG) for count in (1, 2, 3, 4))])
@pytest.mark.parametrize(("scatter", "gathered"), [FEED, STREAM])
async def test_a_few_items_are_as_whole_as_many(
    folder: Path, sql: asyncpg.Connection, scatter: str, gathered: str, count: int
) -> None:
    give(folder, *(["a"] * bool(count) for _ in range(2)), list("abcd"[:count]))

    ended = run(folder, gathered)

    assert ended.code == 0, ended
    assert await value(sql, gathered) == [[item, item.upper()] for item in "abcd"[:count]]
    assert called(folder, scatter) == Counter("abcd"[:count])
