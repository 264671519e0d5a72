"""The results of a scatter: reading them, gathering them, and who may not take them (SCAT-17, 18, 20, 25)."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence, Sized
from dataclasses import FrozenInstanceError
from typing import Annotated, Any

import pytest

from flowstone_async import (
    ConfigError,
    Context,
    ExecutionError,
    Failed,
    Gathered,
    ItemFailure,
    Keys,
    NotFound,
    Pipeline,
    Retry,
    TimedOut,
    dep,
)
from flowstone_async.definition.binding import DependencyBinding
from flowstone_async.definition.compatibility import read_from
from tests.unit.definition.reading import codes, line_here, only, problems, untyped


class Image:
    """What is made of a URL."""


def _pipe() -> tuple[Pipeline, Any]:
    pipe = Pipeline("p")

    @pipe.scatter(["u"])
    async def images(url: str) -> Image:
        return Image()

    return pipe, images


def _edges(pipe: Pipeline, name: str) -> dict[str, str]:
    """Return what the parameters of a body receive."""
    return {each.parameter: each.upstream for each in pipe.compiled().nodes[name].dependencies}


# -- reading --------------------------------------------------------------------------------------------------------


def _failure(**facts: Any) -> ItemFailure:
    given: dict[str, Any] = {"key": "k", "index": 3, "item": "u", "error": TimedOut("too long"), "attempts": 2}
    return ItemFailure(**{**given, **facts})


async def test_results_are_read_as_often_as_one_likes() -> None:
    """SCAT-17: values, pairs, failures, one value, counts."""
    results = Gathered.of(["a", "b"], failures=[_failure()])
    for _ in range(2):
        assert [value async for value in results] == ["a", "b"]
        assert [pair async for pair in results.items()] == [(0, "a"), (1, "b")]
        assert [failure.key async for failure in results.failures()] == ["k"]
    assert await results.get(1) == "b"
    assert (results.total, results.succeeded, results.failed, results.order) == (3, 2, 1, "source")
    assert repr(results) == "<Gathered: 2 of 3 succeeded, 1 failed>"
    for key in (2, -1, "a"):
        with pytest.raises(NotFound, match="no item has the key"):
            await results.get(key)


async def test_a_list_has_a_limit() -> None:
    """SCAT-17: nothing is read where there is more."""
    results = Gathered.of(["a", "b"])
    assert await results.to_list(limit=2) == ["a", "b"]
    with pytest.raises(ConfigError, match="the scatter has 2 results, more than limit=1") as caught:
        await results.to_list(limit=1)
    assert caught.value.hint == "Raise limit=, or iterate it with `async for`."
    with pytest.raises(ConfigError, match="limit=-1"):
        await results.to_list(limit=-1)
    assert await Gathered.of([]).to_list(limit=0) == []


async def test_results_are_no_collection() -> None:
    """SCAT-17: nothing in Python takes them for one."""
    results = untyped(Gathered.of(["a"]))
    assert [isinstance(results, kind) for kind in (AsyncIterable, Iterable, Sized)] == [True, False, False]
    for use in (len, list, lambda it: "a" in it, lambda it: it[0]):
        with pytest.raises(TypeError):
            use(results)


def test_a_failed_item() -> None:
    """SCAT-25: key, item, error type, message, trace, attempts and worker."""
    error = ExecutionError(
        "images failed: ValueError: x", details={"error_type": "ValueError"}, traceback_text="File …"
    )
    failure = _failure(error=error, worker="w1")
    assert (failure.error_type, failure.message) == ("ValueError", "images failed: ValueError: x")
    assert (failure.traceback_text, failure.attempts, failure.worker, failure.index) == ("File …", 2, "w1", 3)
    own = _failure()
    assert (own.error_type, own.message, own.traceback_text, own.worker) == ("TimedOut", "too long", "", None)
    with pytest.raises(FrozenInstanceError):
        untyped(own).key = 1


# -- gathering ------------------------------------------------------------------------------------------------------


def test_gathering_makes_an_asset() -> None:
    """SCAT-18: under its function's own name, with its own options and dependencies; the scatter is an upstream."""
    pipe, images = _pipe()
    pipe.constant("rate", 1)
    line = line_here(2)

    @images.gather
    async def album(results: Gathered[Image], rate: int, ctx: Context) -> list[Image]:
        """Keep all."""
        return await results.to_list(limit=10)

    @images.gather(name="renamed", retry=Retry(2), timeout="1m", tags=["a"])
    async def counted(results: Gathered[Image]) -> int:
        return results.succeeded

    @images.gather
    async def streamed(results: Gathered[Image]) -> AsyncIterator[Image]:
        async for image in results:
            yield image

    assert problems(pipe) == []
    assert _edges(pipe, "album") == {"results": "images", "rate": "rate"}
    info = pipe.asset_info(album)
    assert (info.kind, info.scatter, info.depends_on) == ("asset", False, ("images", "rate"))
    assert (info.description, info.value_type) == ("Keep all.", list[Image])
    assert info.location == f"tests/unit/definition/test_scatter_gather.py:{line}"
    assert (pipe.asset_info("renamed").retry, pipe.asset_info("renamed").tags) == (Retry(2), ("a",))
    assert pipe.asset_info("streamed").kind == "stream"
    assert [type(each).__name__ for each in (album, counted, streamed)] == ["Asset", "Asset", "StreamAsset"]


