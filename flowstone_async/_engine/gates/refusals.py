"""Why a signal was refused, for whoever sent it."""

from __future__ import annotations

from typing import Any

from flowstone_async.definition.keys import decode_key
from flowstone_async.errors import (
    AlreadySignalled,
    ConfigError,
    FlowstoneError,
    GateClosed,
    GateExpired,
    GateNotFound,
    PayloadInvalid,
)
from flowstone_async.store.gates import Delivered, StoredGate


def refused(delivered: Delivered, stored: StoredGate | None) -> FlowstoneError:
    """Return the error of a signal that a store did not take.

    Args:
        delivered: What became of it.
        stored: Its gate, if that is on record.
    """
    what, facts = _what(stored), _facts(stored)
    outcome = delivered.outcome
    details = {**facts.pop("details"), "at": None if outcome is None else outcome.at.isoformat()}
    match delivered.state:
        case "already":
            details["signal_id"] = None if outcome is None else outcome.signal_id
            return AlreadySignalled(
                f"{what} has had a signal, with another payload",
                details=details,
                hint="The first one stands. To send a signal again, repeat it as it was, or with the same id.",
                **facts,
            )
        case "expired":
            return GateExpired(
                f"the deadline of {what} has passed",
                details=details,
                hint="Nobody waits for it any more. Let it wait longer with timeout=, or return Rearm from on_timeout.",
                **facts,
            )
        case "closed":
            why = "its run has ended, or its body has begun anew"
            return GateClosed(
                f"nobody waits for {what} any more: {why}",
                details=details,
                hint="engine.gates.waiting() lists what is waited for; a body that has begun anew has new tokens.",
                **facts,
            )
        case _:
            return GateNotFound(
                "there is no such gate in this store",
                details=details,
                hint="Its run may be forgotten by now. Engine(early_signals=...) keeps signals that come first.",
                **facts,
            )


def other_kind(stored: StoredGate) -> GateNotFound:
    """What the token belongs to takes no signals."""
    hints = {"approval": "Decide it with approve() or reject().", "mismatch": "Resolve it with resolve()."}
    hint = hints.get(stored.gate.kind, "engine.gates.waiting(kind='signal') lists those that take signals.")
    return GateNotFound(f"gate {stored.gate.name!r} is no signal but of kind {stored.gate.kind}", hint=hint)


def located(error: PayloadInvalid, stored: StoredGate | None) -> PayloadInvalid:
    """Return the error of a payload with the asset and run that it was for."""
    if stored is None:
        return error
    facts = _facts(stored)
    details = {**facts.pop("details"), **error.details}
    return PayloadInvalid(error.message, details=details, hint=error.hint, **facts)


def no_secret() -> ConfigError:
    """Tokens cannot be checked."""
    return ConfigError(
        "this engine has no secret to check tokens of gates with",
        hint="Give Engine(secret=...) the bytes that the engine has which runs the pipeline.",
    )


def _what(stored: StoredGate | None) -> str:
    return "the gate" if stored is None else f"gate {stored.gate.name!r} of asset {stored.gate.asset.asset!r}"


def _facts(stored: StoredGate | None) -> dict[str, Any]:
    if stored is None:
        return {"details": {}}
    key = stored.gate.asset
    return {
        "asset": key.asset,
        "partition": decode_key(key.partition),
        "run_id": stored.gate.run_id,
        "details": {"gate": stored.gate.id},
    }
