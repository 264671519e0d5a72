"""What the engine costs per asset, in memory: nothing is stored outside the process and the bodies do nothing.

The floor is the cheapest correct scheduler there is: counters of open inputs, and a finishing worker that goes on
inline with what became ready. `asyncio_task` is one asyncio task per asset instead.
"""

from __future__ import annotations

import asyncio
from collections import deque

from benchmarks.harness import Options, median_seconds, options, show
from flowstone_async import Pipeline, dep


async def first() -> int:
    return 1


async def following(before: int) -> int:
    return before


def chain(length: int) -> Pipeline:
    pipe = Pipeline("chain")
    pipe.add(first, name="a0")
    for number in range(1, length):
        pipe.add(following, name=f"a{number}", deps={"before": f"a{number - 1}"})
    return pipe


def fan_out(width: int) -> Pipeline:
    pipe = Pipeline("fan_out")
    pipe.add(first, name="root")
    for number in range(width - 1):
        pipe.add(following, name=f"a{number}", deps={"before": "root"})
    return pipe


def three() -> Pipeline:
    pipe = Pipeline("three")

    @pipe.asset
    async def raw() -> list[int]:
        return [1, 2, 3, 4, 5]

    @pipe.asset
    async def doubled(raw: list[int]) -> list[int]:
        return [n * 2 for n in raw]

    @pipe.asset
    async def total(numbers: list[int] = dep(doubled)) -> int:
        return sum(numbers)

    return pipe


async def inline(dependants: list[list[int]], missing: list[int]) -> None:
    """Run a graph with counters and inline continuation: the floor."""
    left = list(missing)
    values = [0] * len(left)
    ready = deque(index for index, count in enumerate(left) if not count)
    while ready:
        index = ready.popleft()
        values[index] = await first()
        for dependant in dependants[index]:
            left[dependant] -= 1
            if not left[dependant]:
                ready.append(dependant)


async def in_tasks(dependants: list[list[int]], missing: list[int]) -> None:
    """Run a graph with one asyncio task per asset."""
    left = list(missing)

    async def one(index: int, group: asyncio.TaskGroup) -> None:
        await first()
        for dependant in dependants[index]:
            left[dependant] -= 1
            if not left[dependant]:
                group.create_task(one(dependant, group))

    async with asyncio.TaskGroup() as group:
        for index, count in enumerate(missing):
            if not count:
                group.create_task(one(index, group))


def shape(pipe: Pipeline) -> tuple[list[list[int]], list[int]]:
    graph = pipe.compiled()
    place = {name: index for index, name in enumerate(graph.order)}
    dependants = [[place[each] for each in graph.dependants[name]] for name in graph.order]
    return dependants, [len(graph.nodes[name].upstreams) for name in graph.order]


async def measure(given: Options, name: str, pipe: Pipeline, targets: tuple[str, ...], count: int) -> None:
    graph = shape(pipe)
    floor = await median_seconds(5, lambda: inline(*graph))
    tasks = await median_seconds(5, lambda: in_tasks(*graph))
    await pipe.run(*targets)
    taken = await median_seconds(given.repeat(7, 3), lambda: pipe.run(*targets, force="all"))
    micro = 1e6 / count
    show(
        given,
        name,
        floor=floor * micro,
        figure=taken * micro,
        unit="us_per_asset",
        aim="20 us",
        asyncio_task=tasks * micro,
    )


async def main() -> None:
    given = options(__doc__)
    length, width = 1000, 10_000
    await measure(given, "chain_1000", chain(length), (f"a{length - 1}",), length)
    pipe = fan_out(width)
    await measure(given, "fanout_10000", pipe, pipe.assets(), width)
    pipe, graph = three(), shape(three())
    await pipe.run("total")
    floor = await median_seconds(200, lambda: inline(*graph))
    taken = await median_seconds(given.repeat(500, 100), lambda: pipe.run("total", force="all"))
    show(given, "run_3_assets", floor=floor * 1e3, figure=taken * 1e3, unit="ms", aim="0.5 ms")


if __name__ == "__main__":
    asyncio.run(main())
