"""The audit log: an entry commits with the act it describes (AUD-02), and is read newest first."""

from __future__ import annotations

import asyncio

from flowstone_async.store.protocol import Store
from tests.contract.builders import act
from tests.contract.clock import SetClock
from tests.contract.stores import Engine


async def subjects(store: Store, limit: int) -> list[str]:
    """Read the log page by page."""
    read: list[str] = []
    after: int | None = None
    while page := await store.audit(limit=limit, after=after):
        assert len(page) <= limit
        read.extend(entry.subject for _, _, entry in page)
        after = page[-1][0]
    return read


async def test_an_entry_comes_back_as_it_was_given(engine: Engine, clock: SetClock) -> None:
    drive = await engine.start()
    clock.advance(3)
    entry = act(
        "asset.invalidated",
        "sales.numbers[i:1]",
        actor="ann",
        actor_kind="person",
        run_id=drive.id,
        details={"before": {"state": "completed", "none": None}, "count": 3, "list": [1.5, "two"]},
    )

    answer = await drive.advance(audit=(entry,))

    [(number, at, read)] = await engine.store.audit()
    assert (at, read) == (answer.at, entry)
    assert number > 0


async def test_entries_are_read_newest_first_in_pages(engine: Engine) -> None:
    first, second = await engine.start(), await engine.start()
    for no in range(0, 24, 4):
        await first.advance(audit=tuple(act(subject=f"{no + step}") for step in range(3)))
        await second.advance(audit=(act(subject=f"{no + 3}"),))
    expected = [str(no) for no in reversed(range(24))]

    for limit in (1, 5, 100):
        assert await subjects(engine.store, limit) == expected


async def test_numbers_tell_entries_apart(engine: Engine) -> None:
    drives = [await engine.start() for _ in range(5)]
    await asyncio.gather(*(drive.advance(audit=(act(subject=drive.id), act(subject=drive.id))) for drive in drives))

    numbers = [number for number, _, _ in await engine.store.audit()]

    assert numbers == sorted(set(numbers), reverse=True)
    assert len(numbers) == 10


async def test_an_empty_log(store: Store) -> None:
    assert await store.audit() == ()
    assert await store.audit(after=10) == ()
