"""What the tables hold and what weighs on them, for people."""

from __future__ import annotations

from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.records import Fault, PartitionSize, Statistics, TableSize

LONG = 300.0
"""Seconds for which anybody may keep dead rows without being told of."""


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


async def held_faults(connections: Connections) -> tuple[Fault, ...]:
    """Return who keeps dead rows from being removed; see `Store.faults`."""
    return tuple(_held(*row) for row in await connections.fetch("held", LONG))


def _held(kind: str, name: str, who: str | None, seconds: float | None) -> Fault:
    quoted = "'" + name.replace("'", "''") + "'"
    if kind == "session":
        return Fault(
            f"process {name} of the server ({who}) has had a transaction open for {seconds:.0f} s: no row is removed "
            "that has died since",
            f"SELECT pg_terminate_backend({name});",
        )
    if kind == "prepared":
        return Fault(
            f"the prepared transaction {name!r} of {who} is {seconds:.0f} s old: no row is removed that has died since",
            f"ROLLBACK PREPARED {quoted};",
        )
    return Fault(
        f"the replication slot {name!r} keeps rows for a standby that is gone: none is removed that has died since",
        f"SELECT pg_drop_replication_slot({quoted});",
    )
