"""Asking user functions before a body is called: conditions, and cache keys."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from flowstone_async._engine.arguments import prepare
from flowstone_async._engine.limiting import attempt_limits
from flowstone_async._engine.observing import ObservedValues
from flowstone_async._engine.outcome import Settled
from flowstone_async._engine.running import Running
from flowstone_async._engine.user_error import translated
from flowstone_async.definition.binding import Binding
from flowstone_async.definition.context import Call
from flowstone_async.failures import ENDINGS
from flowstone_async.planning.units import Unit


async def ask_conditions(run: Running, unit: Unit) -> Settled | None:
    """Ask `when` and `unless`; None if the asset runs, else how it ends. One that raises fails the asset."""
    for condition in unit.node.conditions:
        try:
            answer = await _ask(run, unit, condition.function, condition.bindings)
        except BaseException as error:
            _passed_on(error)
            return _failed(run, unit, f"condition {condition.name}", error)
        if not isinstance(answer, bool):
            wrong = TypeError(f"a condition answers True or False, not {answer!r}")
            return _failed(run, unit, f"condition {condition.name}", wrong)
        if answer is not condition.expected:
            word = "when" if condition.expected else "unless"
            return Settled("skipped", reason=f"{word}={condition.name} was {answer}")
    return None


async def ask_key(run: Running, unit: Unit) -> str | Settled:
    """Ask the cache key; its fingerprint, or how the asset ends because it failed."""
    function = unit.node.cache.key
    assert function is not None  # noqa: S101 - asked only of assets that have one
    try:
        answer = await _ask(run, unit, function, unit.node.key_bindings)
    except BaseException as error:
        _passed_on(error)
        return _failed(run, unit, "the cache key", error)
    if not isinstance(answer, str):
        return _failed(run, unit, "the cache key", TypeError(f"a cache key is text, not {type(answer).__name__}"))
    return blake2b(answer.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _passed_on(error: BaseException) -> None:
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
    if isinstance(error, ENDINGS):
        raise error


async def _ask(run: Running, unit: Unit, function: Callable[..., object], bindings: Sequence[Binding]) -> Any:
    services = run.services
    observer = run.observe()
    call = Call(
        pipeline=unit.key.pipeline,
        asset=unit.node.name,
        partition=unit.partition,
        run_id=run.id,
        attempt=1,
        started_at=services.store.now(),
        params=run.request.params,
        limits=attempt_limits(run, unit, observer),
    )
    values = run if observer is None else ObservedValues(run, observer, services.given)
    scope = run.resources.inner("asset", observer)
    error: BaseException | None = None
    run.enter(unit.place)
    try:
        prepared = await prepare(values, unit, bindings, unit.asked, call, scope)
        answer = function(**prepared.arguments)
        return await answer if inspect.isawaitable(answer) else answer
    except BaseException as raised:
        error = raised
        raise
    finally:
        run.leave(unit.place, error)
        call.open = False
        await scope.close()
        if observer is not None:
            await observer.heard()


def _failed(run: Running, unit: Unit, what: str, cause: BaseException) -> Settled:
    told = f"{what} of asset {unit.node.name!r}"
    error = translated(cause, told, unit, run_id=run.id, attempt=1, redactor=run.services.redactor)
    return Settled("failed", error=error)
