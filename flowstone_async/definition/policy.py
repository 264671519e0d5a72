"""Policies of an asset: how often it is tried again, and when a stored value is reused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from flowstone_async.retry import Backoff, Duration, Retry, duration_problem

__all__ = ["Backoff", "Cache", "CachePolicy", "CodeChange", "Duration", "Retry"]

CodeChange: TypeAlias = Literal["report", "rerun"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """When a stored value is reused.

    Attributes:
        ttl: Longest age of a value, from its commit on the store's clock; a value exactly as old is stale.
        version: Declared version of the computation; a different one makes stored values stale.
        key: Takes the body's arguments by the same rules and returns text that stands for all inputs.
        on_code_change: Whether a change of the code is only reported or makes the value stale.
    """

    ttl: Duration | None = None
    version: str | None = None
    key: Callable[..., object] | None = None
    on_code_change: CodeChange = "report"

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values, one sentence each."""
        if self.ttl is not None:
            yield from duration_problem("Cache", "ttl", self.ttl)
        version: object = self.version
        if version is not None and not isinstance(version, str):
            yield f"Cache(version={self.version!r}): a version is text"
        if self.key is not None and not callable(self.key):
            yield f"Cache(key={self.key!r}): a key is a function that returns text"
        if self.on_code_change not in ("report", "rerun"):
            yield f"Cache(on_code_change={self.on_code_change!r}): allowed are 'report', 'rerun'"


CachePolicy: TypeAlias = Cache | bool | Literal["exists"]
