"""The code of code_before.py with another body."""

from __future__ import annotations

from flowstone_async import Cache, Pipeline


def helper() -> int:
    return 1


def make(cache: Cache | bool = True) -> Pipeline:
    pipe = Pipeline("code")

    @pipe.asset(cache=cache)
    async def counted() -> int:
        return helper() + 10

    return pipe
