"""Scatters that begin where another is, and why one cannot be gone on from: the same words from every store."""

from __future__ import annotations

from typing import Literal, NamedTuple

from flowstone_async.errors import ConfigError
from flowstone_async.store.records import AuditEntry


class Redrive(NamedTuple):
    """A scatter that begins where one of an ended run is; see `Store.submit`.

    Attributes:
        origin: The one that it goes on from.
        id: Its own id.
        only: What is to be run: `failed` items and what never came to its end, `rest` for the latter alone, or `all`.
            Results of the others are its own from the beginning; so are failures of items that cannot be run at all.
            Batches that were split off stay so, with their numbers; with `all` they are part of their batches again and
            count no more, but keep their numbers.
        before: As `ScatterRecord.before`.
        required: Whether the run is not stored if this cannot be; otherwise it begins a scatter of its own.
        audit: The act, kept with it.
    """

    origin: str
    id: str
    only: Literal["failed", "rest", "all"]
    before: str = "{}"
    required: bool = True
    audit: AuditEntry | None = None


def gone(scatter: str) -> ConfigError:
    """Return the error for a scatter that is not in the store."""
    return ConfigError(
        "the items of that scatter are not in the store any more",
        details={"scatter": scatter},
        hint="They were invalidated or pruned. Run the asset anew.",
    )


def goes_on(scatter: str, run_id: str) -> ConfigError:
    """Return the error for a scatter whose run computes it still."""
    return ConfigError(
        f"the scatter has not ended: run {run_id} computes it",
        run_id=run_id,
        details={"scatter": scatter},
        hint="Await the run, or cancel it first.",
    )


def redriven(scatter: str, run_id: str) -> ConfigError:
    """Return the error for a scatter that another run has gone on from."""
    return ConfigError(
        f"the scatter was redriven already, by run {run_id}",
        run_id=run_id,
        details={"scatter": scatter, "run": run_id},
        hint="That run has its results: redrive that one.",
    )


def still_trimmed(chain: str) -> ConfigError:
    """Return the error for a scatter that others had gone on from, which were deleted with more than could go so soon.

    Args:
        chain: The id of the first scatter of the chain.
    """
    return ConfigError(
        "what a deleted run had read beyond that scatter is still being deleted",
        details={"scatter": chain},
        hint="Redrive it again in a while. `flowstone db prune` deletes what is left.",
    )


def nothing_left(scatter: str, *, refused: int, total: int) -> ConfigError:
    """Return the error for a scatter of which no item would be run again.

    Args:
        scatter: Its id.
        refused: Failed items that cannot be run at all.
        total: How many items it has.
    """
    if not total:
        return ConfigError(
            "the scatter has no items: its source gave none",
            details={"scatter": scatter},
            hint="Run the asset anew: force=True reads its source again.",
        )
    if refused:
        return ConfigError(
            f"the {refused} failed items of the scatter cannot be run: they could not be made or stored",
            details={"scatter": scatter, "refused": refused},
            hint="Mend the source, select= or key=, and run the asset anew.",
        )
    return ConfigError(
        "no item of the scatter failed, and none is left to be run",
        details={"scatter": scatter},
        hint='only="all" runs all of them again.',
    )
