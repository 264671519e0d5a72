"""Assets that change their names, and those that leave the code: ASSET-24."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from flowstone_async import ALL, AssetNotFound, Daily, DefinitionError, Pipeline, dep
from flowstone_async._engine.orphans import orphans
from tests.support.engines import OpenEngine

DAYS = Daily("2025-01-01")
FIRST, SECOND = date(2025, 1, 1), date(2025, 1, 2)


def _before(calls: list[str]) -> Pipeline:
    pipe = Pipeline("shop")

    @pipe.asset(partitions=DAYS)
    async def visits(partition: date) -> int:
        calls.append("visits")
        return partition.day

    @pipe.asset(partitions=DAYS)
    async def summary(visits: int) -> str:
        calls.append("summary")
        return f"{visits} visits"

    return pipe


def _after(calls: list[str], **options: Any) -> Pipeline:
    pipe = Pipeline("shop")

    @pipe.asset(partitions=DAYS, renamed_from="visits", **options)
    async def page_views(partition: date) -> int:
        calls.append("page_views")
        return partition.day

    @pipe.asset(partitions=DAYS)
    async def summary(visits: int = dep("page_views")) -> str:
        calls.append("summary")
        return f"{visits} visits"

    return pipe


async def test_value_history_and_freshness_carry_over(open_engine: OpenEngine):
    """ASSET-24: at the first start; nothing is computed again, of the asset or below it."""
    calls: list[str] = []
    first = await open_engine(_before(calls))
    await first.run("summary", partition=FIRST)
    await first.run("visits", partition=SECOND)
    before = await first.status("visits", partition=FIRST)
    second = await open_engine(_after(calls))
    assert await second.get("page_views", partition=SECOND) == 2
    status = await second.status("page_views", partition=FIRST)
    assert (status.state, status.fresh, status.run_id) == ("completed", True, before.run_id)
    assert await second.run("summary", partition=FIRST) == "1 visits"
    assert calls == ["visits", "summary", "visits"]
    with pytest.raises(AssetNotFound):
        await second.get("visits", partition=FIRST)
    assert await second.invalidate("page_views", partition=ALL, cascade=True) == 3


@pytest.mark.not_in("evict", reason="whichever engine is there goes on with what was suspended")
async def test_a_second_start_changes_nothing_more(open_engine: OpenEngine):
    """ASSET-24: what the new name has stays; an old value that appears again does not displace it."""
    calls: list[str] = []
    first = await open_engine(_before(calls))
    await first.run("visits", partition=FIRST)
    second = await open_engine(_after(calls))
    await second.run("page_views", partition=FIRST, force=True)
    await first.run("visits", partition=FIRST, force=True)
    third = await open_engine(_after(calls))
    assert calls == ["visits", "page_views", "visits"]
    assert (await third.status("page_views", partition=FIRST)).fresh
    assert await third.run("page_views", partition=FIRST) == 1
    assert calls == ["visits", "page_views", "visits"]


def test_a_name_that_is_still_defined_is_a_definition_error():
    """ASSET-24: `FS112`."""
    pipe = _before([])

    @pipe.asset(renamed_from="visits")
    async def page_views() -> int:
        return 1

    with pytest.raises(DefinitionError, match="FS112"):
        pipe.validate()


async def test_an_included_asset_was_called_by_its_prefixed_name(open_engine: OpenEngine):
    """ASSET-24, FLOW-11: the prefix belongs to the old name too."""
    calls: list[str] = []
    first = await open_engine(Pipeline("app").include(_before(calls), prefix="eu_"))
    await first.run("eu_summary", partition=FIRST)
    second = await open_engine(Pipeline("app").include(_after(calls), prefix="eu_"))
    assert await second.run("eu_summary", partition=FIRST) == "1 visits"
    assert calls == ["visits", "summary"]


async def test_what_is_no_longer_in_code_is_listed_and_kept(open_engine: OpenEngine):
    """ASSET-24: orphans with their number of values; nothing deletes them by itself."""
    calls: list[str] = []
    first = await open_engine(_before(calls))
    await first.run("visits", partition=FIRST)
    await first.run("visits", partition=SECOND)
    changed = Pipeline("shop")
    changed.constant("rate", 1)
    second = await open_engine(changed)
    assert await orphans(second._live()) == {"shop": {"visits": 2}}
    again = await open_engine(_before(calls))
    assert await again.get("visits", partition=FIRST) == 1
    assert await orphans(again._live()) == {}
