"""The scatters of a run, found by asset and partition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target, find
from flowstone_async.definition.keys import encode_key
from flowstone_async.errors import ConfigError
from flowstone_async.store.records import RunRecord
from flowstone_async.store.scatters import ScatterRecord
from flowstone_async.types import AssetKey


async def find_scatters(
    session: Session, run: RunRecord, target: Target, partition: object
) -> tuple[str, Sequence[ScatterRecord]]:
    """Return the name of an asset, and the scatters of it that a run has begun.

    Args:
        session: Of the engine.
        run: The run.
        target: The asset, by handle or name.
        partition: Only of this key; None for all that the run has.

    Raises:
        AssetNotFound: There is no such asset.
        ConfigError: It is no scatter, or the run has none of it.
    """
    catalog, name = find(session.catalogs, target)
    if catalog.node(name).scatter is None:
        raise ConfigError(
            f"asset {name!r} is no scatter", asset=name, hint="Only an asset made with @pipe.scatter has items."
        )
    key: Any = partition
    encoded = None if partition is None else encode_key(key)
    found = [
        each
        for each in await session.store.scatters.of_run(run.id)
        if each.key.asset == name
        and each.key.pipeline == catalog.graph.pipeline
        and encoded in (None, each.key.partition)
    ]
    if not found:
        raise await _none(session, run, AssetKey(run.pipeline, name, run.partition if encoded is None else encoded))
    return name, found


async def only_scatter(session: Session, run: RunRecord, target: Target, partition: object) -> ScatterRecord:
    """Return the one scatter of an asset that a run has begun; raises as `find_scatters`, and if there are several."""
    name, found = await find_scatters(session, run, target, partition)
    if len(found) > 1:
        raise ConfigError(
            f"run {run.id} has scatters of {name!r} for {len(found)} partitions",
            asset=name,
            run_id=run.id,
            hint="Say of which: partition=...",
        )
    return found[0]


async def _none(session: Session, run: RunRecord, key: AssetKey) -> ConfigError:
    states = await session.store.states([key])
    current = states[key].current if key in states else None
    other = None if current is None or current.run_id == run.id else current.run_id
    return ConfigError(
        f"run {run.id} has no items of {key.asset!r} on record",
        asset=key.asset,
        run_id=run.id,
        hint="It did not come to them, or they were deleted." if other is None else f"Run {other} computed its value.",
    )
