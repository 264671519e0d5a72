"""What a scatter fails with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowstone_async._engine.services import Services
from flowstone_async._engine.user_error import translated, wrapped
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.errors import ExecutionError, Failure, FlowstoneError, LeaseLost, ScatterThreshold, WorkerLost
from flowstone_async.failures import describe
from flowstone_async.planning.units import Unit
from flowstone_async.store.scatters import Chunk, Scatters

_FENCE = "trial"


def no_longer_ours(name: str) -> FlowstoneError:
    """Return the error for a scatter that the store lets this process add nothing to."""
    return LeaseLost(f"{name} is driven by another process now, or was ended by one")


def thing(kind: ScatterKind) -> str:
    """Return what the body of a scatter is called with, for people."""
    return "item" if kind.batch is None else "batch"


def worker_lost(kind: ScatterKind, name: str, index: int, lost: int) -> FlowstoneError:
    """Return the error of an item, or a batch, under which too many workers died."""
    return WorkerLost(
        f"{lost} workers died while they ran {thing(kind)} {index} of {name}",
        details={"lost": lost, "index": index},
        hint="It may exhaust memory or crash the interpreter: try it alone.",
    )


def on_trial(kind: ScatterKind, name: str, index: int, chunk: Chunk) -> Failure:
    """Return what is put on record of an item before it runs alone: only then the death of its worker is its own."""
    text = f"{chunk.lost} workers died while they had {thing(kind)} {index} of {name}: it runs with nothing beside it"
    return describe(WorkerLost(text, details={"lost": chunk.lost, "index": index, _FENCE: chunk.fence}))


def died_on_trial(chunk: Chunk) -> bool:
    """Return whether the owner of an item died while nothing but this item ran there."""
    return chunk.error is not None and chunk.error.details.get(_FENCE) == chunk.fence - 1


async def threshold(store: Scatters, scatter: str, name: str, kind: ScatterKind) -> ScatterThreshold:
    """Return the error of a scatter of which too many items failed."""
    tolerate, things = kind.tolerate, "items" if kind.batch is None else "batches"
    totals, errors = await store.totals(scatter), await store.errors(scatter, limit=5)
    total, done, failed = (0, 0, 0) if totals is None else (totals.total, totals.succeeded, totals.failed)
    most = "; ".join(f"{count} x {error.message}" for count, error in errors)
    allowed = " and ".join(
        text
        for text in (
            None if tolerate.count is None else f"{tolerate.count} {things}",
            None if tolerate.fraction is None else f"{tolerate.fraction:.4g} of all",
        )
        if text is not None
    )
    return ScatterThreshold(
        f"{failed} of {total} {things} of {name} failed, more than the {allowed} it tolerates: {most}",
        details={
            "total": total,
            "done": done,
            "failed": failed,
            "tolerated": {"count": tolerate.count, "fraction": tolerate.fraction},
            "errors": [
                {"count": count, "type": error.details.get("error_type", error.type), "message": error.message}
                for count, error in errors
            ],
        },
        hint="Mend what fails, or raise tolerate=.",
    )


def failing(
    kind: ScatterKind, unit: Unit, services: Services, run_id: str
) -> Callable[[BaseException, int], tuple[FlowstoneError, float | None]]:
    """Return what tells of an error of an item: the error, and seconds until the next attempt or None."""
    what = f"{'an' if kind.batch is None else 'a'} {thing(kind)} of {unit.node.name!r}"
    redactor = services.redactor

    def tell(error: BaseException, attempts: int) -> tuple[FlowstoneError, float | None]:
        if isinstance(error, asyncio.CancelledError):
            text = "the body raised CancelledError, although nobody cancelled it"
            told: FlowstoneError = wrapped(error, text, what, unit, run_id=run_id, attempt=attempts, redactor=redactor)
        else:
            told = translated(error, what, unit, run_id=run_id, attempt=attempts, redactor=redactor)
        asked = told.__cause__ if isinstance(told, ExecutionError) and told.__cause__ is not None else told
        policy = kind.retry
        return told, policy.wait(attempts) if policy.again(asked, attempts) else None

    return tell
