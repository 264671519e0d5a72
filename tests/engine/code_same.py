"""The code of code_before.py with other comments, docstrings and formatting."""

from __future__ import annotations

from flowstone_async import Cache, Pipeline


def helper() -> int:
    """Help."""
    return 1  # one


def make(cache: Cache | bool = True) -> Pipeline:
    pipe = Pipeline("code")

    @pipe.asset(cache=cache)
    async def counted() -> int:
        """Count quite differently."""
        return (
            helper()
            + 1
        )  # fmt: skip

    return pipe
