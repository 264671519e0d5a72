"""Uses limits until it is told to end: `… limiter '{"store": …, "out": …, "rate": [n, per, burst] | "slots": n, …}'`.

Writes a line for each use to the file `out`: for a rate the instants before and after a permit was used, for a slot
`+ <id> <instant>` once it is held and `- <id> <instant>` before it is freed, `! <id>` while it is held for good. All
instants are of the clock that the processes of a machine share. It ends when a file called `end` is in its folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from flowstone_async import Engine, Pipeline, Rate, RateLimited, SlotTimeout
from flowstone_async.limits.stock import Stock

_END = Path("end")


async def main(
    *, out: str, rate: list[Any] | None = None, slots: int = 0, tasks: int = 8, keep: bool = False, **options: Any
) -> None:
    file = Path(out).open("a", buffering=1)  # noqa: ASYNC230, SIM115 - until the process ends
    async with Engine(Pipeline("limiter"), slots=0, **options) as engine, asyncio.TaskGroup() as group:
        for number in range(tasks):
            if rate is not None:
                limit = Rate(rate[0], per=rate[1], burst=rate[2])
                group.create_task(_permits(engine, limit))
            else:
                group.create_task(_slots(engine, slots, file, keep=keep and number == 0))
        if rate is not None:
            _record(file)


def _record(file: Any) -> None:
    """Write down between which instants each permit was used."""
    draw = Stock.draw

    def recorded(stock: Stock) -> Any:
        before = time.monotonic()
        drawn = draw(stock)
        if drawn == "drawn":
            file.write(f"{before!r} {time.monotonic()!r}\n")
        return drawn

    Stock.draw = recorded  # pyright: ignore[reportAttributeAccessIssue] - records, then draws


async def _permits(engine: Engine, rate: Rate) -> None:
    while not _END.exists():
        with suppress(RateLimited):
            await engine.limits.with_limit("shared", rate, lambda: None, max_wait="5s")


async def _slots(engine: Engine, n: int, file: Any, *, keep: bool) -> None:
    number = 0
    while not _END.exists():
        with suppress(SlotTimeout):
            async with engine.limits.slots("shared", n, max_wait="2s"):
                number += 1
                name = f"{os.getpid()}.{id(asyncio.current_task())}.{number}"
                file.write(f"+ {name} {time.monotonic()!r}\n")
                if keep:
                    file.write(f"! {name}\n")
                    await asyncio.Event().wait()
                for _ in range(50):
                    await asyncio.sleep(0)
                file.write(f"- {name} {time.monotonic()!r}\n")


if __name__ == "__main__":
    sys.exit(asyncio.run(main(**json.loads(sys.argv[1]))))
