"""Gates that bodies return without saying so."""

from __future__ import annotations

from flowstone_async.approval_gate import ApprovalGate
from flowstone_async.definition.graph import BoundGate
from flowstone_async.errors import ConfigError
from flowstone_async.signals import SignalGate


def is_unasked(value: object, gate: BoundGate | None) -> bool:
    """Tell whether a body has returned a gate of a kind that it may not return."""
    if isinstance(value, SignalGate):
        return gate is None or not gate.signals
    return isinstance(value, ApprovalGate) and (gate is None or not gate.asks)


def unasked(asset: str, value: object) -> ConfigError:
    """Return the error for a body that returned a gate and does not say so."""
    if isinstance(value, ApprovalGate):
        return ConfigError(
            f"the body of asset {asset!r} returned a request for approval, which cannot be its value",
            asset=asset,
            hint="Annotate it `T | ApprovalGate[T]`, T for its value, or ask inline: ctx.approval(...).",
        )
    return ConfigError(
        f"the body of asset {asset!r} returned a gate, which cannot be its value",
        asset=asset,
        hint="Say @pipe.asset(signal=YourModel) and annotate it `T | SignalGate[YourModel]`, or await the gate.",
    )
