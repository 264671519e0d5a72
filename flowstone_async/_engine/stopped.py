"""The errors of runs that did not come to their own end."""

from __future__ import annotations

from collections.abc import Sequence

from flowstone_async._engine.request import Request
from flowstone_async._engine.waits.alarms import is_alarm
from flowstone_async._engine.waits.mismatches import mismatch_of
from flowstone_async.errors import (
    Cancelled,
    ConfigError,
    ExecutionError,
    FlowstoneError,
    LeaseLost,
    StoreUnavailable,
    TimedOut,
    WaitingApproval,
    WaitingSignal,
    WorkerLost,
)
from flowstone_async.planning.units import Unit
from flowstone_async.store.gates import StoredGate

_SCATTER = 10
_SHOWN, _LISTED = 3, 100


def patience(unit: Unit, most: int) -> int:
    """Return how many workers may die under an asset before it fails, if `most` is what the engine says.

    An item of a scatter that ends its worker every time fails by itself once it is found out: that takes a few.
    """
    return most if unit.node.scatter is None else most * _SCATTER


def timed_out(run_id: str, request: Request) -> FlowstoneError:
    """The run took longer than its timeout."""
    return TimedOut(
        f"run of {', '.join(map(repr, request.targets))} took longer than its timeout of {request.timeout:g} s",
        run_id=run_id,
        details={"timeout": request.timeout},
        hint="Raise timeout= (False is no limit), or submit it; what was committed is kept and reused.",
    )


def cut_short(run_id: str, unit: Unit, request: Request) -> FlowstoneError:
    """An asset was being computed when its run ran out of time."""
    return TimedOut(
        f"asset {unit.node.name!r} was cut off by the timeout of its run, {request.timeout:g} s",
        asset=unit.node.name,
        partition=unit.partition,
        run_id=run_id,
        details={"timeout": request.timeout},
        hint="Raise timeout= (False is no limit); what was committed is kept and reused.",
    )


def asset_timed_out(unit: Unit, limit: float | None) -> FlowstoneError:
    """An attempt at an asset took longer than its timeout."""
    return TimedOut(
        f"asset {unit.node.name!r} took longer than its timeout of {limit:g} s",
        asset=unit.node.name,
        partition=unit.partition,
        details={"timeout": limit},
        hint="Raise timeout= on the asset, or find out what it waits for.",
    )


def cancelled(run_id: str) -> FlowstoneError:
    """The run was cancelled."""
    return Cancelled(f"run {run_id} was cancelled", run_id=run_id, hint="Run again; what was committed is reused.")


def lease_lost(run_id: str, unreachable: FlowstoneError | None = None) -> FlowstoneError:
    """Somebody else owns the run now, or may: the store could not be reached for longer than the lease."""
    if unreachable is not None:
        return StoreUnavailable(
            f"run {run_id} was broken off, for its lease ran out: {unreachable.message}",
            run_id=run_id,
            hint="Once the store can be reached, run the same again: what was committed is kept and reused.",
        )
    return LeaseLost(
        f"run {run_id} is owned by another worker now, or was ended by one; nothing more of it was written here",
        run_id=run_id,
        hint="Look at the run: the other worker continues it.",
    )


def broken_off(run_id: str, error: FlowstoneError) -> FlowstoneError:
    """The run was broken off because of an error; one that says that the store is away says how to go on, too."""
    if not isinstance(error, StoreUnavailable):
        return error
    found = StoreUnavailable(
        f"run {run_id} was broken off: {error.message}",
        run_id=run_id,
        details=error.details,
        hint=f"{error.hint or ''} Then run the same again: what was committed is kept and reused.".strip(),
    )
    found.__cause__ = error
    return found


def engine_lost(unreachable: FlowstoneError | None) -> FlowstoneError:
    """The engine was asked to run something after it had lost its lease."""
    told = "" if unreachable is None else f": {unreachable.message}"
    return LeaseLost(
        f"this engine has lost its lease, so that it can run nothing now{told}",
        hint="It comes back as soon as the store answers: try again then. `health()` tells when.",
    )


def closed(run_id: str) -> FlowstoneError:
    """The engine was left while the run was going on."""
    return Cancelled(
        f"the engine was closed before run {run_id} ended",
        run_id=run_id,
        hint="On a durable store another engine continues it; what was committed is kept.",
    )


def left() -> FlowstoneError:
    """Something was asked of an engine that was left."""
    return ConfigError(
        "the engine has been left", hint="Use it, its handles and its events inside `async with Engine(...)`."
    )


def bug(run_id: str, error: BaseException) -> FlowstoneError:
    """A mistake in the library."""
    found = FlowstoneError(
        f"run {run_id} broke off because of a mistake in flowstone_async: {type(error).__name__}: {error}",
        run_id=run_id,
        hint="Please report it with this traceback.",
    )
    found.__cause__ = error
    return found


def program_ended(run_id: str, unit: Unit, ending: BaseException) -> FlowstoneError:
    """User code raised what ends a program."""
    what = f"{type(ending).__name__}: {ending}".rstrip(": ")
    error = ExecutionError(
        f"asset {unit.node.name!r} ended the program: {what}",
        asset=unit.node.name,
        partition=unit.partition,
        run_id=run_id,
        details={"error_type": type(ending).__qualname__},
        hint="Raise an ordinary exception to fail the asset only.",
    )
    error.__cause__ = ending
    return error


def worker_lost(unit: Unit, lost: int) -> FlowstoneError:
    """Too many workers died under an asset."""
    return WorkerLost(
        f"{lost} workers died while they computed asset {unit.node.name!r}",
        asset=unit.node.name,
        partition=unit.partition,
        details={"lost": lost},
        hint="It may exhaust memory or crash the interpreter: try it alone, or with run_in='process'.",
    )


def deadly(run_id: str, lost: int) -> FlowstoneError:
    """So many workers died under a run that something beside its bodies must kill them."""
    return WorkerLost(
        f"{lost} workers died while they drove run {run_id}",
        run_id=run_id,
        details={"lost": lost},
        hint="A hook, a condition or a resource may end the process; or workers are killed for another reason.",
    )


def bereft(run_id: str) -> FlowstoneError:
    """The run's worker died, and what the run needs was only there."""
    return WorkerLost(
        f"the worker of run {run_id} died or gave it up, and no other can continue it",
        run_id=run_id,
        hint="Run it again: what was committed is reused. Only that process had its `io=` object or secret params.",
    )


def waiting(run_id: str, gates: Sequence[StoredGate]) -> FlowstoneError:
    """The run waits for somebody else: the error of a body that does not fit its record, where there is one."""
    gates = [each for each in gates if each.outcome is None and not is_alarm(each.gate)]
    changed = [each for each in gates if each.gate.kind == "mismatch"]
    if changed:
        return mismatch_of(changed[0].gate)
    names = ", ".join(f"{each.gate.name!r} of asset {each.gate.asset.asset!r}" for each in gates[:_SHOWN])
    more = f" and {len(gates) - _SHOWN} more" if len(gates) > _SHOWN else ""
    kind = WaitingApproval if any(each.gate.kind == "approval" for each in gates) else WaitingSignal
    shown = [{"gate": each.gate.id, "kind": each.gate.kind, "name": each.gate.name} for each in gates[:_LISTED]]
    return kind(
        f"run {run_id} is suspended: it waits for {names or 'nothing that is open'}{more}",
        run_id=run_id,
        details={"gates": shown},
        hint="Once somebody answers, any engine on the store goes on with it. The same call joins it; with "
        'on_wait="wait" it waits.',
    )
