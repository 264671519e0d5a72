"""What durable calls know of the body that makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID, uuid5

from flowstone_async._engine.services import Services
from flowstone_async._engine.waits.parked import Waits
from flowstone_async._engine.waits.run_waits import RunWaits
from flowstone_async._engine.waits.seats import Seats
from flowstone_async._engine.waits.wait_journal import WaitJournal
from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.asset import Scope as Names
from flowstone_async.definition.binding import Binding
from flowstone_async.errors import FlowstoneError
from flowstone_async.planning.units import Unit
from flowstone_async.store.records import RunRecord
from flowstone_async.types import AssetKey


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyFacts:
    """What durable calls need to know of their body.

    Attributes:
        id: What the records of the asset's body lie under; those of its items under ids that are made of it.
        waits: Those of the run.
        seats: Where its bodies have their places.
        bindings: What the asset's body takes.
        park_after: Seconds that a body waits in memory; None for ever.
        failing: Makes of what a step raised, and of the step's name, the error of the asset.
        journal: Takes what the body tells.
        lost: Told that the run is not ours any more.
        away: Told that the store is away.
    """

    run_id: str
    fence: int
    id: str
    key: AssetKey
    definition: AssetDefinition
    waits: Waits
    seats: Seats
    bindings: tuple[Binding, ...]
    park_after: float | None
    failing: Callable[[BaseException, str], FlowstoneError]
    journal: WaitJournal
    lost: Callable[[], None]
    away: Callable[[FlowstoneError], None]

    @property
    def asset(self) -> str:
        """Name of the asset."""
        return self.key.asset

    @property
    def names(self) -> Names:
        """Names local to where the asset was defined, for annotations."""
        return self.definition.scope


def body_id(run_id: str, asset: str, io: str, partition: str, item: str | None = None) -> str:
    """Return what the records of a body lie under. It outlives any version of this library: it never changes."""
    of_item = "" if item is None else f"\0{item}"
    return str(uuid5(UUID(run_id), f"{asset}\0{io}\0{partition}{of_item}\0steps"))


class Recorded(Protocol):
    """What the durable calls of a body need of the run it belongs to."""

    id: str
    record: RunRecord
    services: Services
    resumed: bool
    waits: RunWaits
    seats: Seats
    wait_journal: WaitJournal

    def lose(self) -> None:
        """The store refused something: somebody cancelled the run, or owns it now."""
        ...

    def break_off(self, error: FlowstoneError) -> None:
        """Give the run up here because of an error that is no outcome of an asset."""
        ...


def body_facts(
    run: Recorded, unit: Unit, failing: Callable[[BaseException, str], FlowstoneError], park_after: float | None
) -> BodyFacts:
    """Return the facts of an asset's body."""
    key = unit.key
    return BodyFacts(
        run_id=run.id,
        fence=run.record.fence,
        id=body_id(run.id, key.asset, key.io, key.partition),
        key=key,
        definition=unit.node.definition,
        waits=run.waits,
        seats=run.seats,
        bindings=unit.node.bindings,
        park_after=park_after,
        failing=failing,
        journal=run.wait_journal,
        lost=run.lose,
        away=run.break_off,
    )
