"""A task that holds a task group, so that whoever opens and closes it may do so from different tasks.

The scopes: one host per engine (or per event loop of a pipeline while runs are active there); inside it a task per
run and per open resource; inside a run a group with its workers. Everything below has a parent and a name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

import anyio
from anyio.abc import TaskGroup


class Host:
    """Holds a task group in a task of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._task: asyncio.Task[None] | None = None
        self._stands, self._leave = asyncio.Event(), asyncio.Event()
        self._group: TaskGroup | None = None

    @property
    def stands(self) -> bool:
        """Whether children can be started."""
        return self._group is not None

    @property
    def group(self) -> TaskGroup:
        """The group; only while the host is open."""
        if self._group is None:
            raise RuntimeError(f"host {self.name!r} is not open")
        return self._group

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: object, name: str) -> None:
        """Start a child task, with the context variables of the caller."""
        self.group.start_soon(function, *args, name=name)

    async def open(self) -> None:
        """Start the task and wait until its group stands; a call that was cancelled may be repeated."""
        if self._task is None:
            self._stands, self._leave = asyncio.Event(), asyncio.Event()
            # The one task without a group as parent: it is the root that `close` awaits.
            self._task = asyncio.get_running_loop().create_task(self._hold(), name=self.name, context=Context())
        await self._stands.wait()

    async def _hold(self) -> None:
        async with anyio.create_task_group() as group:
            self._group = group
            self._stands.set()
            await self._leave.wait()
        self._group = None

    async def close(self, *, grace: float | None = None) -> None:
        """Wait for the children, then end; after `grace` seconds, or at once with 0, they are cancelled.

        An error of a child is raised here, and ends its siblings.
        """
        task = self._task
        if task is None:
            return
        self._leave.set()
        with anyio.CancelScope(shield=True):
            if grace is not None:
                await asyncio.wait([task], timeout=grace)
                if not task.done() and self._group is not None:
                    self._group.cancel_scope.cancel()
            await asyncio.wait([task])
        self._task = None
        await task


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
