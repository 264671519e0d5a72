"""An engine with options of the test's choosing, which runs assets of chain.py: `… worker '{"store": …, "run": …}'`.

Prints one JSON object for each of the runs, in their order: its value, or its error. Options besides those of `Engine`:
`run`, a list of asset and key; `blind`: believe that the lease is held, whatever the clock and the server say; and
`planned`: wait at the test's gates when a run is planned and begun. If all goes well it stays until every run has ended,
also those that others have left.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any

from flowstone_async import Engine, FlowstoneError, RunStarted
from flowstone_async.cli.failure import code_of
from flowstone_async.store.postgres.lease import Lease
from tests.e2e.programs.chain import pause, pipe


async def main(*, run: list[tuple[str, str | None]], blind: bool = False, planned: bool = False, **options: Any) -> int:
    if blind:
        Lease.holds = lambda self: True
        Lease._end = lambda self: None
    if planned:
        pipe.on(RunStarted)(lambda _: pause("planned"))
    code = 0
    try:
        async with Engine(pipe, **options) as engine:
            runs = [_say(engine, asset, key) for asset, key in run]
            for ended in await asyncio.gather(*runs):
                code = code or ended
            if not code:
                await sweep(engine)
    except FlowstoneError as error:
        return _fail(error)
    return code


async def sweep(engine: Engine) -> None:
    """Wait until every run has ended, as those do that the dead have left: the engine continues them."""
    while left := await engine.runs(state="running"):
        for record in left:
            with suppress(FlowstoneError):
                await (await engine.find(record.id)).result()


async def _say(engine: Engine, asset: str, key: str | None) -> int:
    try:
        value = await engine.run(asset, partition=key)
    except FlowstoneError as error:
        return _fail(error)
    print(json.dumps({"value": value}))
    return 0


def _fail(error: FlowstoneError) -> int:
    said = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    print(json.dumps(said))
    return code_of(error, running=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(**json.loads(sys.argv[1]))))
