"""Workers that live, and the queue that they take from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from starlette.responses import Response

from flowstone_async.web.operation import Answer, Call, Operation, Query, json_answer


class Worker(Answer):
    """An engine that owns runs, or may.

    Attributes:
        lease: Seconds that its lease has left, below 0 if it has run out; null where leases never do.
    """

    id: str
    host: str
    pid: int
    pipelines: list[str]
    started_at: datetime
    lease: float | None


class Queue(Answer):
    """The runs of this app's pipelines that have not ended.

    Attributes:
        queued: How many wait for a worker.
        later: How many more wait for the instant from which they may start.
        oldest_at: Since when the oldest that waits for a worker may start.
        running: How many are running.
        waiting: How many are suspended: they wait for no worker.
    """

    queued: int
    later: int
    oldest_at: datetime | None
    running: int
    waiting: int


class Workers(Answer):
    """Workers in the order in which they came, and the queue."""

    workers: list[Worker]
    queue: Queue


async def _list(call: Call[Query, None]) -> Response:
    store = call.session.store
    queue = await store.queue(tuple(call.session.catalogs))
    workers = [
        Worker(
            id=each.worker.id,
            host=each.worker.host,
            pid=each.worker.pid,
            pipelines=list(each.worker.pipelines),
            started_at=each.started_at,
            lease=each.lease,
        )
        for each in await store.workers()
    ]
    return json_answer(Workers(workers=workers, queue=Queue.model_validate(queue, from_attributes=True)))


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="listWorkers",
        method="GET",
        path="/api/v1/workers",
        summary="List the workers on the store, and count what waits for them.",
        tag="workers",
        permission="read",
        handler=_list,
        answers={200: Workers},
    ),
)
