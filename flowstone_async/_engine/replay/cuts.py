"""Mismatches of a body on record, and how each was resolved: what the body does anew from there on.

    mismatch/met#0        the code makes another call than is on record; a gate asks how to go on
    mismatch/resolved#0   it was said, or the code fits again: what is cut off, and which gates are new ones

A resolution is on record first, and takes effect whenever the body is looked up: what it cuts off is dropped then, if
whoever wrote it has not come to that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID, uuid5

from flowstone_async._engine.replay.scope import Place
from flowstone_async.store.steps import StepRecord

PATH = "mismatch"
How: TypeAlias = Literal["resume_at", "restart", "passed"]


class Seen(NamedTuple):
    """A mismatch.

    Attributes:
        key: Of the call.
        path: Of its scope.
        place: In that.
        record: Key of what is on record there.
        since: When the body first saw what is on record in its place (`StepRecord.seen`).
        expected: What is on record.
        found: What the code makes.
    """

    key: str
    path: str
    place: int
    record: str
    since: int
    expected: tuple[str, str, str]
    found: tuple[str, str, str]

    def is_same(self, other: Seen) -> bool:
        """Tell whether it is the same one; arguments may be others whenever the body is called."""
        return (self.key, self.expected, self.found[:2]) == (other.key, other.expected, other.found[:2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """How a mismatch was resolved.

    Attributes:
        mismatch: The first call that is made anew; what is before it stays.
        until: What the body had seen when it was resolved (`StepRecord.seen`): what it saw later is not cut off.
        gates: Keys of gates whose end is cut off.
    """

    how: How
    mismatch: Seen
    until: int
    gates: frozenset[str]

    def cuts(self, record: StepRecord) -> bool:
        """Tell whether it takes something off the record."""
        if self.how == "passed" or record.path == PATH:
            return False
        return (self.how == "restart" or record.seen >= self.mismatch.since) and record.seen < self.until

    def renews(self, place: Place) -> bool:
        """Tell whether a gate at a place is another one since."""
        if self.how != "resume_at":
            return self.how == "restart"
        at = self.mismatch
        return place.key in self.gates or (place.path == at.path and place.number >= at.place)


class Cuts:
    """The mismatches of a body, and their resolutions.

    Args:
        records: All of the body.
    """

    def __init__(self, records: Sequence[StepRecord] = ()) -> None:
        own = sorted((each for each in records if each.path == PATH), key=lambda each: each.place)
        self.met = [Seen(*_fields(each)) for each in own if each.kind == "mismatch"]
        self.resolved = [_resolved(each) for each in own if each.kind == "resolved"]

    @property
    def open(self) -> Seen | None:
        """The mismatch that is not resolved."""
        return self.met[-1] if len(self.met) > len(self.resolved) else None

    @property
    def number(self) -> int:
        """Of the mismatch that is not resolved, or of the next one."""
        return len(self.resolved)

    def cut_off(self, records: Sequence[StepRecord]) -> list[str]:
        """Return the keys of what is still there although it was cut off."""
        return [each.key for each in records if any(one.cuts(each) for one in self.resolved)]

    def gate(self, body: str, place: Place) -> str:
        """Return the id of a gate at a place in a body."""
        return self._gates(body, place)[-1]

    def former(self, body: str, place: Place) -> str | None:
        """Return the id that it had before the last resolution which made it another one."""
        return ([None, *self._gates(body, place)])[-2]

    def _gates(self, body: str, place: Place) -> list[str]:
        numbers = (number for number, each in enumerate(self.resolved) if each.renews(place))
        return [str(uuid5(UUID(body), place.key)), *(str(uuid5(UUID(body), f"{place.key}\0{no}")) for no in numbers)]


def gate_of(body: str, number: int) -> str:
    """Return the id of the gate that asks how to go on."""
    return str(uuid5(UUID(body), f"{PATH}#{number}"))


def met_place(number: int) -> Place:
    """Return the place of a mismatch."""
    return Place(f"{PATH}/met#{number}", PATH, 2 * number)


def resolved_place(number: int) -> Place:
    """Return the place of its resolution."""
    return Place(f"{PATH}/resolved#{number}", PATH, 2 * number + 1)


def met_value(mismatch: Seen) -> bytes:
    """Return what is on record of a mismatch."""
    return json.dumps(mismatch).encode()


def resolved_value(how: How, mismatch: Seen, records: Sequence[StepRecord]) -> bytes:
    """Return what is on record of a resolution.

    Args:
        how: What was said.
        mismatch: What it resolves.
        records: What the body has on record.
    """
    until = 1 + max((each.seen for each in records), default=-1)
    resolved = Resolved(how=how, mismatch=mismatch, until=until, gates=frozenset())
    waits = [each.key for each in records if each.kind in ("signal", "approval", "sleep") and resolved.cuts(each)]
    return json.dumps({"how": how, "mismatch": mismatch, "until": until, "gates": waits}).encode()


def _resolved(record: StepRecord) -> Resolved:
    found: dict[str, Any] = json.loads(record.value or b"")
    mismatch = Seen(*_read(found["mismatch"]))
    return Resolved(how=found["how"], mismatch=mismatch, until=found["until"], gates=frozenset(found["gates"]))


def _fields(record: StepRecord) -> Any:
    return _read(json.loads(record.value or b""))


def _read(found: Any) -> Any:
    *rest, expected, made = found
    return (*rest, tuple(expected), tuple(made))
