"""The events of one run: numbered, collected for the next commit, turned into typed events for hooks and readers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from flowstone_async._engine.hooks import Hooks
from flowstone_async._engine.told import Told
from flowstone_async.definition.keys import decode_key
from flowstone_async.errors import Failure, FlowstoneError
from flowstone_async.events import EVENT_TYPES, Event
from flowstone_async.failures import describe, rebuild
from flowstone_async.store.records import EventRecord


class Journal:
    """Collects the events of a run until they are committed.

    Args:
        pipeline: Of the run.
        run_id: The run.
        hooks: Who hears of them.
        last: The number of the run's last event.
        told: What it has told of waits and steps.
    """

    def __init__(self, pipeline: str, run_id: str, hooks: Hooks, *, last: int = 0, told: Told | None = None) -> None:
        self.last, self.told = last, told or Told()
        self._pipeline, self._run_id, self._hooks = pipeline, run_id, hooks
        self._hooked = hooks.any()
        self._records: list[EventRecord] = []
        self._events: list[Event] = []

    def add(
        self, kind: type[Event], at: datetime, body: dict[str, object], error: FlowstoneError | None = None
    ) -> None:
        """Add an event.

        Args:
            kind: Its type.
            at: When, on the store's clock.
            body: Its fields, JSON-compatible; a partition key encoded.
            error: Its `error` field.
        """
        self.last += 1
        if error is not None:
            body["error"] = error_body(error, body.get("partition"))
        record = EventRecord(self.last, kind.type, at, body)
        self._records.append(record)
        self.told.note(record)
        if self._hooked and self._hooks.wants(kind):
            event = event_of(self._pipeline, self._run_id, record)
            self._events.append(event if error is None else dataclasses.replace(event, error=error))

    def add_all(self, events: Iterable[EventRecord]) -> None:
        """Add events that have no number yet."""
        for event in events:
            self.add(EVENT_TYPES[event.type], event.at, dict(event.body))

    @property
    def pending(self) -> bool:
        """Whether anything waits for the next commit."""
        return bool(self._records)

    def left(self, now: datetime) -> list[EventRecord]:
        """Return the events that tell of gates that are open when somebody else ends the run; not numbered."""
        return self.told.cancelled(now, until=self.last - len(self._records))

    def take_events(self) -> list[Event]:
        """Return the typed events added since, to emit them ahead of their commit."""
        events, self._events = self._events, []
        return events

    def take(self) -> tuple[tuple[EventRecord, ...], list[Event]]:
        """Return what has been added since, as records to commit and typed events to emit afterwards."""
        records, events = tuple(self._records), self._events
        self._records, self._events = [], []
        return records, events


def error_body(error: FlowstoneError, partition: object = None) -> dict[str, object]:
    """Return an error as JSON-compatible values."""
    return dataclasses.asdict(describe(error, partition=partition if isinstance(partition, str) else None))


def failure_of(body: Mapping[str, Any]) -> Failure:
    """Return the failure that `error_body` described; unknown fields are ignored."""
    known = {each.name for each in dataclasses.fields(Failure)}
    return Failure(**{name: value for name, value in body.items() if name in known})


def event_of(pipeline: str, run_id: str, record: EventRecord) -> Event:
    """Return a stored event as its type."""
    kind = EVENT_TYPES.get(record.type, Event)
    known = {each.name for each in dataclasses.fields(kind)}
    fields: dict[str, Any] = {name: value for name, value in record.body.items() if name in known}
    if "partition" in fields:
        fields["partition"] = decode_key(fields["partition"])
    if isinstance(fields.get("error"), Mapping):
        failure = failure_of(fields["error"])
        fields["error"] = rebuild(failure, partition=decode_key(failure.partition or ""))
    if isinstance(fields.get("due"), str):
        fields["due"] = datetime.fromisoformat(fields["due"])
    if "targets" in fields:
        fields["targets"] = tuple(fields["targets"])
    return kind(pipeline=pipeline, run_id=run_id, at=record.at, no=record.no, **fields)
