"""One of several processes that compute the same assets again and again: `… chaos '{"store": …, "seed": …}'`.

Whatever happens to its engine it opens another, or lets this one come back, until the file `stop` is in its folder; then
it ends what it is at. Each call of a body is a line in `calls`, as those of chain.py, with the worker's id in place of the
process's: that under which the engine has its lease now, which is another one after each lease that was lost.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import random
import signal
import sys
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowstone_async import (
    Cancelled,
    Context,
    Engine,
    FlowstoneError,
    Keys,
    LeaseExpired,
    NothingToCancel,
    Pipeline,
    dep,
)
from flowstone_async._engine.session import Session
from tests.e2e.programs.chain import lost, written
from tests.e2e.programs.worker import sweep

KEYS = Keys(*(f"k{number:02}" for number in range(12)))
MOST_SECONDS = 0.1
LEAVING = 0.2
"""How likely an engine is left after an error; else it is to come back, under another id if it lost its lease."""


@dataclass
class Args:
    """A new round makes everything stale."""

    round: int = 0


pipe = Pipeline("chaos", params=Args)
pipe.on(LeaseExpired)(lost)
_random = random.Random()
_session: Session | None = None
"""Of the engine; kept also while that is being left, since bodies may begin until it is."""


@contextmanager
def _called(ctx: Context) -> Generator[None]:
    assert _session is not None
    with written(ctx, _session.services.worker or ""):
        yield


async def _take_time() -> None:
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(_random.uniform(0, MOST_SECONDS), passed.set)
    await passed.wait()


@pipe.asset(partitions=KEYS)
async def item(partition: str, params: Args, ctx: Context) -> dict[str, str]:
    with _called(ctx):
        await _take_time()
    return {"key": partition, "round": str(params.round), "salt": uuid.uuid4().hex}


@pipe.asset(partitions=KEYS)
async def cooked(item: dict[str, str], ctx: Context) -> dict[str, str]:
    with _called(ctx):
        await _take_time()
    return {**item, "cooked": item["salt"]}


@pipe.asset
async def table(by_key: Mapping[str, dict[str, str]] = dep(cooked, over=KEYS.all()), *, ctx: Context) -> dict[str, str]:
    with _called(ctx):
        await _take_time()
    return {key: value["cooked"] for key, value in by_key.items()}


async def main(*, seed: int, sweep: bool = False, **options: Any) -> None:
    if sweep:
        await _sweep(options)
        return
    global _session  # noqa: PLW0603 - bodies are called with nothing of ours
    _random.seed(seed)
    stop = Path("stop")
    while not stop.exists():
        try:
            async with Engine(pipe, **options) as engine:
                _session = engine._live()
                while not stop.exists():
                    await _work_on(engine)
        except FlowstoneError as error:
            _tell(error)


async def _work_on(engine: Engine) -> None:
    """Do one thing; an engine that has lost its lease, or its store for too long, is left or stayed in."""
    try:
        await _work(engine)
    except FlowstoneError as error:
        if _random.random() < LEAVING:
            raise
        _tell(error)
        await _take_time()


def _tell(error: FlowstoneError) -> None:
    logging.getLogger("chaos").warning("%s: %s", type(error).__name__, error.message)


async def _work(engine: Engine) -> None:
    params = Args(round=_random.randrange(1000))
    first, last = sorted(_random.choices(list(KEYS.whole()), k=2))
    match _random.randrange(8):
        case 0:
            await engine.run(table, params=params, timeout=False)
        case 1:
            await engine.run(cooked, partition=first, params=params, force="all", timeout=False)
        case 2:
            await _cancel(engine, first)
        case _:
            report = await engine.backfill(
                cooked, partitions=KEYS.range(first, last), params=params, parallel=4, timeout=False
            )
            for error in report.errors.values():
                if not isinstance(error, Cancelled):
                    raise error


async def _sweep(options: dict[str, Any]) -> None:
    """Continue what the dead have left, and end when every run has ended."""
    global _session  # noqa: PLW0603 - as above
    async with Engine(pipe, **options) as engine:
        _session = engine._live()
        await sweep(engine)


async def _cancel(engine: Engine, key: str) -> None:
    try:
        await engine.cancel(cooked, partition=key)
    except NothingToCancel:
        return


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s")
    asyncio.run(main(**json.loads(sys.argv[1])))
