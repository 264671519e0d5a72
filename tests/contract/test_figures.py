"""What is counted for whoever watches (WEB-10): gates and items of runs that go on, of the pipelines asked for."""

from __future__ import annotations

from datetime import timedelta

from flowstone_async.store.scatters import ItemFailed
from tests.contract.builders import failure
from tests.contract.clock import SetClock
from tests.contract.stores import Engine
from tests.contract.test_gates import HOUR, deliver, gate, opened
from tests.contract.test_scatters import Reader, flushed


async def test_open_gates_are_counted_by_kind(engine: Engine, clock: SetClock) -> None:
    store = engine.store
    assert await store.figures(["sales"]) == ({}, 0, 0, 0, 0)
    drive = await engine.start()
    soon = gate(drive, "soon", due=timedelta(seconds=5))
    asked = gate(drive, "asked", kind="approval")
    await opened(drive, soon, asked, gate(drive, "sent"), gate(drive, "late", due=HOUR, kind="sleep"))
    assert (await store.figures(["sales", "sales"])).gates == {"signal": 2, "approval": 1, "sleep": 1}
    assert (await store.figures(["shop"])).gates == {}
    assert (await store.figures([])).gates == {}

    await deliver(store, asked)
    clock.advance(6)

    assert (await store.figures(["sales"])).gates == {"signal": 1, "sleep": 1}
    await drive.finish()
    assert (await store.figures(["sales"])).gates == {}


async def test_items_of_running_runs_are_counted_by_state(engine: Engine) -> None:
    store = engine.store
    reader = await Reader.begin(engine)
    await reader.add("a", "b", "c", "d", "e")
    assert (await store.figures(["sales"]))[1:] == (5, 0, 0, 0)
    chunk = reader.chunk(0, 5)
    failed = ItemFailed(1, 1, failure("b"))
    assert await reader.flush(flushed(chunk, 0, done=b"\x03", failed=1, failures=(failed,))) == [0]

    assert (await store.figures(["sales", "shop"]))[1:] == (3, 0, 1, 1)
    assert (await store.figures(["shop"]))[1:] == (0, 0, 0, 0)
    await reader.drive.finish("failed")
    assert (await store.figures(["sales"]))[1:] == (0, 0, 0, 0)
