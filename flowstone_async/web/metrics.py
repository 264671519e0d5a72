"""Figures for Prometheus. Labels are states, operations and names from code: never a key, a partition or a token."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import anyio.lowlevel
from starlette.responses import Response

from flowstone_async.limits.status import status_of
from flowstone_async.store.gates import GATE_KINDS
from flowstone_async.web.operation import Call, Operation, Query
from flowstone_async.web.state import WebState

MEDIA = "text/plain; version=0.0.4; charset=utf-8"
_MOST_LIMITS = 100


class Figure(NamedTuple):
    """A metric with its samples: labels and value."""

    name: str
    kind: str
    help: str
    samples: list[tuple[dict[str, str], float]]


async def _metrics(call: Call[Query, None]) -> Response:
    begun = time.perf_counter()
    await anyio.lowlevel.checkpoint()
    delay = time.perf_counter() - begun
    figures = [*await _stored(call), *await _limits(call), *_own(call.state, delay)]
    return Response("".join(_lines(figures)), media_type=MEDIA)


async def _stored(call: Call[Query, None]) -> Iterable[Figure]:
    store, pipelines = call.session.store, tuple(call.session.catalogs)
    queue, figures = await store.queue(pipelines), await store.figures(pipelines)
    age = 0.0 if queue.oldest_at is None else max(0.0, (store.now() - queue.oldest_at).total_seconds())
    live = [each for each in await store.workers() if each.lease is None or each.lease > 0]
    runs = {"queued": queue.queued, "later": queue.later, "running": queue.running, "waiting": queue.waiting}
    return [
        Figure(
            "flowstone_runs", "gauge", "Runs of this app's pipelines that have not ended.",
            [({"state": state}, count) for state, count in runs.items()],
        ),
        Figure("flowstone_queue_age_seconds", "gauge", "How long the oldest queued run has waited.", [({}, age)]),
        Figure(
            "flowstone_gates", "gauge", "Gates that runs of this app's pipelines wait for, by kind.",
            [({"kind": kind}, figures.gates.get(kind, 0)) for kind in GATE_KINDS],
        ),
        Figure(
            "flowstone_items", "gauge", "Items of scatters of running runs, by state.",
            [({"state": state}, getattr(figures, state)) for state in ("pending", "waiting", "succeeded", "failed")],
        ),
        Figure("flowstone_workers", "gauge", "Workers with a lease.", [({}, len(live))]),
    ]  # fmt: skip


async def _limits(call: Call[Query, None]) -> Iterable[Figure]:
    declared = call.session.services.limits.declared
    names = sorted(declared)[:_MOST_LIMITS]
    found = await call.session.store.limits.states(names) if names else ()
    states = [status_of(each, declared.get(each.key)) for each in found]
    return [
        Figure(
            "flowstone_limit_used", "gauge", "Permits that count, or slots held, of limits that the engine declares.",
            [({"limit": each.key}, each.count) for each in states],
        ),
        Figure(
            "flowstone_limit_size", "gauge", "How many may count, or be held, of such a limit.",
            [({"limit": each.key}, each.limit) for each in states if each.limit is not None],
        ),
        Figure(
            "flowstone_limit_waiting", "gauge", "How many wait for such a limit.",
            [({"limit": each.key}, each.waiting) for each in states],
        ),
    ]  # fmt: skip


def _own(state: WebState, delay: float) -> Iterable[Figure]:
    answered = sorted(state.answered.items())
    return [
        Figure(
            "flowstone_http_answers_total", "counter", "Answers of this process, by operation and class of status.",
            [({"operation": name, "status": f"{kind}xx"}, count) for (name, kind), count in answered],
        ),
        Figure("flowstone_event_streams", "gauge", "Streams of events open in this process.", [({}, state.streams)]),
        Figure("flowstone_loop_delay_seconds", "gauge", "How long the event loop took to come round.", [({}, delay)]),
    ]  # fmt: skip


def _lines(figures: Iterable[Figure]) -> Iterator[str]:
    for figure in figures:
        yield f"# HELP {figure.name} {figure.help}\n# TYPE {figure.name} {figure.kind}\n"
        for labels, value in figure.samples:
            told = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            yield f"{figure.name}{{{told}}} {value:g}\n" if told else f"{figure.name} {value:g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        name="metrics",
        method="GET",
        path="/metrics",
        summary="Figures in the text format of Prometheus.",
        tag="health",
        permission="read",
        handler=_metrics,
        answers={200: "text/plain"},
    ),
)
