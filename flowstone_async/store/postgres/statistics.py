"""What the tables hold and what weighs on them, for people."""

from __future__ import annotations

from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.records import Fault, PartitionSize, Statistics, TableSize


async def read_statistics(connections: Connections) -> Statistics:
    """Return what there is to tell; see `Store.statistics`."""
    async with connections.transaction() as session:
        # All runs are counted: by index that would take longer.
        await session.execute("SET LOCAL enable_seqscan = on; SET LOCAL plan_cache_mode = force_custom_plan")
        states = await session.fetch("runs_by_state")
        tables = await session.fetch("table_sizes")
        partitions = await session.fetch("partition_sizes")
        pressure = (await session.fetch("pressure"))[0]
    strays = await connections.fetch("stray_days")
    return Statistics(
        tables=tuple(TableSize(*row) for row in tables),
        partitions=tuple(PartitionSize(*row) for row in partitions),
        runs={state: count for state, count, _ in states},
        oldest_active=min((oldest for _, _, oldest in states if oldest is not None), default=None),
        astray=sum(count for _, count in strays),
        transaction_seconds=pressure["seconds"] or 0.0,
        transactions=pressure["transactions"],
        notifications=pressure["notifications"],
    )


async def stray_faults(connections: Connections) -> tuple[Fault, ...]:
    """Return the days whose events had no partition when they came; see `Store.faults`."""
    return tuple(
        Fault(
            f"{count} event rows of {day} are in event_default: their day had no partition when they came",
            f"SELECT flowstone.add_event_partition('{day}');",
        )
        for day, count in await connections.fetch("stray_days")
    )
