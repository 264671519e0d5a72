"""The code of code_before.py with another helper."""

from __future__ import annotations

from flowstone_async import Cache, Pipeline


def helper() -> int:
    return 100


def make(cache: Cache | bool = True) -> Pipeline:
    pipe = Pipeline("code")

    @pipe.asset(cache=cache)
    async def counted() -> int:
        return helper() + 1

    return pipe
