"""Whether all of a body waits (STEP-07): what has not taken its first step is work."""

from __future__ import annotations

import asyncio
from typing import Any

from flowstone_async._engine.waits.quiet import is_quiet
from flowstone_async.mapped.work import Work


class Works:
    """Starts nothing."""

    def begin(self, work: Work) -> None: ...

    def ended(self, work: Work) -> None: ...

    def soon(self, callback: Any) -> None: ...


async def test_calls_that_are_about_to_begin_are_work() -> None:
    works: Any = Works()
    calls: Any = None
    work = Work(works, calls, [1], 1)
    assert work.tasks == ()
    loop = asyncio.create_task(work.next())
    await asyncio.sleep(0)
    [begins] = work.tasks
    assert not begins.done()
    assert not is_quiet(begins, lambda _: True)
    assert not is_quiet(loop, lambda _: False)
    loop.cancel()
    work.done.set()
    await asyncio.wait([loop])
    assert work.tasks == ()