async def test_a_gathering_body_is_called_alone() -> None:
    """ASSET-02: a unit test gives it results of its own."""
    _, images = _pipe()

    @images.gather
    async def counted(results: Gathered[Image], more: int) -> int:
        return results.succeeded + more

    assert await counted(Gathered.of([Image(), Image()]), 1) == 3


def test_where_the_results_go() -> None:
    """SCAT-18: to the parameter called like the scatter, else to the first `Gathered` that is no other asset."""
    pipe, images = _pipe()

    @pipe.scatter([1])
    async def numbers(n: int) -> Image:
        return Image()

    @images.gather
    async def by_type(ctx: Context, x: Gathered[Image], numbers: Gathered[Image]) -> int:
        return 1

    @images.gather
    async def by_name(other: Gathered[Image] = dep(numbers), images=None) -> int:
        return 1

    @images.gather
    async def after_another(numbers: Gathered[Image], x: Gathered[Image]) -> int:
        return 1

    @images.gather
    async def by_marker(x: Gathered[Image] = dep(images), numbers: object = None) -> int:
        return 1

    @images.gather
    async def by_text(x: Gathered[Image] = dep("images")) -> int:
        return 1

    @images.gather
    async def by_note(x: Annotated[Gathered[Image], dep(images)]) -> int:
        return 1

    @images.gather
    async def or_failed(x: Gathered[Image] | Failed) -> int:
        return 1

    @images.gather
    async def bare(x: Gathered) -> int:
        return 1

    assert problems(pipe) == []
    assert _edges(pipe, "by_type") == {"x": "images", "numbers": "numbers"}
    assert _edges(pipe, "by_name") == {"other": "numbers", "images": "images"}
    assert _edges(pipe, "after_another") == {"numbers": "numbers", "x": "images"}
    assert _edges(pipe, "by_marker") == {"x": "images", "numbers": "numbers"}
    for name in ("by_text", "by_note", "or_failed", "bare"):
        assert _edges(pipe, name) == {"x": "images"}


def test_where_the_results_cannot_go() -> None:
    """SCAT-18: `FS163`; nothing is chosen silently."""
    pipe, images = _pipe()
    pipe.constant("rate", 1)

    @pipe.scatter([1])
    async def numbers(n: int) -> Image:
        return Image()

    @untyped(images).gather
    async def nowhere(rate: int) -> int:
        return rate

    @images.gather
    async def elsewhere(numbers: Gathered[Image]) -> int:
        return 1

    @untyped(images).gather
    def blocking(results: Gathered[Image]) -> int:
        return 1

    @untyped(images).gather
    async def misfit(results: Gathered[int]) -> int:
        return 1

    assert sorted(each for each in problems(pipe) if "FS101" not in each) == [
        "FS104 misfit(results: Gathered[int]) but asset 'images' produces Gathered[Image].",
        (
            "FS163 blocking: it gathers 'images', but is a plain def."
            " | Make it async def: the results are read with `async for`."
        ),
        (
            "FS163 elsewhere(numbers: Gathered[Image]) — it gathers 'images', but 'numbers' is another asset."
            " | Say numbers = dep(images), or give the parameter another name."
        ),
        (
            "FS163 nowhere: no parameter takes the results of 'images', which it gathers."
            " | Take them first: results: Gathered[...]."
        ),
    ]


def test_misuse_of_the_decorator() -> None:
    """SCAT-18."""
    _, images = _pipe()
    with pytest.raises(TypeError, match=r"gather\(\) got an unexpected keyword argument 'run_in'"):
        untyped(images).gather(run_in="thread")
    with pytest.raises(TypeError, match=r"gather\(\) takes a function, not 5"):
        untyped(images).gather(5)


