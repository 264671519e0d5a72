"""What is stored: listings of keys, durations, lineage, and taking values away."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b

from flowstone_async.store.postgres import encoding
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.hints import Hints
from flowstone_async.store.postgres.identifiers import ids, is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.ownership import write_audit
from flowstone_async.store.postgres.rows import asset_state, materialization
from flowstone_async.store.records import AssetState, AuditEntry, Removed
from flowstone_async.types import AssetKey, Materialization

_IDENTITY_BYTES = 8


class Catalog:
    """Looks at what is stored, and takes it away.

    Args:
        connections: To the server.
        instants: The store's clock.
        hints: Who waits for what changes.
    """

    def __init__(self, connections: Connections, instants: Instants, hints: Hints) -> None:
        self._connections = connections
        self._instants = instants
        self._hints = hints

    async def keys(
        self, pipeline: str, asset: str, io: str, *, limit: int, after: str | None
    ) -> tuple[AssetState, ...]:
        """Return states of an asset's partitions, in order; see `Store.keys`."""
        rows = await self._connections.fetch("keys", pipeline, asset, io, after or "", after, limit)
        return tuple(map(asset_state, rows))

    async def stored_assets(self, pipeline: str) -> Mapping[str, int]:
        """Return the number of current values of each asset."""
        return {row[0]: row[1] for row in await self._connections.fetch("stored_assets", pipeline)}

    async def identity(self) -> str | None:
        """Return what no other database has, nor a copy of this one; None if the server does not tell."""
        if not (await self._connections.fetch("may_identify"))[0][0]:
            return None
        facts: str = (await self._connections.fetch("identity"))[0][0]
        return blake2b(facts.encode(), digest_size=_IDENTITY_BYTES).hexdigest()

    async def recorded(self, materializations: Collection[str]) -> frozenset[str]:
        """Return those of some materializations that are on record."""
        known = ids(materializations)
        rows = await self._connections.fetch("recorded", known) if known else []
        return frozenset(str(row[0]) for row in rows)

    async def materializations(self, wanted: Collection[str]) -> Mapping[str, Materialization]:
        """Return those of some materializations that are on record, by id."""
        known = ids(wanted)
        rows = await self._connections.fetch("materializations", known) if known else []
        return {str(row[0]): materialization(row) for row in rows}

    async def durations(self, pipeline: str, assets: Sequence[str]) -> Mapping[str, float]:
        """Return the median seconds of each asset's last computations."""
        names = list(dict.fromkeys(assets))
        return {row[0]: row[1] for row in await self._connections.fetch("durations", pipeline, names)}

    async def upstream(self, made: str) -> tuple[tuple[AssetKey, str], ...]:
        """Return the direct inputs of a materialization, each once."""
        rows = await self._connections.fetch("upstream", made) if is_id(made) else []
        return tuple(
            dict.fromkeys(
                (source.key, source.materialization)
                for row in rows
                for source in encoding.inputs(row[0])
                if source.key is not None and source.materialization is not None
            )
        )

    async def invalidate(
        self, keys: Collection[AssetKey], *, cascade: bool, audit: Sequence[AuditEntry]
    ) -> tuple[Removed, ...]:
        """Take current materializations away; see `Store.invalidate`."""
        names: list[AssetKey] = list(dict.fromkeys(keys))
        async with self._connections.transaction() as session:
            if names and cascade:
                names = [AssetKey(*row) for row in await session.fetch("dependants", *_columns(names))]
            rows = await session.fetch("lock_keys", *_columns(names)) if names else []
            removed: list[Removed] = []
            if rows:
                current = [row[4] for row in rows]
                made = {row[0]: materialization(row) for row in await session.fetch("materializations", current)}
                removed = [Removed(AssetKey(*row[:4]), made[row[4]]) for row in rows]
                columns = _columns([one.key for one in removed])
                await session.fetch("clear_current", *columns, current, self._instants.given())
            await write_audit(session, audit, self._instants.given())
        self._hints.taken_away(one.key for one in removed)
        return tuple(removed)


def _columns(keys: Sequence[AssetKey]) -> Sequence[Sequence[object]]:
    return list(zip(*keys, strict=True))
