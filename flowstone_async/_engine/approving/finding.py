"""Which request is meant: by its id, or by the asset that asks."""

from __future__ import annotations

from uuid import UUID

from flowstone_async._engine.approving.requests import request_of
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target, find
from flowstone_async.approval_errors import NothingPending
from flowstone_async.definition.keys import decode_key, encode_key
from flowstone_async.errors import ConfigError, GateNotFound
from flowstone_async.planning.units import partition_for
from flowstone_async.store.gates import StoredGate
from flowstone_async.types import AssetKey

_LISTED, _RUNS = 20, 50


async def request(session: Session, given: object) -> StoredGate:
    """Return a request, in whatever state it is.

    Raises:
        GateNotFound: There is none of this id.
        ConfigError: It is no text.
    """
    if not isinstance(given, str):
        raise ConfigError(f"{given!r} is no id of a request", hint="engine.approvals.pending() lists those there are.")
    found = (await session.services.store.gates.read([given])).get(given)
    if found is None or found.gate.kind != "approval":
        raise GateNotFound(
            f"no request for approval {given[:100]!r} in this store",
            hint="engine.approvals.pending() lists those that wait for somebody.",
        )
    return found


async def to_decide(session: Session, target: Target, partition: object) -> StoredGate:
    """Return the one request that a target means: the pending one, else the newest.

    Raises:
        NothingPending: Nothing is, or was.
        ConfigError: Several are; they are listed.
        AssetNotFound: There is no such asset.
        GateNotFound: There is no request of this id.
    """
    if isinstance(target, str) and _is_id(target):
        found = await request(session, target)
        if partition is not None and decode_key(found.gate.asset.partition) != partition:
            raise ConfigError(f"request {target} is not of partition {partition!r}", hint="Leave out partition=.")
        return found
    catalog, name = find(session.catalogs, target)
    pipeline = catalog.graph.pipeline
    encoded = None
    if partition is not None:
        encoded = encode_key(partition_for(catalog.node(name), partition))  # raises for what is no key of the asset
    gates = session.services.store.gates
    pending = await gates.waiting((pipeline,), ("approval",), asset=name, limit=_LISTED * 50)
    mine = [each for each in pending if encoded is None or each.gate.asset.partition == encoded]
    if len(mine) == 1:
        return mine[0]
    if mine:
        raise _several(name, mine)
    newest = await _newest(session, pipeline, name, encoded)
    if newest is None:
        where = "" if partition is None else f" for partition {partition}"
        raise NothingPending(
            f"asset {name!r}{where} asks nobody for anything",
            asset=name,
            partition=partition,
            hint="Run it first; engine.approvals.pending() lists what waits for somebody.",
        )
    return newest


async def _newest(session: Session, pipeline: str, name: str, partition: str | None) -> StoredGate | None:
    """Return the newest request of an asset that has ended: deciding it again may be a repetition."""
    store = session.services.store
    known: dict[str, None] = {}
    if partition is None or partition == "":
        states = await store.states([AssetKey(pipeline, name, partition or "")])
        known = {each.run_id: None for each in states.values() if each.run_id is not None}
    for record in await store.runs(pipelines=(pipeline,), limit=_RUNS):
        known.setdefault(record.id)
    found = [
        each
        for run_id in known
        for each in await store.gates.of_run(run_id)
        if each.gate.kind == "approval"
        and each.gate.asset.asset == name
        and (partition is None or each.gate.asset.partition == partition)
    ]
    return max(found, key=lambda each: each.opened_at, default=None)


def _several(name: str, found: list[StoredGate]) -> ConfigError:
    shown = [f"{each.gate.id}{_where(each)}" for each in found[:_LISTED]]
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ConfigError(
        f"asset {name!r} has {len(found)} requests that are pending: {', '.join(shown)}{more}",
        asset=name,
        details={"gates": [each.gate.id for each in found[:_LISTED]]},
        hint="Give the id of the one that is meant, or partition=.",
    )


def _where(stored: StoredGate) -> str:
    partition, item = decode_key(stored.gate.asset.partition), request_of(stored).item
    of = [*([] if partition is None else [f"of {partition}"]), *([] if item is None else [f"item {item!r}"])]
    return f" ({', '.join(of)})" if of else ""


def _is_id(target: str) -> bool:
    try:
        UUID(target)
    except ValueError:
        return False
    return True
