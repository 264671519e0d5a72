"""An asset whose code is about to change; see test_cache_policies.py."""

from __future__ import annotations

from flowstone_async import Cache, Pipeline


def helper() -> int:
    return 1


def make(cache: Cache | bool = True) -> Pipeline:
    pipe = Pipeline("code")

    @pipe.asset(cache=cache)
    async def counted() -> int:
        """Count."""
        # a comment
        return helper() + 1

    return pipe
