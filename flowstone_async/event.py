"""What every event has, and every event of an asset. The events are in `events.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened.

    Attributes:
        pipeline: Name of the pipeline; empty where it concerns all of an engine.
        run_id: The run it belongs to; empty where it belongs to none.
        at: When, on the store's clock.
        no: Its number within the run, from 1, without gaps: the cursor of `RunHandle.events`; 0 if it is not journaled.
        cursor: Its place among the events of all runs, where it was read by `Engine.events`; else 0.
    """

    type: ClassVar[str] = "event"

    pipeline: str
    run_id: str
    at: datetime
    no: int = 0
    cursor: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetEvent(Event):
    """Something that happened to one asset and partition in a run."""

    asset: str
    partition: object = None
