"""`kill -9` of whoever runs a body that fans out, followed by the same command again: no call on record is repeated."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import ROOT, Program, flowstone
from tests.e2e.database import connected
from tests.e2e.gates import Gates
from tests.e2e.invariants import assert_whole
from tests.e2e.programs.mapping import ITEMS

PROGRAM = str(ROOT / "tests/e2e/programs/mapping.py")
VALUE = "SELECT payload FROM flowstone.materialization AS m JOIN flowstone.asset_key AS k ON k.current = m.id WHERE k.asset = $1"
STEPS = "SELECT key, value FROM flowstone.step WHERE key LIKE 'map#0/%' ORDER BY seen"


def run(folder: Path, asset: str, store: str, point: str | None = None) -> Program:
    return flowstone(folder, "run", PROGRAM, asset, "--store", store, "--json", point=point)


def called(folder: Path, function: str) -> Counter[int]:
    """Return how often a function was called, by item."""
    log = folder / "calls"
    lines = map(json.loads, log.read_text().splitlines() if log.exists() else ())
    return Counter(item for name, item, _ in lines if name == function)


async def recorded(folder: Path) -> list[Any]:
    """Return the results on record of the outermost calls, in the order in which they came."""
    async with connected(folder) as sql:
        return [json.loads(row["value"]) for row in await sql.fetch(STEPS) if row["key"].count("/") == 1]


async def value(folder: Path, asset: str) -> Any:
    async with connected(folder) as sql:
        await assert_whole(sql)
        return json.loads((await sql.fetchval(VALUE, asset)).strip())


async def test_whoever_goes_on_makes_only_the_calls_that_had_no_result(folder: Path, store: str, gates: Gates) -> None:
    """SCAT-27: and gives the results in the order in which they came."""
    gates.hold("square:5")
    with run(folder, "squares", store) as killed:
        gates.reached()
        killed.kill()
    gates.hold()
    before = await recorded(folder)
    assert before

    again = run(folder, "squares", store).end()

    assert again.code == 0, again
    found, calls = await value(folder, "squares"), called(folder, "square")
    assert found[: len(before)] == before
    assert sorted(found) == [no * no for no in range(ITEMS)]
    assert [calls[no] for no in range(ITEMS) if no * no in before] == [1] * len(before)
    assert calls[5] == 2
    assert max(calls.values()) == 2


@pytest.mark.parametrize(
    "point", [pytest.param("before a step is recorded", marks=pytest.mark.faults), "after a step was recorded"]
)
async def test_whoever_dies_at_a_record_loses_that_one_at_most(folder: Path, store: str, point: str) -> None:
    """STEP-01: calls of calls, too."""
    killed = run(folder, "sums", store, point).end()
    assert killed.code == -signal.SIGKILL, killed
    async with connected(folder) as sql:
        kept = {json.loads(row["value"]) for row in await sql.fetch(STEPS) if "cell" in row["key"]}
    assert bool(kept) is point.startswith("after")

    again = run(folder, "sums", store).end()

    assert again.code == 0, again
    assert await value(folder, "sums") == sum(range(ITEMS))
    calls = called(folder, "cell")
    assert calls.keys() == set(range(ITEMS))
    assert {no: calls[no] for no in kept} == dict.fromkeys(kept, 1)
    assert max(calls.values()) <= 2
