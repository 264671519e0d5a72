"""Reads of asset states and of runs: calls that wait at the same time share one query."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Generic, TypeVar

from asyncpg import Record
from typing_extensions import override

from flowstone_async.errors import FlowstoneError, StoreUnavailable
from flowstone_async.store.postgres.connections import Connections
from flowstone_async.store.postgres.errors import closed
from flowstone_async.store.postgres.identifiers import is_id
from flowstone_async.store.postgres.rows import asset_state, run_record
from flowstone_async.store.records import AssetState, RunRecord
from flowstone_async.types import AssetKey

K = TypeVar("K")
V = TypeVar("V")
_MOST_KEYS = 5_000


class Question(Generic[K, V]):
    """One call that waits."""

    __slots__ = ("answer", "keys")

    def __init__(self, keys: Collection[K]) -> None:
        self.keys = dict.fromkeys(keys)
        self.answer: asyncio.Future[Mapping[K, V]] = asyncio.get_running_loop().create_future()


class Reader(Generic[K, V]):
    """Answers questions of one kind, as many at a time as are waiting.

    Args:
        connections: To the server.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._waiting: list[Question[K, V]] = []
        self._wake = asyncio.Event()
        self._serves = self._closed = False

    async def read(self, keys: Collection[K]) -> Mapping[K, V]:
        """Return what is known of keys."""
        if not keys:
            return {}
        if self._closed or not self._serves:
            raise closed()
        question = Question[K, V](keys)
        self._waiting.append(question)
        self._wake.set()
        return await question.answer

    def close(self) -> None:
        """Answer what was asked, and no more."""
        self._closed = True
        self._wake.set()

    async def serve(self) -> None:
        """Answer questions, until closed."""
        self._serves = True
        try:
            while not self._closed or self._waiting:
                self._wake.clear()
                while self._waiting:
                    await self._answer(self._next())
                if not self._closed:
                    await self._wake.wait()
        finally:
            self._closed = True
            for question in self._waiting:
                if not question.answer.done():
                    question.answer.set_exception(closed())

    def _next(self) -> list[Question[K, V]]:
        count, size = 0, 0
        for question in self._waiting:
            size += len(question.keys)
            if count and size > _MOST_KEYS:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def _answer(self, questions: list[Question[K, V]]) -> None:
        try:
            found = await self._look_up(dict.fromkeys(key for question in questions for key in question.keys))
        except FlowstoneError as error:
            for question in questions:
                await self._answer_alone(question, error, alone=len(questions) == 1)
            return
        for question in questions:
            if not question.answer.done():
                question.answer.set_result({key: state for key in question.keys if (state := found.get(key))})

    async def _answer_alone(self, question: Question[K, V], error: FlowstoneError, *, alone: bool) -> None:
        """Answer one question of several that failed together: perhaps another's keys were to blame."""
        if not alone and not isinstance(error, StoreUnavailable):
            await self._answer([question])
        elif not question.answer.done():
            question.answer.set_exception(error)

    async def _look_up(self, keys: Collection[K]) -> Mapping[K, V]:
        found: dict[K, V] = {}
        names = list(keys)
        for start in range(0, len(names), _MOST_KEYS):
            found |= await self._fetch(names[start : start + _MOST_KEYS])
        return found

    async def _fetch(self, keys: list[K]) -> dict[K, V]:
        raise NotImplementedError


class StateReader(Reader[AssetKey, AssetState]):
    """Answers `states`."""

    @override
    async def _fetch(self, keys: list[AssetKey]) -> dict[AssetKey, AssetState]:
        rows: list[Record] = await self._connections.fetch("states", *zip(*keys, strict=True))
        return {state.key: state for state in map(asset_state, rows)}


class RunReader(Reader[str, RunRecord]):
    """Answers `run`: whoever awaits many runs hears of several ends at once."""

    async def run(self, run_id: str) -> RunRecord | None:
        """Return a run, or None if there is none."""
        return (await self.read((run_id,))).get(run_id) if is_id(run_id) else None

    @override
    async def _fetch(self, keys: list[str]) -> dict[str, RunRecord]:
        return {run.id: run for run in map(run_record, await self._connections.fetch("runs_known", keys))}
