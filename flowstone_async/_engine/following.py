"""Reading the events of all runs, live."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from dataclasses import replace
from typing import cast

from flowstone_async._engine.journal import event_of
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target, find
from flowstone_async.config import whole
from flowstone_async.errors import ConfigError
from flowstone_async.events import JOURNALED, AssetEvent, Event

_LAST = 2**63 - 1
"""No cursor lies behind it."""


def follow(
    session: Session, *, asset: Target | None, pipeline: str | None, types: object, after: int
) -> AsyncGenerator[Event]:
    """Check what is asked for, and return its events in order, without end.

    Raises:
        AssetNotFound: There is no such asset.
        ConfigError: There is no such pipeline, no such event type, or it is one that is stored nowhere.
    """
    kinds = _kinds(types)
    whole(after, what="after", least=0)
    pipelines: tuple[str, ...] = tuple(session.catalogs)
    if pipeline is not None:
        if not isinstance(pipeline, str) or pipeline not in session.catalogs:
            raise ConfigError(f"this engine has no pipeline {pipeline!r}", hint=f"It has: {', '.join(pipelines)}.")
        pipelines = (pipeline,)
    name = None
    if asset is not None:
        catalog, name = find({each: session.catalogs[each] for each in pipelines}, asset)
        pipelines = (catalog.graph.pipeline,)
    return _read(session, pipelines, name, kinds, min(after, _LAST))


def _kinds(types: object) -> tuple[type[Event], ...]:
    several = cast("tuple[object, ...]", types) if isinstance(types, tuple) else (types,)
    given: tuple[object, ...] = (Event,) if types is None else several
    kinds = tuple(each for each in given if isinstance(each, type) and issubclass(each, Event))
    if len(kinds) < len(given):
        raise ConfigError(f"types={types!r}", hint="Give an event type, such as RunFailed, or a tuple of them.")
    for kind in kinds:
        if not any(issubclass(each, kind) for each in JOURNALED):
            raise ConfigError(
                f"types={kind.__name__}: such events are told to hooks only, and stored nowhere",
                hint=f"Register a hook: @engine.on({kind.__name__}).",
            )
    return kinds


async def _read(
    session: Session, pipelines: Collection[str], asset: str | None, kinds: tuple[type[Event], ...], after: int
) -> AsyncGenerator[Event]:
    services = session.services
    while True:
        page = await services.store.all_events(pipelines=tuple(pipelines), after=after)
        for stored in page:
            after = stored.cursor
            event = event_of(stored.pipeline, stored.run_id, stored.event)
            wanted = asset is None or (isinstance(event, AssetEvent) and event.asset == asset)
            if wanted and isinstance(event, kinds):
                yield replace(event, cursor=after)
        if not page:
            await session.changed("events", within=services.settings.poll)
