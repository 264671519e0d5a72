"""What one memory store keeps, shared by all its handles."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from threading import RLock

from flowstone_async.clock import Clock
from flowstone_async.limits.book import LimitChange
from flowstone_async.limits.local import LocalBook
from flowstone_async.store.memory.api_tokens import MemoryApiTokens
from flowstone_async.store.memory.gates import MemoryGates
from flowstone_async.store.memory.item_waits import ItemWaits
from flowstone_async.store.memory.key import Key, Keys
from flowstone_async.store.memory.lease import Lease
from flowstone_async.store.memory.log import Log
from flowstone_async.store.memory.partition_keys import MemoryPartitionKeys
from flowstone_async.store.memory.run import Run
from flowstone_async.store.memory.scatters import MemoryScatters
from flowstone_async.store.memory.steps import MemorySteps
from flowstone_async.store.memory.values import MemoryValues
from flowstone_async.store.records import AuditEntry
from flowstone_async.types import Materialization, new_id
from flowstone_async.waiters import Waiters

ACTS_PER_RUN = 10


class Memory:
    """Keys, runs, events, acts, values and limits, guarded by one lock.

    Everything that reads or writes here holds `lock`. It is re-entrant only because the garbage collector may close
    an abandoned `changed()` at any moment, also while this thread holds it.

    Attributes:
        runs: By id, in order of creation.
        active: Those that are not final.
        finished: Final ones, in order of their end.
        acts: Audit entries with their number and instant, the newest `ACTS_PER_RUN` times `history`.
        leases: Of workers that are alive, by id.
        run_keys: Run and subject of each submission's key, by pipeline and key.
        requests: Active runs by pipeline and request.
        queues: For each pipeline the heaps of runs that may start and of those that may only later.
        submitted: Number of the last submission.
        identity: Tells this memory from every other one.
        secret: For what engines sign that share it.
    """

    def __init__(self, clock: Clock, history: int) -> None:
        self.clock = clock
        self.identity = new_id()
        self.secret = os.urandom(32)
        self.history = history
        self.lock = RLock()
        self.keys = Keys()
        self.runs: dict[str, Run] = {}
        self.active: dict[str, Run] = {}
        self.finished: deque[Run] = deque()
        self.run_keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.requests: dict[tuple[str, str], dict[str, Run]] = {}
        self.queues: dict[str, tuple[list[tuple[int, datetime, int, Run]], list[tuple[datetime, int, Run]]]] = {}
        self.submitted = 0
        self.log = Log()
        self.acts: deque[tuple[int, datetime, AuditEntry]] = deque(maxlen=ACTS_PER_RUN * history)
        self.acted = 0
        self.leases: dict[str, Lease] = {}
        self.waiters = Waiters()
        self.values = MemoryValues(self.lock, clock.now)
        self.limits = LocalBook(clock, alive=self.leases.__contains__, audit=self._note_change, lock=self.lock)
        self.partition_keys = MemoryPartitionKeys(self.lock)
        self.gates = MemoryGates(self)
        self.item_waits = ItemWaits(clock.now, self.gates.has_ended)
        self.scatters = MemoryScatters(self.lock, clock.now, self.leases, self.waiters, self.owns, self.item_waits)
        self.steps = MemorySteps(self.lock, self.owns)
        self.api_tokens = MemoryApiTokens(clock, self.lock, self.note)

    def owns(self, run_id: str, fence: int) -> bool:
        """Tell whether a run is owned under a fence."""
        run = self.active.get(run_id)
        return run is not None and run.state == "running" and run.accepts == fence

    def gate_ended(self, gate: str) -> None:
        """Make the item of a scatter due that waits at a gate."""
        self.item_waits.end(gate)

    def add(self, run: Run) -> None:
        """Keep a new run."""
        self.runs[run.id] = self.active[run.id] = run
        if run.created.request:
            self.requests.setdefault((run.created.pipeline, run.created.request), {})[run.id] = run

    def finish(self, run: Run) -> None:
        """Move a run that has ended to the history, which forgets its oldest."""
        del self.active[run.id]
        if run.created.request:
            self._forget_request(run)
        self.finished.append(run)
        if len(self.finished) > self.history:
            self.forget(1)

    def _forget_request(self, run: Run) -> None:
        request = (run.created.pipeline, run.created.request)
        del self.requests[request][run.id]
        if not self.requests[request]:
            del self.requests[request]

    def forget(self, count: int) -> None:
        """Forget the runs that ended first, with their events."""
        for _ in range(count):
            run = self.finished.popleft()
            run.forgotten = True
            del self.runs[run.id]
            self.scatters.forget_run(run.id)
            self.gates.forget_run(run.id)
            self.steps.forget(run.id)
            for key in run.keys:
                del self.run_keys[run.created.pipeline, key]
        self.log.trim()

    def forget_older(self, instant: datetime, limit: int) -> int:
        """Forget at most `limit` runs that ended before an instant, and return how many there were."""
        count = 0
        for run in islice(self.finished, limit):
            if run.finished_at is None or run.finished_at >= instant:
                break
            count += 1
        self.forget(count)
        return count

    def note(self, entries: Iterable[AuditEntry], at: datetime) -> None:
        """Keep audit entries."""
        for entry in entries:
            self.acted += 1
            self.acts.append((self.acted, at, entry))

    def _note_change(self, change: LimitChange) -> None:
        entry = AuditEntry(
            f"limit.{change.action}", change.key, actor=change.actor, actor_kind="process", details=change.details
        )
        self.note((entry,), self.clock.now())

    def replace(self, key: Key, current: Materialization | None, at: datetime) -> Materialization | None:
        """Make a materialization current, or none; returns the one that was, whose value is deleted."""
        before = self.keys.replace(key, current, at)
        if before is not None:
            self.values.drop(before.id)
        return before

    def changed(self, key: Key) -> None:
        """Wake those that wait for a key."""
        if self.waiters.topics:
            self.waiters.wake(f"key:{key.name}")

    def moved(self, run: Run) -> None:
        """Wake those that wait for a run."""
        if self.waiters.topics:
            self.waiters.wake(f"run:{run.id}")
