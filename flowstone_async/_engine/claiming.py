"""Waiting for a key that another run computes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Protocol

import anyio

from flowstone_async._engine.services import Services
from flowstone_async.store.records import Advance, Advanced, Claimed, RunRecord
from flowstone_async.types import AssetKey

REFUSED = Advanced(accepted=False, at=datetime.min.replace(tzinfo=UTC))


class Claimant(Protocol):
    """A run, as far as claiming needs it."""

    id: str
    record: RunRecord
    services: Services

    @property
    def stopping(self) -> str | None:
        """Why nothing new starts; None while it goes on."""
        ...

    def lose(self) -> None:
        """The store refused a step."""
        ...


async def await_claim(run: Claimant, key: AssetKey) -> Claimed | None:
    """Claim a key as soon as the run that computes it has ended; None if the run stops meanwhile.

    It listens first and asks then, so that no release falls in between. A holder whose owner is dead is taken over
    here: nobody else may have a slot for it.
    """
    store = run.services.store
    while run.stopping is None:
        advanced = REFUSED
        async with anyio.create_task_group() as group:
            group.start_soon(_listen, run, key, name=f"run {run.id} listens for {key}")
            await asyncio.sleep(0)
            advanced = await store.advance(Advance(run_id=run.id, fence=run.record.fence, claims=(key,)))
            if not advanced.accepted or advanced.claims[key].granted:
                group.cancel_scope.cancel()
        if not advanced.accepted:
            run.lose()
        elif advanced.claims[key].granted:
            return advanced.claims[key]
        elif run.services.adopt is not None:
            await run.services.adopt(advanced.claims[key].holder)
    return None


async def _listen(run: Claimant, key: AssetKey) -> None:
    await run.services.store.changed(f"key:{key}", within=run.services.settings.poll)
