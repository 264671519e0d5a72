"""Values inside a run: which manager holds them, loading them for a body, publishing and letting go after a commit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from flowstone_async._engine import managed
from flowstone_async._engine.ahead import AheadBoard
from flowstone_async._engine.catalog import Catalog, Runnable
from flowstone_async._engine.given_values import copied
from flowstone_async._engine.hooks import Hooks
from flowstone_async._engine.journal import Journal
from flowstone_async._engine.observing import Observer
from flowstone_async._engine.outcome import Settled
from flowstone_async._engine.request import Request
from flowstone_async._engine.run_params import Prints
from flowstone_async._engine.services import Services
from flowstone_async._engine.user_error import fresh, redacted
from flowstone_async.definition.compatibility import as_annotated, declared_type
from flowstone_async.definition.keys import decode_key
from flowstone_async.definition.kind import StreamKind
from flowstone_async.errors import FlowstoneError, ResourceUnavailable
from flowstone_async.events import Event, ResourceFailed
from flowstone_async.io.base import IOManager, ValueRef
from flowstone_async.planning.units import Unit, UnitInput, Units
from flowstone_async.redaction import Redactor
from flowstone_async.resources import ResourceScope
from flowstone_async.types import Materialization

_logger = logging.getLogger("flowstone")


class RunValues:
    """The values of one run, as its bodies get at them.

    Attributes:
        observed: Which observations its hooks want; asked once, when the run begins.
    """

    id: str
    catalog: Catalog
    request: Request
    services: Services
    prints: Prints
    units: Units
    board: AheadBoard
    journal: Journal
    hooks: Hooks
    observed: frozenset[type[Event]]
    held: list[object]

    @property
    def redactor(self) -> Redactor:
        """What hides secrets in what bodies log."""
        return self.services.redactor

    def hide(self, text: str) -> str:
        """Return a text without its secrets."""
        return self.services.redactor.text(text)

    def manager(self, runnable: Runnable) -> IOManager:
        """Return the I/O manager that holds an asset's values in this run."""
        return runnable.manager_for(self.request.io)

    def observe(self, *, outside: bool = False) -> Observer | None:
        """Return what tells hooks of one attempt, or of somebody who reads `outside` the run; None if no hook listens.

        Whoever asked for it waits until it was `heard`, but not before a commit.
        """
        if not self.observed:
            return None
        run_id = "" if outside else self.id
        return Observer(self.services, self.hooks, self.observed, pipeline=self.request.pipeline, run_id=run_id)

    def settled(self, index: int) -> tuple[Unit, Settled]:
        """Return how a unit ended."""
        settled = self.board.settled[index]
        return self.units.all[index], Settled("missing") if settled is None else settled

    def external(self, edge: UnitInput) -> Materialization | None:
        """Return another pipeline's current value."""
        return None if edge.external is None else self.board.current.get(edge.external)

    async def load(self, unit: Unit, settled: Settled, wanted: object) -> Any:
        """Return a unit's value, as a copy of the caller's own."""
        made = settled.materialization
        assert made is not None  # noqa: S101 - only units with a value are loaded
        if made.id in self.services.given:
            return copied(self.services.given[made.id])
        runnable = self.catalog.runnable(unit.node)
        ref = value_ref(made, runnable, unit.partition, settled.payload)
        return as_annotated(await managed.load(self.manager(runnable), ref, wanted, self.hide), wanted)

    async def load_external(self, edge: UnitInput, current: Materialization, wanted: object) -> Any:
        """Return another pipeline's current value, as a copy of the caller's own."""
        outer = edge.binding.external
        assert outer is not None  # noqa: S101 - only external edges are asked for
        manager = self.catalog.manager_of(outer, self.request.io)
        ref = ValueRef(
            key=current.key,
            partition=decode_key(current.key.partition),
            materialization=current.id,
            run_id=current.run_id,
            type=declared_type(outer),
            stream=isinstance(outer.kind, StreamKind),
            location=current.location,
            checksum=current.checksum,
            names=outer.scope.names,
        )
        loaded = await managed.load(manager, ref, wanted, self.hide)
        return as_annotated(loaded, wanted)

    def hold_current(self) -> None:
        """Hold the stored values that the run may read."""
        for unit in self.units.all:
            made = self.board.current.get(unit.key)
            if made is not None:
                self.hold(self.manager(self.catalog.runnable(unit.node)), made)

    def hold(self, manager: IOManager, made: Materialization) -> None:
        """Keep a value loadable for this run: on a memory store it goes as soon as another run supersedes it."""
        pin = getattr(manager, "pin", None)
        if pin is not None and not self.services.store.durable:
            self.held.append(pin(made.id))

    async def resource(self, name: str, scope: ResourceScope) -> Any:
        """Return an open resource; one that cannot be opened is noted."""
        try:
            return await scope.get(name, self.catalog.graph.resources)
        except ResourceUnavailable as error:
            failed = str(error.details.get("resource", name))
            told = redacted(fresh(error), self.services.redactor)
            self.journal.add(ResourceFailed, self.services.store.now(), {"resource": failed}, told)
            raise

    async def discard(self, manager: IOManager, unit: Unit, made: Materialization) -> None:
        """Delete a value that was stored and is on no record.

        One whose commit was refused may have been committed before that: the reply got lost, and then the lease. What a
        scatter has belongs to its run: whoever continues that goes on with it.
        """
        if unit.node.scatter is not None:
            return
        try:
            if made.id in await self.services.store.recorded((made.id,)):
                return
            await managed.delete(manager, value_ref(made, self.catalog.runnable(unit.node), unit.partition), self.hide)
        except FlowstoneError as error:
            _logger.warning("a value of %s that is not committed could not be deleted: %s", unit.key, error.message)

    async def after_commit(
        self, manager: IOManager, unit: Unit, made: Materialization, superseded: Sequence[Materialization]
    ) -> None:
        """Show what is current now where a manager publishes, and on a memory store let go of what was before."""
        runnable = self.catalog.runnable(unit.node)
        try:
            if hasattr(manager, "publish"):
                await managed.publish(manager, value_ref(made, runnable, unit.partition), self.hide)
            if not self.services.store.durable:
                for old in superseded:
                    if old.key == unit.key:
                        await managed.delete(manager, value_ref(old, runnable, unit.partition), self.hide)
        except FlowstoneError as error:
            _logger.warning("%s is committed, but %s", unit.key, error.message)


def value_ref(made: Materialization, runnable: Runnable, partition: object, payload: bytes | None = None) -> ValueRef:
    """Return where a materialization's value is."""
    return ValueRef(
        key=made.key,
        partition=partition,
        materialization=made.id,
        run_id=made.run_id,
        type=runnable.node.value_type,
        stream=runnable.stream,
        names=runnable.node.definition.scope.names,
        location=made.location,
        checksum=made.checksum,
        payload=payload,
    )
