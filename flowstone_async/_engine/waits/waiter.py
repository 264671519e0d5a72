"""What the waits of a run need of the run."""

from __future__ import annotations

from typing import Protocol

from anyio.abc import TaskGroup

from flowstone_async._engine.services import Services
from flowstone_async.errors import FlowstoneError
from flowstone_async.store.records import RunRecord


class Waiter(Protocol):
    """The run that waits."""

    id: str
    record: RunRecord
    services: Services
    group: TaskGroup | None

    def lose(self) -> None:
        """The store refused something: somebody cancelled the run, or owns it now."""
        ...

    def break_off(self, error: FlowstoneError) -> None:
        """Give the run up here because of an error that is no outcome of an asset."""
        ...

    def consider(self) -> None:
        """Look whether the run can be suspended, or a body be evicted."""
        ...

    def go_on(self) -> None:
        """Something of the run does more than wait."""
        ...
