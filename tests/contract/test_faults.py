"""A store as it was made is as it should be (CLI-03)."""

from __future__ import annotations

from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Unswept


async def test_a_new_store_has_no_faults(store: Store) -> None:
    assert await store.faults() == ()


async def test_a_new_store_has_nothing_to_sweep(store: Store) -> None:
    assert await store.unswept() == Unswept()


async def test_a_new_store_is_whole(store: Store) -> None:
    assert await store.verify() == ()
