"""Notes of the bodies of a scatter in the store (FLOW-03, CACHE-08)."""

from __future__ import annotations

from tests.contract.builders import identifier
from tests.contract.stores import Engine, Stores
from tests.contract.test_redrive import ended, redriven
from tests.contract.test_scatters import Reader, taken_over


async def test_notes_of_all_workers_are_kept_in_order(stores: Stores) -> None:
    """Also those of one that died, and from whoever does not own the run."""
    one, other = await stores.engine(), await stores.engine()
    reader = await Reader.begin(one)
    await reader.store.note(reader.id, "1")
    await other.store.scatters.note(reader.id, "2")
    successor = await taken_over(reader, other, stores)
    await successor.store.note(reader.id, "\\u0000 3")
    assert await successor.store.noted(reader.id) == ("1", "2", "\\u0000 3")
    assert await successor.store.noted(identifier()) == ()
    await successor.store.note(identifier(), "4")


async def test_nothing_is_noted_once_it_has_ended(engine: Engine) -> None:
    reader = await Reader.begin(engine)
    await reader.store.note(reader.id, "1")
    assert await reader.store.end(reader.id, reader.drive.run.fence, "failed")
    await reader.store.note(reader.id, "2")
    assert await reader.store.noted(reader.id) == ("1",)


async def test_what_keeps_results_keeps_their_notes(engine: Engine) -> None:
    """SCAT-25; and they go with the last that has them."""
    reader = await Reader.begin(engine)
    await reader.store.note(reader.id, "0")
    before = await ended(engine)
    again = await redriven(engine, before)
    await again.store.note(again.id, "2")
    assert await again.store.noted(again.id) == ("2",)
    await again.store.delete([before.id, again.id, reader.id])
    assert await again.store.noted(reader.id) == ()
