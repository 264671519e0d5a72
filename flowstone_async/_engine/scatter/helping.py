"""A worker of a scatter whose run is another's: it runs items, and leaves reading and closing to the run's owner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import anyio
from typing_extensions import override

from flowstone_async._engine.scatter.errors import no_longer_ours
from flowstone_async._engine.scatter.facts import ScatterFacts
from flowstone_async._engine.scatter.working import Working
from flowstone_async.errors import LeaseLost, ScatterThreshold
from flowstone_async.store.crews import Attendance


class Helping(Working):
    """Runs items of one scatter for as long as it goes on."""

    async def run(self) -> None:
        """Help until the scatter ends, or `stop`.

        Raises:
            FlowstoneError: The store cannot be reached, or something is wrong here.
        """
        self._unsure = True  # it may have helped before, and not been able to let go
        with suppress(LeaseLost, ScatterThreshold):  # it has ended: its owner tells
            await self._run()

    _facts: int | None = None
    """Stands for what was decided when it was last made sure that this worker fits."""
    _led = True
    """Whether the run's owner takes part. One that has just taken it over may go on with other code: until that is
    known nothing begins here, and what runs goes on."""

    let_go: Callable[[], None] = staticmethod(lambda: None)
    """Evicts bodies that do nothing but wait."""

    def stop(self) -> None:
        """Let go of all of it at once; bodies are cancelled."""
        self._finished.set()

    async def drain(self) -> None:
        """Begin no further item, and return once those that run have ended and are kept, or let go of."""
        bodies, self._draining = self._bodies, True
        if bodies is not None:
            bodies.limit(0)
            self.let_go()
            with anyio.move_on_after(self._services.settings.grace):
                await bodies.idle()
        self._finished.set()

    @override
    def _parts(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        return {"taker": self._take, "flusher": self._flush}

    @override
    def _permitted(self, attendance: Attendance) -> int | None:
        self._led = attendance.led
        return attendance.permits if self._led else 0

    @override
    async def _take_some(self) -> bool:
        return self._led and await super()._take_some()

    @override
    async def _noticed(self, attendance: Attendance) -> None:
        self._fence = attendance.fence
        if attendance.facts != self._facts and not await self._fits():
            await self.drain()
            return
        self._facts = attendance.facts
        idle = self._bodies is not None and not self._bodies.workers
        # It lets go of what would never begin here, and comes back once whoever took the run over takes part.
        if attendance.state != "running" or (idle and (not self._led or (self._permits == 0 and self._held))):
            raise no_longer_ours(self._name)
        if attendance.sealed and self.total is None:
            await self._count()

    async def _fits(self) -> bool:
        """Tell whether bodies are called with the same here as where the run's owner calls them, who may be another."""
        record = await self._store.scatter(self._id)
        if record is None:
            raise no_longer_ours(self._name)
        return ScatterFacts.read(record.facts).called == ScatterFacts.read(self._task.record.facts).called

    @override
    async def _check(self) -> None:
        failed, self._failed = self._failed, 0
        if failed and not self._ending:
            totals = await self._count()
            sealed = totals.sealed and (self._task.kind.batch is None or not totals.open)
            await self._judge(totals.failed, totals.total, sealed=sealed)
