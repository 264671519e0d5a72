"""Asking once more for what a run was asked for: whether its record holds all of it, and the record of the new run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from flowstone_async._engine.request import PARENT, Request
from flowstone_async._engine.resume import Past
from flowstone_async._engine.session import Session
from flowstone_async.errors import AssetNotFound, ConfigError
from flowstone_async.store.records import RunRecord
from flowstone_async.types import new_id


def request_again(session: Session, before: RunRecord) -> Request:
    """Return what a run was asked for, as a request of its own.

    Raises:
        ConfigError: Not all of it was stored.
        AssetNotFound: It is of a pipeline, or an asset, that the engine does not have.
    """
    if not before.continuable or before.unreadable is not None:
        raise ConfigError(
            f"run {before.id} cannot be repeated from its record: "
            f"{before.unreadable or 'its io= object or its secret params were not stored'}",
            run_id=before.id,
            hint="Submit it anew.",
        )
    if before.pipeline not in session.catalogs:
        raise AssetNotFound(
            f"run {before.id} is of pipeline {before.pipeline!r}, which this engine does not have",
            run_id=before.id,
            hint="Retry it with an engine that has the pipeline.",
        )
    return replace(Past().request(before, session.catalogs[before.pipeline]), run_id=None)


def record_again(
    before: RunRecord, added: Mapping[str, object], request: str, *, without: Collection[str] = ()
) -> RunRecord:
    """Return the record of a run that waits in the queue and is asked for the same.

    Args:
        before: The run that ended.
        added: Options beside those that it had.
        request: As `RunRecord.request`.
        without: Options that it does not have again.
    """
    left_out = {PARENT, *without}  # it stands for itself now
    options = {name: value for name, value in before.options.items() if name not in left_out}
    return replace(
        before,
        id=new_id(),
        options={**options, **added},
        state="queued",
        worker=None,
        fence=1,
        lost=0,
        created_at=None,
        finished_at=None,
        error=None,
        submitted=True,
        at=None,
        request=request,
    )
