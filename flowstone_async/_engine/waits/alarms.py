"""Alarms: times at which something is done about a wait that goes on: sleeps beside it, which nobody waits for.

A run whose bodies wait for people is suspended although alarms are set; the store wakes it for each.
"""

from __future__ import annotations

from flowstone_async.store.gates import Gate, GateKind

ALARM = "escalation"
"""What alarms are called: no other sleep is."""


def is_alarm(gate: Gate) -> bool:
    """Tell whether a gate is an alarm."""
    return gate.kind == "sleep" and gate.name == ALARM


def waits_as(gate: Gate) -> GateKind:
    """Return for what whoever awaits a run counts a gate as: an alarm as what it is set for."""
    return "approval" if is_alarm(gate) else gate.kind
