"""Giving an asset another name: its keys, its history, and what others say they were computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from flowstone_async.store.postgres import encoding
from flowstone_async.store.postgres.connections import Connections, Session
from flowstone_async.types import AssetKey, Input

# `rewrite_inputs` looks each id up in a list of this length.
_AT_ONCE = 200
# A million keys are moved in one transaction.
_PATIENCE = 600.0


async def rename(connections: Connections, pipeline: str, old: str, new: str) -> int:
    """Carry an asset over to another name; see `Store.rename`."""
    async with connections.transaction() as session:
        session.patience = _PATIENCE
        await session.fetch("lock_renames")
        rows = await session.fetch("renamable", pipeline, old, new)
        if rows:
            columns = [row[0] for row in rows], [row[1] for row in rows]
            await session.fetch("move_keys", pipeline, old, new, *columns)
            await session.fetch("move_materializations", pipeline, old, new, *columns)
            dependants = {row[0] for row in await session.fetch("move_lineage", pipeline, old, new, *columns)}
            mention = encoding.encode([pipeline, old])[:-1]
            dependants.update(row[0] for row in await session.fetch("mentions", pipeline, mention))
            moved = {
                AssetKey(pipeline, old, partition, io): AssetKey(pipeline, new, partition, io) for io, partition in rows
            }
            await _rewrite(session, sorted(dependants), moved)
    return len(rows)


async def _rewrite(session: Session, dependants: Sequence[UUID], moved: Mapping[AssetKey, AssetKey]) -> None:
    for start in range(0, len(dependants), _AT_ONCE):
        rows = await session.fetch("inputs", dependants[start : start + _AT_ONCE])
        changed = [(made, text) for made, before in rows if (text := _followed(before, moved)) != before]
        if changed:
            await session.fetch("rewrite_inputs", *zip(*changed, strict=True))


def _followed(text: str, moved: Mapping[AssetKey, AssetKey]) -> str:
    return encoding.encode([_follow(source, moved) for source in encoding.inputs(text)])


def _follow(source: Input, moved: Mapping[AssetKey, AssetKey]) -> Input:
    return source if source.key is None else source._replace(key=moved.get(source.key, source.key))
