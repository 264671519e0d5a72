"""What a run has told of waits: found at once, however much that is (EVT-05)."""

from __future__ import annotations

from datetime import UTC, datetime

from typing_extensions import override

from flowstone_async._engine.told import Told
from flowstone_async.store.records import EventRecord
from flowstone_async.wait_events import GateOpened, GateTimedOut

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class _Id(str):
    """The id of a gate that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    @override
    def __eq__(self, other: object) -> bool:
        _Id.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_whether_the_end_of_a_gate_was_told_is_known_without_looking_through_all_of_them():
    """A body with thousands of waits asks for each of them whenever it is called again: that must not take seconds."""
    told, count = Told(), 500
    for number in range(count):
        body = {"asset": "a", "partition": None, "gate": _Id(f"gate {number}"), "due": None}
        told.note(EventRecord(2 * number + 1, GateOpened.type, NOW, body))
        told.note(EventRecord(2 * number + 2, GateTimedOut.type, NOW, body))
    _Id.compared = 0
    assert all(told.ended(_Id(f"gate {number}"), "a", "") for number in range(count))
    assert not told.ended(_Id("gate of nobody"), "a", "")
    assert _Id.compared < 10 * count
