"""Limits for those who use them in an engine: a body, or whoever has the engine."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol
from weakref import ref

from flowstone_async._engine.observing import Observer, SessionObserver
from flowstone_async._engine.services import Services
from flowstone_async.limits.limits import Limits, limits_of
from flowstone_async.limits.line import Caller
from flowstone_async.planning.units import Unit


class Limited(Protocol):
    """What using limits in a body needs of the run it belongs to."""

    id: str
    services: Services
    bodies: dict[int, asyncio.Task[Any]]

    def pausing(self) -> AbstractContextManager[None]:
        """Mark the current task as waiting for nothing but time."""
        ...


def engine_limits(services: Services, observer: SessionObserver) -> Limits:
    """Return the limits of an engine, for whoever has it."""
    return limits_of(services.limits, Caller(tell=observer.tell))


def attempt_limits(run: Limited, unit: Unit, observer: Observer | None) -> Limits:
    """Return the limits of an engine, for one body."""
    asset = unit.node.name
    tell = None if observer is None else partial(observer.tell, asset=asset)
    pausing = partial(_pausing, ref(run), unit.place)
    return limits_of(run.services.limits, Caller(run_id=run.id, asset=asset, tell=tell, pausing=pausing))


def _pausing(of: ref[Limited], place: int) -> AbstractContextManager[None]:
    # Weak, since whoever keeps a context must not keep the run. A task of the body.s own is not the run.s to stop.
    run = of()
    if run is None or asyncio.current_task() is not run.bodies.get(place):
        return nullcontext()
    return run.pausing()
