"""Runs: who owns one, what it holds, what it has told, and how its last steps were answered."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from datetime import datetime

from flowstone_async.errors import Failure
from flowstone_async.store.memory.key import Key
from flowstone_async.store.records import FINAL_RUN_STATES, Advanced, EventRecord, RunDone, RunRecord, RunState

ANSWERS = 64
NOBODY = -1


class Run:
    """One run.

    Attributes:
        accepts: The fence a step must carry to be committed; `NOBODY` while no worker owns the run, and at its end.
        answers: Mark (see `step.py`) and answer of the last steps, for a step that is repeated.
        end: The end that a step of its own gave it.
        joined: Whether a submission stands for it that did not make it.
        keys: Of the submissions that it is the answer to.
        wakes: How often a gate of it has ended.
        wake_at: Of a suspended run, the nearest deadline of its gates.
        suspended_at: Since when it is suspended; None while it is not.
        paused: Seconds for which it was, before.
        quiet: The fence under which it was suspended last.
        forgotten: Whether it fell out of the history: its events in the log are passed over.
    """

    __slots__ = (
        "accepts",
        "answers",
        "claims",
        "created",
        "created_at",
        "end",
        "error",
        "events",
        "fence",
        "finished_at",
        "forgotten",
        "id",
        "joined",
        "keys",
        "lost",
        "paused",
        "quiet",
        "state",
        "suspended_at",
        "wake_at",
        "wakes",
        "worker",
    )

    def __init__(self, created: RunRecord, at: datetime) -> None:
        self.id = created.id
        self.created = created
        self.created_at = created.created_at or at
        self.state: RunState = created.state
        self.worker = created.worker
        self.fence = created.fence
        self.accepts = created.fence
        self.lost = created.lost
        self.error: Failure | None = None
        self.finished_at: datetime | None = None
        self.end: RunDone | None = None
        self.claims: set[Key] = set()
        self.events: list[EventRecord] = []
        self.keys: list[str] = []
        self.joined = False
        self.answers: deque[tuple[int | str | None, Advanced]] = deque(maxlen=ANSWERS)
        self.forgotten = False
        self.wakes = 0
        self.wake_at: datetime | None = None
        self.suspended_at: datetime | None = None
        self.paused = 0.0
        self.quiet: int | None = None

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL_RUN_STATES

    def record(self) -> RunRecord:
        """Return the run as the port shows it."""
        return replace(
            self.created,
            state=self.state,
            worker=self.worker,
            fence=self.fence,
            lost=self.lost,
            created_at=self.created_at,
            finished_at=self.finished_at,
            error=self.error,
            request="",
        )

    def suspend(self, at: datetime, wake_at: datetime | None) -> None:
        """Let nobody own it until a gate has ended, or that time has come."""
        self.state, self.worker, self.accepts = "waiting", None, NOBODY
        self.fence += 1
        self.quiet, self.suspended_at = self.fence, at
        self.wake_at = wake_at

    def woken(self, now: datetime) -> bool:
        """Count that a gate of it has ended; tell whether it was suspended."""
        self.wakes += 1
        self.wake_at = None
        if self.suspended_at is not None:
            self.paused += max(0.0, (now - self.suspended_at).total_seconds())
            self.suspended_at = None
        if self.state != "waiting":
            return False
        self.state = "running"
        return True

    def claim(self, key: Key, at: datetime) -> None:
        """Hold a key that is free."""
        key.holder = self.id
        key.claimed_at = at
        key.lost = 0
        key.view = None
        self.claims.add(key)

    def free(self, key: Key) -> None:
        """Let go of a key that it holds."""
        key.holder = None
        key.view = None
        self.claims.remove(key)

    def answer(self, mark: int | str) -> Advanced | None:
        """Return how the step of that mark was answered, if it is one of the last."""
        return next((answer for known, answer in self.answers if known == mark), None)

    def owned(self, worker: str) -> None:
        """Give the run to another worker, under a new fence."""
        self.worker = worker
        self.fence += 1
        self.accepts = self.fence

    def ended(self, state: RunState, error: Failure | None, at: datetime) -> None:
        """End the run; nothing of it is accepted any more."""
        self.state = state
        self.error = error
        self.finished_at = at
        self.worker = None
        self.accepts = NOBODY
