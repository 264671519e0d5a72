"""What came of a backfill."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from flowstone_async._engine.session import Session
from flowstone_async.definition.keys import decode_key
from flowstone_async.errors import FlowstoneError
from flowstone_async.failures import rebuild
from flowstone_async.store.records import AssetState
from flowstone_async.types import AssetKey

Outcome: TypeAlias = Literal["succeeded", "failed", "skipped"]
KEPT_ERRORS = 100


@dataclass(slots=True, kw_only=True)
class BackfillReport:
    """What came of a backfill; the four counts add up to the number of partitions.

    Attributes:
        skipped: Already fresh, not selected by `only`, or skipped by a condition.
        not_started: Left out after the first failure, with `on_error="halt"`.
        errors: By partition key, the first 100; the rest with `failures()`.
    """

    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    not_started: int = 0
    errors: dict[Any, FlowstoneError] = field(default_factory=dict[Any, FlowstoneError])
    _more: list[AssetKey] = field(default_factory=list[AssetKey], repr=False)
    _session: Session | None = field(default=None, repr=False, compare=False)

    async def _states(self, keys: list[AssetKey]) -> Mapping[AssetKey, AssetState]:
        return {} if self._session is None else await self._session.store.states(keys)

    def add_failure(self, key: Any, error: FlowstoneError, asset_key: AssetKey) -> None:
        """Count a failed partition; the first 100 are kept with their error, the others by their key alone."""
        self.failed += 1
        if len(self.errors) < KEPT_ERRORS:
            self.errors[key if isinstance(key, Hashable) else repr(key)] = error
        else:
            self._more.append(asset_key)

    @property
    def ok(self) -> bool:
        """Whether nothing failed and everything was started."""
        return not self.failed and not self.not_started

    async def failures(self) -> AsyncIterator[tuple[Any, FlowstoneError]]:
        """Yield every failed partition with its error, those beyond the first 100 read from the store."""
        for key, error in self.errors.items():
            yield key, error
        for start in range(0, len(self._more), KEPT_ERRORS):
            page = self._more[start : start + KEPT_ERRORS]
            states = await self._states(page)
            for key in page:
                partition = decode_key(key.partition)
                failure = states[key].error if key in states else None
                unknown = FlowstoneError("its failure is not on record any more", asset=key.asset, partition=partition)
                yield partition, unknown if failure is None else rebuild(failure, partition=partition)
