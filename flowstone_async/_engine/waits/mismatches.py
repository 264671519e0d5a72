"""Gates at which bodies wait whose code has changed: what they say, as anybody reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from flowstone_async.definition.keys import decode_key
from flowstone_async.errors import Failure, FlowstoneError
from flowstone_async.failures import describe, rebuild
from flowstone_async.store.gates import Gate, StoredGate


def mismatch_facts(error: FlowstoneError) -> str:
    """Return what is stored of a mismatch (`Gate.facts`)."""
    return json.dumps({"mismatch": asdict(describe(error))}, default=str)


def mismatch_of(gate: Gate) -> FlowstoneError:
    """Return the error of a mismatch, from its gate."""
    found: dict[str, Any] = json.loads(gate.facts)["mismatch"]
    error = rebuild(Failure(**found), partition=decode_key(gate.asset.partition))
    error.details = {**error.details, "gate": gate.id}
    return error


def mismatches(gates: Iterable[StoredGate]) -> Mapping[tuple[str, str], FlowstoneError]:
    """Return the mismatches that wait for somebody, by asset and encoded partition."""
    return {
        (each.gate.asset.asset, each.gate.asset.partition): mismatch_of(each.gate)
        for each in gates
        if each.gate.kind == "mismatch" and each.state == "open"
    }
