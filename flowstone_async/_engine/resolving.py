"""Saying how a body goes on whose code has changed: the verb, and what is delivered to its gate."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias, get_args

import anyio

from flowstone_async._engine.gates.sender import Sender
from flowstone_async._engine.handle import RunHandle
from flowstone_async._engine.listing import find_run
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target, find
from flowstone_async.config import word
from flowstone_async.definition.keys import decode_key, encode_key
from flowstone_async.errors import AlreadySignalled, ConfigError, FlowstoneError, GateNotFound, StoreUnavailable
from flowstone_async.planning.units import partition_for
from flowstone_async.store.gates import Delivered, Signal, StoredGate
from flowstone_async.store.records import FINAL_RUN_STATES, RunRecord

How: TypeAlias = Literal["resume_at", "restart", "discard"]
_PATIENCE, _PAUSE = 10.0, 0.1
_LISTED = 20
_LOCKED = "55P03"


class ResolveVerbs(ABC):
    """Resolving mismatches."""

    @abstractmethod
    def _session(self) -> AbstractAsyncContextManager[Session]:
        """Return the session, open for the length of a call."""

    async def _decided(self, session: Session, run_id: str) -> None:  # noqa: B027 - most need do nothing
        """Go on with a run that was woken, where nobody else does."""

    async def resolve(
        self, run: RunHandle[Any] | str, asset: Target, *, how: How, partition: object = None, by: str | None = None
    ) -> None:
        """Say how a body goes on that waits since its code does not fit what it has on record (`ReplayMismatch`).

        Whoever goes on with the run does it, in whatever process. The first answer stands; the same again changes
        nothing. If the code fits the record by then, the body just goes on, whatever was said.

        Args:
            run: The run, or its id: `error.run_id`.
            asset: Handle or name of the asset.
            how: `"resume_at"` calls the body again with what it had seen before the call that does not fit: that call,
                and all that it saw later, is made anew. `"restart"` calls it with nothing on record. `"discard"` lets
                the asset fail with the mismatch; the run goes on without it.
            partition: Key of the asset; needed where it waits for several.
            by: Who says so, for the record.

        Raises:
            RunNotFound: The store has no such run.
            AssetNotFound: There is no such asset.
            GateNotFound: The asset waits for no such answer in that run; it is said which do.
            AlreadySignalled: Another answer came first.
            ConfigError: Another argument is wrong, or several partitions wait.
            StoreUnavailable: Nobody knows whether it was taken: say it again.

        Example:
            >>> await engine.resolve(error.run_id, order, how="resume_at", by="alice@example.com")
        """
        async with self._session() as session:
            run_id = await resolve(session, run, asset, how=how, partition=partition, sender=Sender(actor=by))
            await self._decided(session, run_id)


async def resolve(
    session: Session, run: RunHandle[Any] | str, asset: Target, *, how: object, partition: object, sender: Sender
) -> str:
    """Say how a body goes on; return the id of its run. See `ResolveVerbs.resolve`."""
    session.check()
    said = _checked(how)
    record = await find_run(session, run.id if isinstance(run, RunHandle) else run)
    gate = _meant(session, record, asset, partition, await session.store.gates.of_run(record.id))
    signal = Signal(payload=said.encode(), gate=gate.gate.id, facts=sender.facts(session.services.redactor, ""))
    delivered = await _deliver(session, signal)
    if delivered.state not in ("accepted", "duplicate"):
        raise _refused(delivered, gate, record)
    return record.id


def _checked(how: object) -> str:
    ways: Sequence[str] = get_args(How)
    close = get_close_matches(how.replace("-", "_"), ways, 1) if isinstance(how, str) and how not in ways else []
    if close:
        raise ConfigError(f"how={how!r}", hint=f"Did you mean {close[0]!r}? Allowed are {', '.join(ways)}.")
    return word(how, ways, what="how")


def _meant(
    session: Session, record: RunRecord, asset: Target, partition: object, gates: Sequence[StoredGate]
) -> StoredGate:
    """Return the gate of a mismatch: the open one, else the newest."""
    catalog, name = find(session.catalogs, asset)
    asked = [each for each in gates if each.gate.kind == "mismatch"]
    mine = [each for each in asked if each.gate.asset[:2] == (catalog.graph.pipeline, name)]
    if partition is not None:
        encoded = encode_key(partition_for(catalog.node(name), partition))
        mine = [each for each in mine if each.gate.asset.partition == encoded]
    waiting = [each for each in mine if each.state == "open"]
    if len({each.gate.asset for each in waiting}) > 1:
        keys = ", ".join(str(decode_key(each.gate.asset.partition)) for each in waiting[:_LISTED])
        raise ConfigError(
            f"asset {name!r} waits for {len(waiting)} partitions in run {record.id}: {keys}",
            asset=name,
            run_id=record.id,
            hint="Say partition=.",
        )
    if waiting or mine:
        return (waiting or mine)[-1]
    raise _nothing(record, name, [each for each in asked if each.state == "open"])


def _nothing(record: RunRecord, name: str, others: Sequence[StoredGate]) -> FlowstoneError:
    names = sorted({each.gate.asset.asset for each in others})
    if names:
        close = [] if name in names else get_close_matches(name, names, 1, 0.0)
        meant = f"Did you mean {close[0]!r}? " if close else ""
        hint = f"{meant}These wait for it in that run: {', '.join(map(_shown, others[:_LISTED]))}."
    elif record.state in FINAL_RUN_STATES:
        hint = f"The run has ended: it is {record.state}."
    else:
        hint = f"Nothing of the run does, which is {record.state}. engine.gates.waiting(kind='mismatch') lists all."
    return GateNotFound(
        f"asset {name!r} has no mismatch to resolve in run {record.id}", asset=name, run_id=record.id, hint=hint
    )


def _shown(stored: StoredGate) -> str:
    key = stored.gate.asset
    return f"{key.asset} [{decode_key(key.partition)}]" if key.partition else key.asset


async def _deliver(session: Session, signal: Signal) -> Delivered:
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            return await session.store.gates.deliver(signal)
        except StoreUnavailable as error:
            if error.details.get("sqlstate") == _LOCKED or time.monotonic() > give_up:
                raise
        await anyio.sleep(_PAUSE)


def _refused(delivered: Delivered, gate: StoredGate, record: RunRecord) -> FlowstoneError:
    name, outcome = gate.gate.asset.asset, delivered.outcome
    if delivered.state == "already" and outcome is not None:
        first = (outcome.payload or b"").decode()
        return AlreadySignalled(
            f"the mismatch of asset {name!r} in run {record.id} was resolved already, with {first!r}",
            asset=name,
            run_id=record.id,
            details={"gate": gate.gate.id, "how": first, "at": outcome.at.isoformat()},
            hint="The first answer stands.",
        )
    return _nothing(record, name, ())
