"""What an attempt needs of the run that it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from flowstone_async._engine.ahead import Begun
from flowstone_async._engine.arguments import Values
from flowstone_async._engine.catalog import Catalog, Runnable
from flowstone_async._engine.observing import Observer
from flowstone_async._engine.request import Request
from flowstone_async._engine.services import Services
from flowstone_async._engine.waits.run_waits import RunWaits
from flowstone_async._engine.waits.seats import Seats
from flowstone_async._engine.waits.wait_journal import WaitJournal
from flowstone_async.errors import FlowstoneError
from flowstone_async.io.base import IOManager
from flowstone_async.planning.units import Unit
from flowstone_async.resources import ResourceScope
from flowstone_async.store.records import RunRecord
from flowstone_async.types import Materialization


class Running(Values, Protocol):
    """What an attempt needs of the run it belongs to."""

    id: str
    record: RunRecord
    request: Request
    services: Services
    resources: ResourceScope
    interrupted: bool
    bodies: dict[int, asyncio.Task[Any]]
    still: dict[int, Callable[[], bool]]
    cache_keys: dict[int, str]
    running: dict[int, tuple[int, float]]
    catalog: Catalog
    resumed: bool
    waits: RunWaits
    seats: Seats
    wait_journal: WaitJournal

    def lose(self) -> None:
        """The store refused something: somebody cancelled the run, or owns it now."""
        ...

    def enter(self, place: int) -> None:
        """Mark the current task as running user code, so that stopping the run cancels it."""
        ...

    def leave(self, place: int, error: BaseException | None) -> None:
        """Take the mark back; a cancellation that came from stopping the run is taken back too."""
        ...

    def scatter_begun(self, place: int, scatter: str) -> None:
        """Let units that follow a scatter begin, now that it is on record."""
        ...

    def followed(self, place: int) -> Begun | None:
        """Return the scatter that a unit follows, if that has begun and not ended."""
        ...

    def break_off(self, error: FlowstoneError) -> None:
        """Give the run up here because of an error that is no outcome of an asset."""
        ...

    def pausing(self) -> AbstractContextManager[None]:
        """Mark the current task as waiting for nothing but time."""
        ...

    def observe(self) -> Observer | None:
        """Return what tells hooks of one attempt; None if no hook listens."""
        ...

    def manager(self, runnable: Runnable) -> IOManager:
        """Return the I/O manager that holds an asset's values in this run."""
        ...

    async def discard(self, manager: IOManager, unit: Unit, made: Materialization) -> None:
        """Delete a value that was stored and will not be committed."""
        ...
