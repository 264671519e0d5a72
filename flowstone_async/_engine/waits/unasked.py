"""Gates that bodies return without saying so."""

from __future__ import annotations

from flowstone_async.approval_gate import ApprovalGate
from flowstone_async.definition.graph import BoundGate
from flowstone_async.errors import ConfigError
from flowstone_async.signals import SignalGate


def refuse_unasked(asset: str, gate: BoundGate | None, value: object) -> None:
    """Refuse a gate of a kind that a body may not return.

    Raises:
        ConfigError: It is one.
    """
    if _is_unasked(value, gate):
        raise _unasked(asset, value)


def _is_unasked(value: object, gate: BoundGate | None) -> bool:
    if isinstance(value, SignalGate):
        return gate is None or not gate.signals
    return isinstance(value, ApprovalGate) and (gate is None or not gate.asks)


def _unasked(asset: str, value: object) -> ConfigError:
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
