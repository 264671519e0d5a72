"""The pipeline that the tests of the web side serve."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date

from pydantic import BaseModel, SecretStr

from flowstone_async import Context, Daily, Keys, Pipeline
from tests.support.gate import Gate

days = Daily("2025-01-01")


class Args(BaseModel):
    limit: int = 1
    day: date = date(2025, 1, 1)
    names: set[str] = set()
    key: SecretStr = SecretStr("")


@dataclass
class Point:
    x: int


class Opaque:
    """Has no JSON form."""


class Shop:
    """`held` waits at the gate, `asked` for somebody; `broken` fails; the second of `doubled` fails."""

    def __init__(self) -> None:  # noqa: C901 - an asset after the other
        pipe = self.pipe = Pipeline("shop", params=Args)
        self.gate, self.calls = Gate(), list[str]()
        self.heal = False

        @pipe.asset
        async def base(params: Args) -> list[str]:
            """What everything begins with."""
            self.calls.append("base")
            return [str(params.limit), str(params.day), *sorted(params.names)]

        @pipe.asset
        async def total(base: list[str]) -> int:
            return len(base)

        @pipe.asset(partitions=days)
        async def orders(partition: date) -> int:
            return partition.day

        @pipe.asset(partitions=Keys("ä|b", "plain", "..", "a/b"))
        async def keyed(ctx: Context) -> str:
            return str(ctx.partition)

        @pipe.asset
        async def held(ctx: Context) -> str:
            self.calls.append("held")
            await self.gate()
            return "done"

        @pipe.asset
        async def broken() -> int:
            raise ValueError("at https://ada:hunter2secret@example.org/?token=abc")

        @pipe.asset
        async def text() -> str:
            return "<script>alert('ä')</script>"

        @pipe.asset
        async def blob() -> bytes:
            return b"\x00\xff" * 10

        @pipe.asset
        async def numbers() -> AsyncIterator[int]:
            for number in range(5):
                yield number

        @pipe.asset
        async def large() -> list[str]:
            return ["password=hunter2secret", *("x" * 1000 for _ in range(100))]

        @pipe.asset
        async def point() -> Point:
            return Point(3)

        @pipe.scatter([1, 2, 3])
        async def doubled(number: int) -> int:
            if number == 2 and not self.heal:
                raise ValueError("two")
            return 2 * number

        _add_approval(pipe)


def _add_approval(pipe: Pipeline) -> None:
    @pipe.asset
    async def asked(ctx: Context) -> str:
        return (await ctx.approval("Buy it?", form=Point, show={"price": 5})).by or ""
