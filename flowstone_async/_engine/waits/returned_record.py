"""What is on record of a body that has returned a gate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

from flowstone_async._engine.replay.body import DurableBody
from flowstone_async._engine.replay.scope import Place
from flowstone_async.store.gates import Gate
from flowstone_async.types import AssetKey, Input

PATH = "returned"


class Proposal(NamedTuple):
    """What is on record of a request, beside its gate.

    Attributes:
        value: What is to be approved, encoded.
        filled: Whether the form is the value.
        told: How many are told at once.
        later: For each escalation its age in seconds, and how many are told then.
    """

    value: bytes
    filled: bool
    told: int
    later: tuple[tuple[float, int], ...]


class Kept(NamedTuple):
    """What is on record of a body that has returned a gate.

    Attributes:
        inputs: What it had consumed.
        notes: What it had noted of the value.
        proposal: What is to be approved; None with a gate for a signal.
    """

    gate: Gate
    inputs: tuple[Input, ...]
    notes: Mapping[str, object]
    proposal: Proposal | None = None


def place_of(number: int, name: str) -> Place:
    """Return the place of a record."""
    return Place(f"{PATH}/{name}#{number}", PATH, number)


def written(kept: Kept) -> bytes:
    """Return what goes on record."""
    gate, due = kept.gate, kept.gate.due
    facts = {
        "gate": gate.id,
        "key": gate.key,
        "name": gate.name,
        "seconds": due.total_seconds() if isinstance(due, timedelta) else None,
        "token": None if gate.token is None else gate.token.hex(),
        "facts": gate.facts,
        "inputs": kept.inputs,
        "notes": kept.notes,
        "kind": gate.kind,
    }
    if kept.proposal is None:
        return json.dumps(facts).encode()
    value, *rest = kept.proposal
    return json.dumps({**facts, "proposal": rest}).encode() + b"\n" + value


def read(record: bytes, durable: DurableBody) -> Kept:
    """Return what is on record."""
    head, _, value = record.partition(b"\n")
    facts = json.loads(head)
    gate = Gate(
        id=facts["gate"],
        run_id=durable.facts.run_id,
        body=durable.id,
        key=facts["key"],
        kind=facts.get("kind", "signal"),
        asset=durable.facts.key,
        name=facts["name"],
        due=None if facts["seconds"] is None else timedelta(seconds=facts["seconds"]),
        token=None if facts["token"] is None else bytes.fromhex(facts["token"]),
        facts=facts["facts"],
    )
    inputs = (
        Input(kind, name, fingerprint, None if key is None else AssetKey(*key), materialization)
        for kind, name, fingerprint, key, materialization in facts["inputs"]
    )
    proposal = None
    if "proposal" in facts:
        filled, told, later = facts["proposal"]
        proposal = Proposal(value, filled, told, tuple((age, count) for age, count in later))
    return Kept(gate, tuple(inputs), facts["notes"], proposal)
