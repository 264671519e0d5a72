"""Scatters that begin where one of an ended run is, in the transaction that stores their run."""

from __future__ import annotations

from collections.abc import Sequence

from flowstone_async.errors import ConfigError
from flowstone_async.store import redrives
from flowstone_async.store.postgres.connections import Session
from flowstone_async.store.postgres.identifiers import is_id
from flowstone_async.store.postgres.instants import Instants
from flowstone_async.store.postgres.ownership import write_audit
from flowstone_async.store.redrives import Redrive


class Trimming(Exception):
    """What others had read of a chain is to be deleted before it is gone on from.

    Args:
        root: The first one of the chain.
    """

    def __init__(self, root: object) -> None:
        super().__init__(f"the chain {root} is being trimmed")
        self.root = root


async def redrive(session: Session, instants: Instants, run_id: str, redrives: Sequence[Redrive]) -> None:
    """Begin scatters of a run that was just stored; done twice, it changes nothing more.

    Raises:
        ConfigError: One cannot be, and is required.
        Trimming: One cannot be yet.
    """
    # All at once: each of two redrives of one run would else hold what the other needs to end the run's scatters.
    await session.fetch("lock_siblings", [each.origin for each in redrives if is_id(each.origin)])
    for each in redrives:
        try:
            await _redrive(session, instants, run_id, each)
        except ConfigError:
            if each.required:
                raise


async def _redrive(session: Session, instants: Instants, run_id: str, asked: Redrive) -> None:
    rows = await session.fetch("lock_scatter", asked.origin) if is_id(asked.origin) else []
    if not rows:
        raise redrives.gone(asked.origin)
    [before] = rows
    for row in await session.fetch("redriven_by", asked.origin):
        if str(row["id"]) == asked.id:  # the answer to the first time was lost
            return
        raise redrives.redriven(asked.origin, str(row["run_id"]))
    for row in await session.fetch("trimmed", asked.origin):
        raise Trimming(row["scatter"])
    if before["state"] == "running":
        if before["active"]:
            raise redrives.goes_on(asked.origin, str(before["run_id"]))
        await _end(session, before["run_id"])
    await session.fetch("redrive_failures", asked.origin, asked.id, asked.only)
    [made] = await session.fetch("redrive_chunks", asked.origin, asked.id, asked.only)
    if before["sealed"] and made["final"] == before["total"] - made["rejoined"] and asked.required:
        raise redrives.nothing_left(asked.origin, refused=made["failed"], total=before["total"])
    given = (asked.origin, asked.id, run_id, asked.only, asked.before, made["final"], instants.given())
    await session.fetch("redrive_scatter", *given)
    await write_audit(session, () if asked.audit is None else (asked.audit,), instants.given())


async def _end(session: Session, run_id: object) -> None:
    """End the scatters that an ended run has left as they were, so that nobody adds to them any more."""
    scatters = [row["id"] for row in await session.fetch("end_scatters", run_id)]
    await session.fetch("cancel_chunks", scatters)
