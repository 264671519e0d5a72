"""STEP-09 under fire: waits beside each other end in any order, and whoever goes on decides as those before it did."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import pytest

from flowstone_async import Context, Engine, Pipeline
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import SharedEngines
from tests.support.gate import soon
from tests.support.waits import opened, send

NAMES = ("a", "b", "c")
ORDERS = tuple(permutations(NAMES))
OPTIONS: Any = {"secret": b"s" * 32, "poll": "20ms", "slots": 0}
TRIALS = [pytest.param(2, id="some"), pytest.param(60, id="many", marks=pytest.mark.faults)]


@dataclass
class Decided:
    """What a body decided, by its own account, each time that it was called.

    Attributes:
        decisions: By gate: what had ended before, as the step found that made the decision.
        seen: The order in which each call of the body saw ends.
    """

    gates: dict[str, str] = field(default_factory=dict)
    decisions: dict[str, list[str]] = field(default_factory=dict)
    seen: list[list[str]] = field(default_factory=list)

    def pipeline(self) -> Pipeline:
        pipe = Pipeline("order")

        async def decide(name: str, before: list[str]) -> str:
            assert name not in self.decisions, "decided twice"
            self.decisions[name] = before
            return f"{name} after {'+'.join(before)}"

        @pipe.asset
        async def job(ctx: Context) -> list[str]:
            order: list[str] = []
            self.seen.append(order)

            async def branch(name: str) -> str:
                gate = ctx.signal(str, name=name)
                self.gates[name] = gate.id
                answer = await gate
                before, _ = list(order), order.append(name)
                # Other arguments than on record would be a ReplayMismatch.
                return f"{await ctx.step.using(key=name)(decide, name, before)}: {answer}"

            return list(await asyncio.gather(*(branch(name) for name in NAMES)))

        return pipe


async def _decided(decided: Decided, name: str, engine: Engine, run_id: str) -> None:
    """Return once a decision is on record."""
    store = engine._live().store

    async def on_record() -> None:
        [body] = {each.gate.body for each in await store.gates.of_run(run_id) if each.gate.name == name}
        while name not in decided.decisions or len(decided.decisions) > sum(
            each.kind == "step" for each in await store.steps.recorded(run_id, body)
        ):
            await asyncio.sleep(0)

    await soon(on_record())


@pytest.mark.parametrize("ends", ["killed", "evicted"])
@pytest.mark.parametrize("trials", TRIALS)
async def test_whoever_goes_on_decides_as_those_before_it_did(engines: SharedEngines, trials: int, ends: str):
    """STEP-09: three waits end in a random order, several at once or not; its worker is killed in between."""
    for seed in range(trials):
        chance = random.Random(f"{seed} {ends}")
        await _one(engines, list(chance.choice(ORDERS)), chance, killed=ends == "killed")


async def _one(engines: SharedEngines, order: list[str], chance: random.Random, *, killed: bool) -> None:
    decided = Decided()
    pipe = decided.pipeline()
    options = {**OPTIONS, "park_after": False if killed else 0}
    engine = await engines.open(pipe, **{**options, "slots": 10})
    run = await engine.submit("job", force=True)
    while order:
        while len(decided.gates) < len(NAMES):
            await asyncio.sleep(0)
        for gate in decided.gates.values():
            await opened(engine, gate)
        together = [order.pop(0) for _ in range(chance.randint(1, min(2, len(order))))]
        for name in together:
            await send(engine, decided.gates[name], str, f"answer {name}")
        for name in together:
            await _decided(decided, name, engine, run.id)
        if order and killed and chance.random() < 0.8:
            await kill(engine)
            await engine.__aexit__(None, None, None)  # its connections
            engine = await engines.open(pipe, **{**options, "slots": 10})
            await look_for_orphans(engine)
    value = await soon((await engine.find(run.id)).result())
    await engine.__aexit__(None, None, None)

    last = decided.seen[-1]
    assert sorted(last) == list(NAMES)
    for name, before in decided.decisions.items():
        assert before == last[: last.index(name)]
    for each in decided.seen:
        assert each == last[: len(each)]
    assert value == [f"{name} after {'+'.join(decided.decisions[name])}: answer {name}" for name in NAMES]
