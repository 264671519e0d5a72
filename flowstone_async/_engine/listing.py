"""Runs found on a store: one by its id, or page by page."""

from __future__ import annotations

from typing import get_args

from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target, find
from flowstone_async.config import whole, word
from flowstone_async.errors import ConfigError, RunNotFound
from flowstone_async.store.records import RunRecord, RunState

_MOST = 2**31 - 1
"""More runs than a store holds."""


async def find_run(session: Session, run_id: object, *, what: str = "run id") -> RunRecord:
    """Return the record of a run.

    Args:
        session: Of the engine.
        run_id: Its id.
        what: What the id was given as, for the message.

    Raises:
        RunNotFound: The store has no such run.
        ConfigError: It is no text.
    """
    if not isinstance(run_id, str):
        raise ConfigError(
            f"{what} {run_id!r} is no text", hint="Give the id of a run: `run.id` of its handle, `report.run_id`."
        )
    record = await session.services.store.run(run_id)
    if record is None:
        raise RunNotFound(f"no run {run_id!r} in this store", run_id=run_id, hint="`flowstone runs` lists them.")
    return record


async def list_runs(
    session: Session, *, state: RunState | None, asset: Target | None, limit: int, after: str | None
) -> tuple[RunRecord, ...]:
    """Return runs, newest first; see `Engine.runs`.

    Raises:
        AssetNotFound: There is no such asset.
        RunNotFound: `after` is no run of this store.
        ConfigError: Another option is wrong.
    """
    pipelines: tuple[str, ...] = tuple(session.catalogs)
    if state is not None:
        word(state, get_args(RunState), what="state")
    whole(limit, what="limit")
    name = None
    if asset is not None:
        catalog, name = find(session.catalogs, asset)
        pipelines = (catalog.graph.pipeline,)
    if after is not None:
        await find_run(session, after, what="after=")
    return await session.services.store.runs(
        pipelines=pipelines, state=state, asset=name, limit=min(limit, _MOST), after=after
    )
