"""Which events of waits and steps a run has told, so that each is told once, whoever goes on with the run.

An event has a mark, made of what is stored of it: what an earlier owner has told is known from the run's events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from flowstone_async.store.records import EventRecord
from flowstone_async.wait_events import (
    ApprovalCancelled,
    ApprovalEscalated,
    ApprovalOpened,
    GateCancelled,
    GateOpened,
    GateRearmed,
    GateTimedOut,
    StepFailed,
    StepFinished,
)

Mark = tuple[object, ...]

_STEPS = frozenset({StepFinished.type, StepFailed.type})
_OPENING = frozenset({GateOpened.type, GateRearmed.type, ApprovalOpened.type})
_DETAIL = {GateRearmed.type: "due", GateTimedOut.type: "due", ApprovalEscalated.type: "escalation"}
_FAMILIES = ("gate.", "approval.", "step.")


class Told:
    """The marks of a run's events, for assets that have not ended, and the gates that are open as far as was told."""

    def __init__(self) -> None:
        self._marks: dict[tuple[object, object], set[Mark]] = {}
        self._open: dict[object, EventRecord] = {}

    def note(self, event: EventRecord) -> None:
        """Take an event of the run into account."""
        body: Mapping[str, Any] = event.body
        if not event.type.startswith(_FAMILIES):
            if event.type == "asset.finished":  # nothing of it is called again
                self._marks.pop(_place(body), None)
            return
        mark = _mark(event.type, body)
        marks = self._marks.setdefault(_place(body), set())
        marks.add(mark)
        if event.type in _STEPS:
            return
        marks.add(mark[:1])  # so that nobody looks through all of them
        if event.type in _OPENING:
            self._open[mark[0]] = event
        elif event.type != ApprovalEscalated.type:
            self._open.pop(mark[0], None)

    def knows(self, kind: str, body: Mapping[str, object]) -> bool:
        """Tell whether an event of a type was told."""
        return _mark(kind, body) in self._marks.get(_place(body), ())

    def ended(self, gate: str, asset: str, partition: str) -> bool:
        """Tell whether an end of a gate or request was told, and no opening since."""
        return gate not in self._open and (gate,) in self._marks.get((asset, partition), ())

    def opened_at(self, gate: str) -> datetime | None:
        """Return when a gate was opened, or opened again, if that was told and no end of it."""
        event = self._open.get(gate)
        return None if event is None else event.at

    def cancelled(
        self, now: datetime, gates: Iterable[str] | None = None, *, until: int | None = None
    ) -> list[EventRecord]:
        """Return the events that tell that nobody waits any more at gates that are open; not numbered.

        Args:
            now: When.
            gates: Which ones; without it, all of the run.
            until: The number of the last event that counts.
        """
        found = [self._open.get(each) for each in (list(self._open) if gates is None else gates)]
        return [_cancelled(each, now) for each in found if each is not None and (until is None or each.no <= until)]


def _place(body: Mapping[str, object]) -> tuple[object, object]:
    return body.get("asset"), body.get("partition") or ""


def _mark(kind: str, body: Mapping[str, object]) -> Mark:
    if kind in _STEPS:
        return body.get("step"), "step", body.get("attempt")
    detail = _DETAIL.get(kind)
    return body.get("gate") or body.get("request"), kind, None if detail is None else body.get(detail)


def _cancelled(opened: EventRecord, now: datetime) -> EventRecord:
    body = {name: each for name, each in opened.body.items() if name != "due"}
    kind = ApprovalCancelled if "request" in body else GateCancelled
    return EventRecord(0, kind.type, now, {**body, "seconds": max(0.0, (now - opened.at).total_seconds())})
