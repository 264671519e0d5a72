"""Whether all of a body waits durably: only then can it be dropped and called again.

Python does not tell what a task waits for. What can be seen from outside: the future that it waits for, and the frames
of its coroutine. A task is quiet if that future is a durable wait, or another quiet task, or stands for several of them
(`asyncio.gather`), or if it leaves a group of tasks that are all quiet. Everything else may come to an end by itself,
and counts as work.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, cast

import anyio.abc

_TASKS = "_flowstone_tasks"
"""Attribute of our own objects that name the tasks which somebody who waits in one of their methods waits for."""
_INNER = "_flowstone_inner"
"""Attribute of our own objects that drive a coroutine by hand: which one."""


def is_quiet(task: asyncio.Future[Any], waits: Callable[[asyncio.Future[Any]], bool]) -> bool:
    """Tell whether a task, and all that it waits for, waits durably.

    Args:
        task: Which one.
        waits: Tells of a future whether it is a durable wait that has not ended.
    """
    return isinstance(task, asyncio.Task) and _is_quiet(task, waits, set())


def _is_quiet(task: asyncio.Task[Any], waits: Callable[[asyncio.Future[Any]], bool], seen: set[int]) -> bool:
    if id(task) in seen:
        return True
    seen.add(id(task))
    waiter: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)
    if waiter is None or waiter.done():
        return False
    frames = list(_frames(task.get_coro()))
    if any(_is_timed(frame) for frame in frames):
        return False
    parts = () if waits(waiter) else _parts(frames, waiter)
    return parts is not None and all(
        part.done() or (isinstance(part, asyncio.Task) and _is_quiet(part, waits, seen))
        for part in (*parts, *_beside(frames))
    )


def _beside(frames: Iterable[FrameType]) -> Iterator[asyncio.Future[Any]]:
    """Return the tasks of groups that a task is in the middle of, as far as it calls them by a name."""
    for frame in frames:
        for value in frame.f_locals.values():
            if isinstance(value, asyncio.TaskGroup | anyio.abc.TaskGroup):
                yield from tuple(getattr(value, "_tasks", ()))
            else:
                yield from _named(value) or ()


def _named(owner: object) -> tuple[asyncio.Future[Any], ...] | None:
    """Return the tasks that one of our own objects names; None for anything else."""
    tasks = getattr(cast("Any", type(owner)), _TASKS, None)
    return None if tasks is None else tasks(owner)


def _is_timed(frame: FrameType) -> bool:
    """Tell whether something ends the wait when a time has passed: that is work of the body's own."""
    return frame.f_code.co_name == "wait_for" and frame.f_globals.get("__name__") == "asyncio.tasks"


def _parts(frames: Iterable[FrameType], waiter: asyncio.Future[Any]) -> Iterable[asyncio.Future[Any]] | None:
    """Return what a task waits for all of; None if that cannot be seen."""
    if isinstance(waiter, asyncio.Task):
        return (waiter,)
    gathered = getattr(waiter, "_children", None)
    if gathered:
        return gathered
    innermost = [frame for frame in frames if not isinstance(frame.f_locals.get("self"), asyncio.Event)][-1:]
    return _of_frame(innermost[0]) if innermost else None


def _of_frame(frame: FrameType) -> Iterable[asyncio.Future[Any]] | None:
    name, local = frame.f_code.co_name, frame.f_locals
    owner = local.get("self")
    if owner is not None and (tasks := _named(owner)) is not None:
        return tasks
    if name == "__aexit__" and isinstance(owner, asyncio.TaskGroup | anyio.abc.TaskGroup):
        return tuple(getattr(owner, "_tasks", ()))
    if name == "_wait" and frame.f_globals.get("__name__") == "asyncio.tasks" and local.get("timeout") is None:
        return tuple(local.get("fs", ()))
    return None


def _driven(frame: FrameType | None) -> object:
    """Return the coroutine that one of our own objects drives in a frame, if it does."""
    owner = None if frame is None else frame.f_locals.get("self")
    inner = getattr(cast("Any", type(owner)), _INNER, None)
    return None if inner is None else inner(owner)


def _frames(coroutine: object) -> Iterator[FrameType]:
    """Return the frames of a coroutine that is suspended, the innermost last."""
    while coroutine is not None:
        if inspect.iscoroutine(coroutine):
            frame, coroutine = coroutine.cr_frame, coroutine.cr_await
        elif inspect.isgenerator(coroutine):
            frame, coroutine = coroutine.gi_frame, coroutine.gi_yieldfrom or _driven(coroutine.gi_frame)
        else:
            return
        if frame is not None:
            yield frame
