"""Runs that go on in another engine while others store new values: one version of each in a run (JOB-09, CACHE-01)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstone_async import Gathered, Pipeline, dep
from flowstone_async._engine.scatter.bodies import Bodies
from flowstone_async._engine.scatter.scattering import Scattering
from tests.engine.test_scatter_resume import kept
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon

RARELY: Any = {"poll": "60s"}


class _Case:
    """`left` and `right` of `raw`, of which `right` waits at the gate, and `both`, which takes them and `raw`."""

    def __init__(self) -> None:
        self.pipe = pipe = Pipeline("versions")
        self.gate = Gate()
        self.version = 1

        @pipe.asset
        async def raw() -> int:
            return self.version

        @pipe.asset
        async def left(raw: int) -> int:
            return raw

        @pipe.asset
        async def right(raw: int, left: int) -> int:
            del left
            await self.gate()
            return raw

        @pipe.asset
        async def both(raw: int, left: int, right: int) -> tuple[int, int, int]:
            return raw, left, right


def _forgets(engine: Any) -> bool:
    """Whether the store forgets what is superseded at once."""
    return not engine._live().store.durable


@pytest.mark.parametrize("reused", [False, True])
async def test_a_run_goes_on_with_the_values_that_it_made_or_took(open_engine: OpenEngine, reused: bool):
    """JOB-09: another run has stored other versions since; only a memory store has forgotten the first ones."""
    case = _Case()
    dying, living = await open_engine(case.pipe, **RARELY), await open_engine(case.pipe, **RARELY, slots=0)
    if reused:
        assert await living.run("left") == 1
    run = await dying.submit("both")
    await case.gate.reached()
    case.version = 2
    assert await living.run("left", force="all") == 2
    await kill(dying)
    await look_for_orphans(living)
    await case.gate.reached(2)
    case.gate.open()
    found = await soon((await living.find(run.id)).result())
    assert found == ((2, 2, 2) if _forgets(living) else (1, 1, 1))


async def test_what_was_invalidated_meanwhile_is_computed_again(open_engine: OpenEngine):
    """JOB-09: a value that is deleted is read by nobody, whatever is on record of it."""
    case = _Case()
    dying, living = await open_engine(case.pipe, **RARELY), await open_engine(case.pipe, **RARELY, slots=0)
    run = await dying.submit("both")
    await case.gate.reached()
    case.version = 2
    assert await living.invalidate("raw") == 1
    await kill(dying)
    await look_for_orphans(living)
    await case.gate.reached(2)
    case.gate.open()
    assert await soon((await living.find(run.id)).result()) == (2, 1, 2)


async def test_a_run_goes_on_with_what_it_read_of_another_pipeline(open_engine: OpenEngine):
    """ASSET-16, JOB-09: what a committed asset of the run was computed from is what the others get."""
    above, pipe, gate = Pipeline("above"), Pipeline("below"), Gate()
    version = 1

    @above.asset
    async def raw() -> int:
        return version

    @pipe.asset
    async def left(raw: int = dep(raw, external=True)) -> int:
        return raw

    @pipe.asset
    async def right(left: int, raw: int = dep(raw, external=True)) -> tuple[int, int]:
        await gate()
        return left, raw

    dying, living = await open_engine(above, pipe, **RARELY), await open_engine(above, pipe, **RARELY, slots=0)
    assert await living.run(raw) == 1
    run = await dying.submit(right)
    await gate.reached()
    version = 2
    assert await living.run(raw, force=True) == 2
    await kill(dying)
    await look_for_orphans(living)
    await gate.reached(2)
    gate.open()
    found = await soon((await living.find(run.id)).result())
    assert found == ((1, 2) if _forgets(living) else (1, 1))


class _Sources:
    """What items may come from, in a pipeline of its own; `version` is what they are of."""

    def __init__(self, kind: str) -> None:
        self.pipe = pipe = Pipeline("above")
        self.version = 1

        async def read() -> AsyncIterator[int]:
            for no in self._numbers():
                yield no

        async def listed() -> list[int]:
            return self._numbers()

        async def same(no: int) -> int:
            return no

        self.source: Any = pipe.scatter(read)(same) if kind == "scatter" else None
        self.source = self.source or pipe.asset(read if kind == "stream" else listed)

    def _numbers(self) -> list[int]:
        return [self.version * 100 + no for no in range(30)]


@pytest.mark.parametrize("kind", ["list", "stream", "scatter"])
async def test_a_scatter_goes_on_reading_the_value_that_it_began_with(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, kind: str
):
    """READ-07: its items are those of one version of the source, however many pages were read before."""

    async def die(self: Scattering, bodies: Bodies) -> None:
        bodies.cancel()

    monkeypatch.setattr(Scattering, "_end", die)  # without handing anything back
    above, pipe, gate = _Sources(kind), Pipeline("items"), Gate()

    @pipe.scatter(dep(above.source, external=True), page_size=2, max_concurrent=2)
    async def items(no: int) -> int:
        if no % 100 >= 4:
            await gate()
        return no

    @items.gather
    async def total(results: Gathered[int]) -> list[int]:
        return sorted([no async for no in results])

    dying, living = (
        await open_engine(above.pipe, pipe, **RARELY),
        await open_engine(above.pipe, pipe, **RARELY, slots=0),
    )
    await living.run(above.source)
    run = await dying.submit(total)
    await kept(living, 4, asset="items")
    await gate.reached(2)
    above.version = 2
    await living.run(above.source, force=True)
    await kill(dying)
    gate.open()
    await look_for_orphans(living)
    found = await soon((await living.find(run.id)).result())
    if not _forgets(living):
        assert found == [100 + no for no in range(30)]
