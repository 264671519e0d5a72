"""The stores the contract is tried on: each one set of records, opened by as many engines as a test wants."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from typing_extensions import override

from flowstone_async.store.memory import MemoryStore
from flowstone_async.store.protocol import Store
from flowstone_async.store.records import Worker
from flowstone_async.types import AssetKey
from tests.contract import builders
from tests.contract.builders import Drive
from tests.contract.clock import SetClock


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What stands for an engine: its worker, its own store object, and whether it has heard that its lease is lost."""

    worker: Worker
    store: Store
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, *claims: AssetKey, **changes: object) -> Drive:
        """Start a run that this engine drives."""
        return await Drive.start(self.store, self.worker, *claims, **changes)


class Stores(ABC):
    """One set of records."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self._opened = AsyncExitStack()

    async def engine(self, *pipelines: str, lease: float | None = 30) -> Engine:
        """Open the records for another engine; closed at the end of the test."""
        engine = Engine(worker=builders.worker(*pipelines), store=self._store())
        await engine.store.open(engine.worker, lease=lease, lost=engine.lost.set)
        self._opened.push_async_callback(engine.store.close)
        return engine

    async def close(self) -> None:
        """Close what the test opened."""
        await self._opened.aclose()

    @abstractmethod
    async def kill(self, engine: Engine) -> None:
        """Let an engine's worker die: from now on its lease has expired."""

    @abstractmethod
    def _store(self) -> Store: ...


class MemoryStores(Stores):
    """Handles on one memory."""

    def __init__(self) -> None:
        super().__init__()
        self._memory = MemoryStore(self.clock)

    @override
    async def kill(self, engine: Engine) -> None:
        self._memory.expire(engine.worker.id)

    @override
    def _store(self) -> Store:
        return self._memory.share()
