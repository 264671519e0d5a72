"""Several workers of a scatter while other code is deployed: who helps whom (SCAT-16, JOB-08)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from unittest.mock import AsyncMock

import asyncpg
import pytest

from flowstone_async import Cache, DependencyFailed, LeaseLost
from flowstone_async._engine.helpers import Help
from tests.postgres.test_crews import Crew, Engines, engines, looked
from tests.postgres.waiting import until
from tests.support.crash import kill
from tests.support.gate import soon

__all__ = ["engines"]


async def test_who_did_not_fit_helps_whoever_goes_on_with_the_same_code(engines: Engines) -> None:
    """What is called is on record for the worker that reads it now, not for the one that began it."""
    old, new = Crew(engines, cache=Cache(version="1")), Crew(engines, cache=Cache(version="2"))
    first = await old.open("a")
    run = asyncio.create_task(first.run("total"))
    await old.until(lambda: len(old.running) == 10)
    opened = {name: await new.open(name) for name in ("b", "c")}
    for engine in opened.values():
        await looked(engine, 3)
    assert not new.calls
    await kill(first)
    with pytest.raises((LeaseLost, DependencyFailed)):
        await soon(run)
    await new.until(lambda: len(new.running) == 10)
    engines.limits.clear()
    await new.limited(5)
    new.let(*list(new.running)[:5])
    await new.until(lambda: set(new.calls) == {"b", "c"})
    new.let_all()
    assert await soon(opened["b"].wait("total")) == sum(no * no for no in range(40))
    assert new.gathered == 1


async def test_who_helps_keeps_what_runs_until_another_goes_on_with_the_run(engines: Engines) -> None:
    """SCAT-16: the run is taken over, and the new owner does not take part yet; then the helper helps it."""
    crew = Crew(engines)
    first, helper = await crew.open("a"), await crew.open("b", grace="30s")
    store: Any = helper._live().store
    store.take_orphans = AsyncMock(return_value=())
    run = asyncio.create_task(first.run("total"))
    await crew.shared()
    third, begins, attend = await crew.open("c"), asyncio.Event(), store.crews.attend
    led = unled = 0
    third_crews: Any = third._live().store.crews
    attend_third = third_crews.attend

    async def attends(*args: Any, **options: Any) -> Any:
        nonlocal led, unled
        found = await attend(*args, **options)
        led, unled = led + found.led, unled + (not found.led)
        return found

    async def attends_later(*args: Any, **options: Any) -> Any:
        await begins.wait()
        return await attend_third(*args, **options)

    store.crews.attend, third_crews.attend = attends, attends_later
    await kill(first)
    with pytest.raises((LeaseLost, DependencyFailed)):
        await soon(run)
    await crew.until(lambda: unled >= 3)
    begun = set(crew.of("b"))  # more than its share: nobody else was there
    await crew.until(lambda: unled >= 6)
    assert set(crew.of("b")) == begun
    before = led
    begins.set()
    await crew.until(lambda: led > before)  # or the helper has nothing left, and the other takes all places
    crew.let(*begun)
    await crew.until(lambda: bool(set(crew.of("b")) - begun))
    crew.let_all()
    assert await soon(third.wait("total")) == sum(no * no for no in range(40))
    assert {crew.times[no] for no in begun} == {1}


async def test_who_helps_with_other_code_lets_its_bodies_end_and_leaves(
    engines: Engines, sql: asyncpg.Connection
) -> None:
    """Whoever goes on with the run calls something else: what was begun here counts, and nothing more begins."""
    old, new = Crew(engines, cache=Cache(version="1")), Crew(engines, cache=Cache(version="2"))
    first, helper = await old.open("a"), await old.open("b", grace="30s")
    store: Any = helper._live().store
    store.take_orphans = AsyncMock(return_value=())
    run = asyncio.create_task(first.run("total"))
    await old.shared()
    [help_] = helper._live().jobs.values()
    assert isinstance(help_, Help)
    third, attend = await new.open("c"), store.crews.attend
    reader = third._live().services.worker

    async def later(*args: Any, **options: Any) -> Any:
        # A run that nobody who takes part owns is not helped with: it may just have been taken over.
        await until(partial(sql.fetchval, "SELECT 1 FROM flowstone.scatter_worker WHERE worker = $1", reader))
        return await attend(*args, **options)

    store.crews.attend = later
    await kill(first)
    with pytest.raises((LeaseLost, DependencyFailed)):
        await soon(run)
    await new.until(lambda: help_._helping is not None and help_._helping._draining)
    begun = set(old.running)  # more than its share, if the other died while its share was being told
    old.let_all()
    await soon(help_.done.wait())
    assert sum(old.times.values()) == len(old.times) == 10 + len(begun)
    new.let_all()
    assert await soon(third.wait("total")) == sum(no * no for no in range(40))
    assert not begun & set(new.times)
