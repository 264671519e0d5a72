"""What has become of the assets of a run, or of a backfill, so far: told by events, one line for each asset."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

from flowstone_async._engine.backfill import BackfillReport
from flowstone_async.cli.failure import first_line
from flowstone_async.definition.keys import PartitionKey, encode_key
from flowstone_async.events import (
    AssetEvent,
    AssetFailed,
    AssetFinished,
    AssetRetrying,
    AssetReused,
    AssetSkipped,
    AssetStarted,
    AssetSucceeded,
    Event,
    RunFailed,
    RunFinished,
    RunStarted,
    RunSucceeded,
)
from flowstone_async.planning.plan import Plan

LineState: TypeAlias = Literal["waiting", "running", "done", "reused", "skipped", "failed", "cancelled"]


@dataclass(slots=True)
class Line:
    """One asset, with all partitions of it that the run touches.

    Attributes:
        planned: How many partitions are planned; 0 where nobody knows.
        seconds: Duration of the last computation.
        rows: What bodies noted as `rows`, added up; None if none did.
        note: Why it was computed, reused, skipped, or failed.
        running: Encoded keys that are being computed.
    """

    name: str
    planned: int = 0
    done: int = 0
    reused: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    rows: int | None = None
    note: str = ""
    cancelled: bool = False
    running: set[str] = field(default_factory=set[str])

    @property
    def settled(self) -> int:
        """How many partitions have come to their end."""
        return self.done + self.reused + self.failed + self.skipped

    @property
    def state(self) -> LineState:
        """What the mark of the line tells."""
        if self.failed:
            return "failed"
        if self.running:
            return "running"
        if self.settled < max(self.planned, 1):
            return "cancelled" if self.cancelled else "waiting"
        return "done" if self.done else "reused" if self.reused else "skipped"


class Progress:
    """Hears of events and keeps count; memory depends on the number of assets, not of partitions.

    Args:
        title: Names of the targets.
        key: Key of the run, as text, or None.
        partitions: How many partitions a backfill has; None for a single run.
    """

    def __init__(self, title: str, key: str | None = None, *, partitions: int | None = None) -> None:
        self.title, self.key, self.partitions = title, key, partitions
        self.lines: dict[str, Line] = {}
        self.run_id = ""
        self.report = BackfillReport()
        self.tolerated = 0
        self.begun = False
        self._runs: set[str] = set()
        self._failures: dict[str, int] = {}
        self._started: float | None = None
        self._ended: float | None = None

    def start(self) -> None:
        """Count the time from now on."""
        self._started = time.monotonic()

    def expect(self, plan: Plan) -> None:
        """Take what is planned for what is to come."""
        for entry in plan.entries:
            line = self._line(entry.asset)
            line.planned += 1
            line.note = entry.reason

    @property
    def seconds(self) -> float | None:
        """Seconds from the start to the end, or to now; None before the start."""
        if self._started is None:
            return None
        return (time.monotonic() if self._ended is None else self._ended) - self._started

    @property
    def counts(self) -> tuple[int, int]:
        """How many assets and partitions have come to their end, and of how many."""
        if self.partitions is not None:
            done = self.report
            return done.succeeded + done.failed + done.skipped + done.not_started, self.partitions
        lines = list(self.lines.values())
        return sum(line.settled for line in lines), sum(max(line.planned, line.settled) for line in lines)

    def take(self, report: BackfillReport) -> None:
        """Take the counts of a backfill so far."""
        self.report = report

    def hear(self, event: Event) -> None:
        """Take an event into account."""
        if isinstance(event, RunStarted):
            self._runs.add(event.run_id)
            self.begun, self.run_id = True, event.run_id
        elif event.run_id not in self._runs:
            return  # a run that another engine left, continued here beside ours
        match event:
            case RunFinished():
                self._runs.discard(event.run_id)
            case RunSucceeded():
                self.tolerated += self._failures.pop(event.run_id, 0)
            case RunFailed():
                self._failures.pop(event.run_id, None)
            case AssetEvent():
                self._hear_asset(event, self._line(event.asset))
            case _:
                pass

    def _hear_asset(self, event: AssetEvent, line: Line) -> None:
        key = encode_key(cast("PartitionKey | None", event.partition))
        match event:
            case AssetStarted():
                line.running.add(key)
                return
            case AssetRetrying():
                why = first_line(event.error) if event.error is not None else ""
                line.note = f"attempt {event.attempt} failed, again in {event.wait:.3g}s: {why}"
                return
            case AssetSucceeded():
                line.done += 1
                line.seconds = event.seconds
                line.note = line.note if event.attempts == 1 else f"after {event.attempts} attempts"
                rows = (event.metadata or {}).get("rows")
                if isinstance(rows, int) and not isinstance(rows, bool):
                    line.rows = (line.rows or 0) + rows
            case AssetReused():
                line.reused += 1
            case AssetSkipped():
                line.skipped += 1
                line.note = event.reason
            case AssetFailed():
                line.failed += 1
                line.seconds = event.seconds
                line.note = "" if event.error is None else first_line(event.error)
                self._failures[event.run_id] = self._failures.get(event.run_id, 0) + 1
            case AssetFinished():
                line.cancelled |= event.outcome == "cancelled"
            case _:
                return
        line.running.discard(key)

    def end(self, *, cut_off: bool) -> None:
        """Nothing more will come.

        Args:
            cut_off: Whether what is not settled was given up; otherwise it was not needed, and is left out.
        """
        self._ended = time.monotonic()
        for line in self.lines.values():
            line.running.clear()
            line.cancelled |= cut_off
            if not cut_off:
                line.planned = line.settled
        if not cut_off:
            self.lines = {name: line for name, line in self.lines.items() if line.settled}

    def _line(self, name: str) -> Line:
        found = self.lines.get(name)
        if found is None:
            found = self.lines[name] = Line(name)
        return found
