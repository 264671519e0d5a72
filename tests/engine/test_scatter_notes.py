"""What bodies of a scatter note and look at reaches the record, wherever they ran (CACHE-08, FLOW-03)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from flowstone_async import Context, Engine, LeaseLost, Pipeline, StorageError
from flowstone_async.types import AssetKey, Materialization
from tests.engine.test_scatter_resume import RARELY, kept
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon


@dataclass(frozen=True)
class Args:
    limit: int = 1


def _pipeline(gate: Gate) -> Pipeline:
    pipe = Pipeline("noting", params=Args)

    @pipe.scatter(range(4), page_size=1, max_concurrent=4)
    async def items(no: int, ctx: Context) -> int:
        if not no:
            ctx.metadata(first="noted", last=0)
            return ctx.params.limit
        await gate()
        ctx.metadata(last=no)
        return no

    return pipe


async def made(engine: Engine) -> Materialization:
    """Return the current value of the scatter."""
    key = AssetKey("noting", "items", "", "")
    [(_, state)] = (await engine._live().store.states([key])).items()
    assert state.current is not None
    return state.current


def check(value: Materialization, *last: int) -> None:
    assert value.metadata["first"] == "noted"
    assert value.metadata["last"] in last
    assert [each.name for each in value.inputs if each.kind == "param"] == ["*"]


async def test_what_was_noted_before_a_crash_is_in_the_record(open_engine: OpenEngine):
    """CACHE-08: params that an item looked at are an input, although its worker has died."""
    gate = Gate()
    pipe = _pipeline(gate)
    dying, living = await open_engine(pipe, **RARELY), await open_engine(pipe, **RARELY, slots=0)
    running = asyncio.create_task(dying.run("items"))
    await kept(living, 1)
    await gate.reached()
    await kill(dying)
    with pytest.raises(LeaseLost):
        await soon(running)
    gate.open()
    await look_for_orphans(living)
    await soon(living.wait("items"))
    check(await made(living), 1, 2, 3)


@pytest.mark.parametrize("strict", [False, True])
async def test_a_note_that_cannot_be_stored_is_told(open_engine: OpenEngine, strict: bool):
    pipe = Pipeline("noting")

    @pipe.scatter(range(3))
    async def items(no: int, ctx: Context) -> int:
        ctx.metadata(**{f"n{no}": object() if no == 1 else no})
        return no

    engine = await open_engine(pipe, strict_metadata=strict)
    if strict:
        with pytest.raises(StorageError, match="metadata of asset 'items' cannot be stored"):
            await engine.run("items")
    else:
        await engine.run("items")
        assert (await made(engine)).metadata == {}
