"""Values that no record names, wherever the managers of an engine keep values: finding them, having them deleted."""

from __future__ import annotations

import logging

from flowstone_async._engine.session import Session
from flowstone_async.io.base import IOManager, Sweeping

UNREFERENCED = 86_400.0
"""Seconds from a value's writing within which its record is waited for."""

SWEEP_EVERY = 86_400.0

_logger = logging.getLogger("flowstone")


def sweepers(session: Session) -> dict[str, Sweeping]:
    """Return the managers of a session that can be swept, by the name of their place."""
    managers: dict[int, IOManager] = {}
    for catalog in session.catalogs.values():
        given = [node.definition.io for node in catalog.graph.nodes.values()]
        used = map(catalog.managers.find, {id(each): each for each in given}.values())
        managers |= {id(each): each for each in (*used, catalog.managers.default, *catalog.managers.named.values())}
    return {each.name: each for each in managers.values() if isinstance(each, Sweeping)}


async def sweep(session: Session) -> None:
    """Delete what is a day old and no record names: whoever wrote it died before the commit."""
    for name, manager in sweepers(session).items():
        if await manager.is_due(SWEEP_EVERY):
            swept = await manager.sweep(session.services.store.recorded, older_than=UNREFERENCED)
            if swept.number:
                _logger.info("%d values of %d bytes that no record names were deleted from %s", *swept, name)
