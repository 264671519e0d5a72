"""Signals in memory that came before their gates."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from flowstone_async.store.gates import Gate, Outcome, Signal


class EarlySignals:
    """At most one for each gate that is to come, by its id or its token, until a time."""

    def __init__(self) -> None:
        self._kept: dict[str | bytes, tuple[Signal, datetime, datetime]] = {}

    def keep(self, address: str | bytes, signal: Signal, length: float, now: datetime) -> Outcome | None:
        """Keep a signal for so many seconds; or return what another one will be, which came first."""
        early, at, until = self._kept.get(address, (None, now, now))
        if early is not None and until > now:
            return Outcome("", "signalled", at, early.payload, early.signal_id)
        self._kept[address] = (signal, now, now + timedelta(seconds=length))
        return None

    def take(self, gate: Gate, now: datetime) -> Iterator[Outcome]:
        """Let go of what came for a gate; yield what it makes of the gate."""
        for address in filter(None, (gate.id, gate.token)):
            early, at, until = self._kept.pop(address, (None, now, now))
            if early is not None and until > now:
                yield Outcome(gate.id, "signalled", at, early.payload, early.signal_id)

    def prune(self, now: datetime) -> None:
        """Forget those whose time has passed."""
        self._kept = {address: early for address, early in self._kept.items() if early[2] > now}
