"""Keys of dynamic partition sets: what `Store.partition_keys` owes."""

from __future__ import annotations

import anyio

from tests.contract.stores import Engine


async def test_keys_keep_the_order_in_which_they_were_added(engine: Engine) -> None:
    """PART-01: a key that is added again keeps its place; the count is of those that were new."""
    keys = engine.store.partition_keys
    assert await keys.known("tenants") == ()
    assert await keys.add("tenants", ["b"]) == 1
    assert await keys.add("tenants", ["a", "a", "b"]) == 1
    assert await keys.known("tenants") == ("b", "a")
    assert await keys.add("tenants", ["z", "a", "y", "x"]) == 3
    assert await keys.known("tenants") == ("b", "a", "z", "y", "x")
    assert await keys.known("others") == ()


async def test_removing_counts_what_was_there(engine: Engine) -> None:
    """PART-01: a key that is removed and added again comes last."""
    keys = engine.store.partition_keys
    await keys.add("tenants", ["a"])
    await keys.add("tenants", ["b"])
    assert await keys.remove("tenants", ["a", "a", "zz"]) == 1
    assert await keys.add("tenants", ["a"]) == 1
    assert await keys.known("tenants") == ("b", "a")


async def test_adding_the_same_keys_at_once_counts_each_once(engine: Engine) -> None:
    """PART-01: concurrent adders of overlapping keys neither fail nor count a key twice."""
    counts: list[int] = []

    async def add(names: list[str]) -> None:
        counts.append(await engine.store.partition_keys.add("tenants", names))

    async with anyio.create_task_group() as group:
        for shift in range(8):
            group.start_soon(add, [str((shift + number) % 10) for number in range(10)])
    assert sum(counts) == 10
    assert sorted(await engine.store.partition_keys.known("tenants")) == [str(number) for number in range(10)]
