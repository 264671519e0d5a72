"""What a worker is at: which assets of which runs are being computed."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from flowstone_async.definition.key_text import format_key
from flowstone_async.definition.keys import PartitionKey
from flowstone_async.engine import Engine
from flowstone_async.events import AssetEvent, AssetFinished, AssetStarted, Event, RunEvent, RunFinished

_SHOWN = 10


class AtWork:
    """Hears of an engine's events and remembers what has begun and not ended."""

    def __init__(self) -> None:
        self._assets: dict[tuple[str, str], None] = {}
        self.runs: dict[str, None] = {}

    def attach(self, engine: Engine) -> None:
        """Hear of an engine's events from now on."""
        for kind in (RunEvent, AssetEvent):
            engine.on(kind)(self.hear)

    async def hear(self, event: Event) -> None:
        """Take an event into account."""
        if isinstance(event, RunFinished):
            self.runs.pop(event.run_id, None)
            self._assets = {each: None for each in self._assets if each[0] != event.run_id}
        elif event.run_id:
            self.runs[event.run_id] = None
        if isinstance(event, AssetStarted):
            self._assets[event.run_id, _name(event)] = None
        elif isinstance(event, AssetFinished):
            self._assets.pop((event.run_id, _name(event)), None)

    def keep(self, runs: Collection[str]) -> None:
        """Forget runs that are not among these: what ends a run from elsewhere is not told here."""
        self.runs = {each: None for each in self.runs if each in runs}
        self._assets = {each: None for each in self._assets if each[0] in runs}

    def describe(self) -> str:
        """Return what is being computed, for people; empty if nothing is."""
        names = [f"{name} (run {run_id})" for run_id, name in self._assets]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return ", ".join(names[:_SHOWN]) + more


def _name(event: AssetEvent) -> str:
    key = cast("PartitionKey | None", event.partition)
    return event.asset if key is None else f"{event.asset} [{format_key(key)}]"