def test_gathering_a_partitioned_scatter() -> None:
    """SCAT-18: key by key."""
    pipe, regions = Pipeline("p"), Keys("us", "eu")

    @pipe.scatter([1], partitions=regions)
    async def images(n: int, partition: str) -> Image:
        return Image()

    @images.gather
    async def album(results: Gathered[Image], partition: str) -> int:
        return 1

    @images.gather(tags=["a"])
    async def lines(results: Gathered[Image]) -> AsyncIterator[str]:
        yield ""

    @pipe.asset
    async def everywhere(parts: Mapping[str, Gathered[Image]] = dep(images, over=regions.all())) -> int:
        return 1

    assert problems(pipe) == []
    assert pipe.asset_info(album).partitions == regions
    names = [type(each).__name__ for each in (images, album, lines)]
    assert names == ["PartitionedScatterAsset", "PartitionedAsset", "PartitionedStreamAsset"]


def test_gathering_in_an_included_pipeline() -> None:
    """SCAT-18: each copy gathers the scatter of its own copy."""
    inner, images = _pipe()

    @images.gather
    async def album(results: Gathered[Image]) -> int:
        return 1

    @images.gather
    async def counted(images: Gathered[Image]) -> int:
        return 1

    outer = Pipeline("outer").include(inner, prefix="a_").include(inner, prefix="b_")
    for prefix in ("a_", "b_"):
        assert _edges(outer, f"{prefix}album") == {"results": f"{prefix}images"}
        assert _edges(outer, f"{prefix}counted") == {"images": f"{prefix}images"}


# -- dependants -----------------------------------------------------------------------------------------------------


def _down(pipe: Pipeline, annotation: object) -> None:
    """Add an asset that takes the results of `images` as annotated."""

    async def down(images):
        return 1

    down.__annotations__["images"] = annotation
    pipe.add(down)


@pytest.mark.parametrize(
    "annotation",
    [
        list[Image],
        dict[str, Image],
        Sequence[Image],
        Mapping[str, Image],
        tuple[Image, ...],
        set[Image],
        list,
        Iterable[Image],
    ],
    ids=str,
)
def test_results_are_never_a_list(annotation: Any) -> None:
    """SCAT-17: `FS162` names what to write instead."""
    pipe, _ = _pipe()

    _down(pipe, annotation)
    problem = only(pipe)
    assert problem.code == "FS162"
    assert problem.message.endswith("but asset 'images' is a scatter, whose results are never held whole.")
    assert problem.hint == "Annotate Gathered[Image]; for a list say await images.to_list(limit=...) in the body."


def test_results_of_several_keys_are_no_lists_either() -> None:
    """SCAT-17."""
    pipe, regions = Pipeline("p"), Keys("us", "eu")

    @pipe.scatter([1], partitions=regions)
    async def images(n: int) -> int:
        return n

    @untyped(pipe).asset
    async def down(parts: Mapping[str, list[int]] = untyped(dep(images, over=regions.all()))) -> int:
        return 1

    assert only(pipe).code == "FS162"
    assert "Annotate Gathered[int]" in (only(pipe).hint or "")


@pytest.mark.parametrize("annotation", [str, int, Image, Gathered[str]], ids=str)
def test_what_else_does_not_fit(annotation: Any) -> None:
    """SCAT-17, ASSET-15: is told as of any asset."""
    pipe, _ = _pipe()

    _down(pipe, annotation)
    assert codes(pipe) == ["FS104"]


@pytest.mark.parametrize(
    "annotation",
    [Gathered[Image], Gathered[object], Gathered, AsyncIterable[Image], object, Gathered[Image] | Failed],
    ids=str,
)
def test_who_may_take_results(annotation: Any) -> None:
    """SCAT-17: an ordinary asset too."""
    pipe, _ = _pipe()

    _down(pipe, annotation)
    assert problems(pipe) == []


def test_what_is_read_of_a_scatter() -> None:
    """SCAT-17, ASSET-19: the results gathered, whatever is known of one."""
    pipe, images = _pipe()

    @pipe.scatter([1])
    async def untold(n: int):
        return n

    @pipe.asset
    async def down(images: Gathered[Image], untold: Gathered[int]) -> int:
        return 1

    assert pipe.asset_info(images).value_type == Gathered[Image]
    assert pipe.asset_info(untold).value_type == Gathered[Any]
    nodes = pipe.compiled().nodes
    assert nodes["images"].value_type is Image
    (edge, _) = nodes["down"].bindings
    assert isinstance(edge, DependencyBinding)
    assert read_from(edge, nodes)[1] == Gathered[Image]
    assert edge.wanted == Gathered[Image]
