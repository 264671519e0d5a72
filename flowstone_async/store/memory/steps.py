"""Durable steps in memory. See docs/adr/0010-waiting.md."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from threading import RLock

from typing_extensions import override

from flowstone_async.errors import ConfigError
from flowstone_async.store.steps import StepRecord, Steps, StepTransaction, replaces


class MemorySteps(Steps):
    """Keeps steps; all handles of a memory share them.

    Args:
        lock: Guards the memory.
        owns: Tells whether a run is owned under a fence.
    """

    def __init__(self, lock: RLock, owns: Callable[[str, int], bool]) -> None:
        self._lock, self._owns = lock, owns
        self._of: dict[str, dict[str, dict[str, StepRecord]]] = {}

    @override
    async def record(self, run_id: str, fence: int, body: str, steps: Sequence[StepRecord]) -> bool:
        with self._lock:
            if not self._owns(run_id, fence):
                return False
            if steps:
                known = self._of.setdefault(run_id, {}).setdefault(body, {})
                for step in steps:
                    if step.key not in known or replaces(step, known[step.key]):
                        known[step.key] = step
            return True

    @override
    async def drop(self, run_id: str, fence: int, body: str, keys: Collection[str]) -> bool:
        with self._lock:
            if not self._owns(run_id, fence):
                return False
            known = self._of.get(run_id, {}).get(body, {})
            for key in keys:
                known.pop(key, None)
            return True

    @override
    async def recorded(self, run_id: str, body: str) -> tuple[StepRecord, ...]:
        with self._lock:
            known = self._of.get(run_id, {}).get(body, {})
            return tuple(sorted(known.values(), key=lambda step: step.seen))

    @override
    @asynccontextmanager
    async def transaction(self, run_id: str, fence: int, body: str) -> AsyncGenerator[StepTransaction]:
        raise ConfigError(
            "a memory store takes part in no transaction",
            hint="Open the engine on a Postgres database, or use ctx.step.",
        )
        yield

    def forget(self, run_id: str) -> None:
        """Forget the steps of a run that is forgotten."""
        self._of.pop(run_id, None)
