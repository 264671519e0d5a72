"""Assets that changed their names, and assets that the store knows and the code does not."""

from __future__ import annotations

from flowstone_async._engine.session import Session


async def rename_assets(session: Session) -> None:
    """Carry values, history and freshness of renamed assets over; done once, harmless when repeated."""
    for pipeline, catalog in session.catalogs.items():
        renamed = {n: node.definition for n, node in catalog.graph.nodes.items() if node.definition.renamed_from}
        if not renamed:
            continue
        stored = await session.services.store.stored_assets(pipeline)
        for name, definition in renamed.items():
            old = f"{definition.prefix}{definition.renamed_from}"
            if old in stored:
                await session.services.store.rename(pipeline, old, name)


async def orphans(session: Session) -> dict[str, dict[str, int]]:
    """Return, by pipeline, the assets that are stored but no longer defined, with their number of values."""
    found: dict[str, dict[str, int]] = {}
    for pipeline, catalog in session.catalogs.items():
        stored = await session.services.store.stored_assets(pipeline)
        left = {name: count for name, count in stored.items() if name not in catalog.graph.nodes}
        if left:
            found[pipeline] = left
    return found
