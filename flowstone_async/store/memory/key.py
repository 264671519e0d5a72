"""Asset keys: what is current, what the newest attempt was, and which run computes the key now."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime

from flowstone_async.errors import Failure
from flowstone_async.store.records import AssetDone, AssetState, AttemptState
from flowstone_async.types import AssetKey, Materialization

DURATIONS = 20


def committed(materialization: Materialization, at: datetime) -> Materialization:
    """Return a copy that was committed at `at`."""
    return materialization._replace(committed_at=at)


class StoredAsset:
    """One asset of a pipeline: its keys, and how long its last computations took."""

    __slots__ = ("_order", "durations", "keys")

    def __init__(self) -> None:
        self.keys: dict[AssetKey, Key] = {}
        self.durations: deque[float] = deque(maxlen=DURATIONS)
        self._order: dict[str, list[AssetKey]] | None = None

    def add(self, key: Key) -> None:
        """Keep a key."""
        self.keys[key.name] = key
        self._order = None

    def remove(self, key: Key) -> None:
        """Forget a key."""
        del self.keys[key.name]
        self._order = None

    def page(self, io: str, limit: int, after: str | None) -> Iterator[Key]:
        """Yield at most `limit` keys of one manager behind the partition `after`, in order of the partitions."""
        if self._order is None:
            self._order = {}
            for name in sorted(self.keys):
                self._order.setdefault(name.io, []).append(name)
        names = self._order.get(io, [])
        start = 0 if after is None else bisect_right(names, after, key=lambda name: name.partition)
        return (self.keys[name] for name in names[start : start + limit])


class Key:
    """One asset key: its current materialization, its newest attempt, and its claim.

    What most keys of a run are never asked for is made when it is first asked for, and kept.

    Attributes:
        current: The current materialization, as it was given to the store; `materialization()` has it complete.
        committed_at: The commit's instant, until `current` carries it.
        holder: Id of the run that computes the key now, or None.
        lost: Owners that died under the claim.
        view: What the port shows, until something changes.
    """

    __slots__ = (
        "asset",
        "attempts",
        "claimed_at",
        "committed_at",
        "completed_at",
        "current",
        "error",
        "holder",
        "lost",
        "name",
        "reason",
        "run_id",
        "seconds",
        "started_at",
        "state",
        "view",
    )

    def __init__(self, name: AssetKey, asset: StoredAsset) -> None:
        self.name = name
        self.asset = asset
        self.current: Materialization | None = None
        self.committed_at: datetime | None = None
        self.holder: str | None = None
        self.claimed_at: datetime | None = None
        self.lost = 0
        self.view: AssetState | None = None
        self.clear()

    def clear(self) -> None:
        """Forget the newest attempt."""
        self.state: AttemptState = "pending"
        self.run_id: str | None = None
        self.started_at: datetime | None = None
        self.completed_at: datetime | None = None
        self.seconds: float | None = None
        self.attempts = 0
        self.error: Failure | None = None
        self.reason: str | None = None
        self.view = None

    def attempted(self, run_id: str, done: AssetDone, at: datetime) -> None:
        """Make an outcome the newest attempt."""
        self.state = done.outcome
        self.run_id = run_id
        self.started_at = done.started_at
        self.completed_at = at
        self.seconds = done.seconds
        self.attempts = done.attempts
        self.error = done.error
        self.reason = done.reason
        self.view = None

    def follow(self, other: Key) -> None:
        """Take over the newest attempt of another key."""
        self.state = other.state
        self.run_id = other.run_id
        self.started_at = other.started_at
        self.completed_at = other.completed_at
        self.seconds = other.seconds
        self.attempts = other.attempts
        self.error = other.error
        self.reason = other.reason
        self.view = None

    def materialization(self) -> Materialization | None:
        """Return the current materialization."""
        if self.current is not None and self.committed_at is not None:
            self.current = committed(self.current, self.committed_at)
            self.committed_at = None
        return self.current

    def shown(self) -> AssetState:
        """Return the key as the port shows it."""
        if self.view is None:
            self.view = self._state() if self.holder is None else self._running(self.holder)
        return self.view

    def _running(self, holder: str) -> AssetState:
        return AssetState(
            key=self.name,
            current=self.materialization(),
            state="running",
            run_id=holder,
            claimed_by=holder,
            started_at=self.claimed_at,
        )

    def _state(self) -> AssetState:
        return AssetState(
            key=self.name,
            current=self.materialization(),
            state=self.state,
            run_id=self.run_id,
            started_at=self.started_at,
            completed_at=self.completed_at,
            seconds=self.seconds,
            attempts=self.attempts,
            error=self.error,
            reason=self.reason,
        )


class Keys:
    """All asset keys of a store, by name and by their current materialization."""

    __slots__ = ("assets", "by_materialization", "by_name")

    def __init__(self) -> None:
        self.by_name: dict[AssetKey, Key] = {}
        self.by_materialization: dict[str, Key] = {}
        self.assets: dict[tuple[str, str], StoredAsset] = {}

    def known(self, name: AssetKey) -> Key:
        """Return the key of that name, made known if need be."""
        key = self.by_name.get(name)
        if key is None:
            asset = self.assets.get((name.pipeline, name.asset))
            if asset is None:
                asset = self.assets[name.pipeline, name.asset] = StoredAsset()
            key = self.by_name[name] = Key(name, asset)
            asset.add(key)
        return key

    def remove(self, key: Key) -> None:
        """Forget a key, and its asset with its last one."""
        del self.by_name[key.name]
        key.asset.remove(key)
        if not key.asset.keys:
            del self.assets[key.name.pipeline, key.name.asset]

    def replace(self, key: Key, current: Materialization | None, at: datetime | None) -> Materialization | None:
        """Make a materialization current that is committed at `at`, or none; returns the one that was."""
        before = key.materialization()
        if before is not None:
            del self.by_materialization[before.id]
        if current is not None:
            self.by_materialization[current.id] = key
        key.current = current
        key.committed_at = at
        key.view = None
        return before

    def states(self, names: Iterable[AssetKey]) -> dict[AssetKey, AssetState]:
        """Return the states of those that are known."""
        found = self.by_name.get
        return {name: key.shown() for name in names if (key := found(name)) is not None}
