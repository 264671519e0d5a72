"""Records with sane defaults, and a run as its engine drives it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

from flowstone_async.errors import Failure
from flowstone_async.store.protocol import Store
from flowstone_async.store.records import (
    Advance,
    Advanced,
    AssetDone,
    AssetOutcome,
    AssetState,
    AuditEntry,
    EventRecord,
    RunDone,
    RunRecord,
    Worker,
)
from flowstone_async.types import AssetKey, Input, Materialization, new_id

PIPELINE = "sales"
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_last = ""


R = TypeVar("R")


def replace(record: R, **changes: Any) -> R:
    """Return a copy of a record, dataclass or tuple, with other values."""
    changed: Any = record
    return changed._replace(**changes) if isinstance(record, tuple) else dataclasses.replace(changed, **changes)


def identifier() -> str:
    """Return a new id above all earlier ones, so that the order of creation is known."""
    global _last  # noqa: PLW0603 - the one thing that all tests of a process share
    made = new_id()
    while made <= _last:
        made = new_id()
    _last = made
    return made


def key(asset: str = "numbers", partition: str = "", *, pipeline: str = PIPELINE, io: str = "") -> AssetKey:
    return AssetKey(pipeline, asset, partition, io)


def worker(*pipelines: str) -> Worker:
    return Worker(id=identifier(), host="host", pid=1, pipelines=pipelines or (PIPELINE,))


def run_record(owner: str | None = None, **changes: Any) -> RunRecord:
    return replace(RunRecord(id=identifier(), pipeline=PIPELINE, targets=("numbers",), worker=owner), **changes)


def failure(message: str = "it broke", **changes: Any) -> Failure:
    return replace(
        Failure(type="ValueError", library=False, code="EXECUTION", message=message, retryable=False), **changes
    )


def source(upstream: Materialization | AssetKey, name: str = "upstream") -> Input:
    """Return the input that a materialization was, or an outcome received as absent for a key without one."""
    if isinstance(upstream, AssetKey):
        return Input("asset", name, "absent:failed", upstream)
    return Input("asset", name, upstream.fingerprint, upstream.key, upstream.id)


def materialization(
    of: AssetKey, run_id: str, *upstreams: Materialization | AssetKey, **changes: Any
) -> Materialization:
    """Return a record as an engine makes it; the store must fill in `committed_at`."""
    made = identifier()
    record = Materialization(
        id=made,
        key=of,
        run_id=run_id,
        fingerprint=f"fingerprint of {made}",
        version=None,
        code_hash="code",
        inputs=tuple(source(upstream, f"upstream_{no}") for no, upstream in enumerate(upstreams)),
        manager="test",
        location=f"somewhere/{made}",
        size=3,
        checksum="checksum",
        started_at=datetime(2025, 1, 1, 12, tzinfo=UTC),
        committed_at=LONG_AGO,
        seconds=1.5,
        attempts=1,
        host="host",
    )
    return replace(record, **changes)


def done(of: AssetKey, outcome: AssetOutcome, **changes: Any) -> AssetDone:
    """Return an outcome other than a completed one."""
    return replace(AssetDone(key=of, outcome=outcome), **changes)


def completed(made: Materialization, **changes: Any) -> AssetDone:
    record = AssetDone(
        key=made.key,
        outcome="completed",
        attempts=made.attempts,
        started_at=made.started_at,
        seconds=made.seconds,
        materialization=made,
    )
    return replace(record, **changes)


def event(no: int, type_: str = "asset.started", **body: object) -> EventRecord:
    return EventRecord(no, type_, datetime(2025, 1, 1, 12, 0, no % 60, tzinfo=UTC), body)


def act(action: str = "asset.succeeded", subject: str = "sales.numbers", **changes: Any) -> AuditEntry:
    return replace(AuditEntry(action=action, subject=subject), **changes)


class Drive:
    """A run as its engine drives it: it carries the fence and numbers the events.

    Attributes:
        run: The run as it was created, or as it was taken over.
        told: Number of the last event.
    """

    def __init__(self, store: Store, run: RunRecord, told: int = 0) -> None:
        self.store = store
        self.run = run
        self.told = told

    @property
    def id(self) -> str:
        return self.run.id

    @classmethod
    async def start(cls, store: Store, owner: Worker, *claims: AssetKey, **changes: Any) -> Self:
        """Create a run that claims keys, and tells of its start."""
        drive = cls(store, run_record(owner.id, **changes))
        answer = await drive.advance("run.started", create=drive.run, claims=claims)
        assert answer.accepted
        return drive

    def step(self, *types: str, **parts: Any) -> Advance:
        """Return the next step, with an event of each type."""
        events = tuple(event(self.told + no, type_) for no, type_ in enumerate(types, 1))
        self.told += len(events)
        return Advance(run_id=self.id, fence=self.run.fence, events=events, **parts)

    async def advance(self, *types: str, **parts: Any) -> Advanced:
        """Commit the next step."""
        return await self.store.advance(self.step(*types, **parts))

    async def compute(self, of: AssetKey, *upstreams: Materialization | AssetKey, **changes: Any) -> Materialization:
        """Claim a key and complete it; returns what is then current."""
        claimed = await self.advance("asset.started", claims=(of,))
        assert claimed.claims[of].granted
        made = materialization(of, self.id, *upstreams, **changes)
        answer = await self.advance("asset.finished", done=(completed(made),))
        assert answer.accepted
        return replace(made, committed_at=answer.at)

    async def finish(self, state: Any = "succeeded", **parts: Any) -> Advanced:
        """Commit the last step."""
        return await self.advance("run.finished", finish=RunDone(state=state), **parts)


async def state_of(store: Store, of: AssetKey) -> AssetState:
    """Return the state of a key, known or not."""
    return (await store.states([of])).get(of) or AssetState(key=of)


async def current_of(store: Store, of: AssetKey) -> str | None:
    """Return the id of what is current for a key."""
    current = (await state_of(store, of)).current
    return None if current is None else current.id
