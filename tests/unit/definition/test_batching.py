"""How items are put together: what the option says, and what fits the body (BATCH-01, BATCH-03 to BATCH-06)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from flowstone_async import Batch, Batching, Item, Pipeline, Rate, dep, sources
from flowstone_async.definition.scatter import ScatterKind
from tests.unit.definition.reading import codes, only, problems, untyped


def _length(text: str) -> int:
    return len(text)


async def _async_length(text: str) -> int:
    return len(text)


def _batched(pipe: Pipeline, batch: object, source: object = ("a", "b")) -> ScatterKind:
    @untyped(pipe).scatter(source, batch=batch)
    async def scattered(texts: Batch[str]) -> int:
        return len(texts)

    kind = scattered.definition.kind
    assert isinstance(kind, ScatterKind)
    return kind


def test_what_holds_where_nothing_is_said() -> None:
    """BATCH-01, BATCH-03 to BATCH-06."""
    batching: Batching[str] = Batching()
    assert (batching.max_items, batching.max_bytes, batching.max_wait, batching.group_by) == (10, False, False, False)
    assert (batching.size, batching.shared) == (None, None)
    pipe = Pipeline("p")
    assert _batched(pipe, batching).batch is batching
    assert codes(pipe) == []


@pytest.mark.parametrize("none", [None, False])
def test_without_batching_the_body_receives_items(none: object) -> None:
    pipe = Pipeline("p")

    @untyped(pipe).scatter(["a"], batch=none)
    async def scattered(text: str) -> int:
        return len(text)

    assert scattered.definition.kind.batch is None
    assert codes(pipe) == []


@pytest.mark.parametrize(
    ("page_size", "most", "per_page"), [(1000, 10, 100), (1, 10, 1), (1000, 3, 334), (5, 1, 5), (10, 10, 1)]
)
def test_how_many_batches_a_page_of_the_source_makes(page_size: int, most: int, per_page: int) -> None:
    """READ-02."""

    @Pipeline("p").scatter(["a"], batch=Batching(max_items=most), page_size=page_size)
    async def scattered(texts: Batch[str]) -> int:
        return len(texts)

    kind = scattered.definition.kind
    assert isinstance(kind, ScatterKind)
    assert kind.per_page == per_page


WHOLE = "give a whole number from 1 to 1,000,000"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_items": 0}, f"Batching(max_items=0): {WHOLE}"),
    ({"max_items": True}, f"Batching(max_items=True): {WHOLE}"),
    ({"max_items": False}, f"Batching(max_items=False): {WHOLE}"),
    ({"max_items": 2.0}, f"Batching(max_items=2.0): {WHOLE}"),
    ({"max_items": 1_000_001}, f"Batching(max_items=1000001): {WHOLE}"),
    ({"max_bytes": 0}, "Batching(max_bytes=0): give a whole number of 1 or more, or False for no limit"),
    ({"max_bytes": "1k"}, "Batching(max_bytes='1k'): give a whole number of 1 or more, or False for no limit"),
    ({"size": _length}, "Batching(size=...) measures items for max_bytes=, which is not given"),
    ({"size": 3, "max_bytes": 1}, "Batching(size=3): give a plain function of an item"),
    ({"group_by": "kind"}, "Batching(group_by='kind'): give a plain function of an item"),
    ({"max_wait": "soon"}, "Batching(max_wait='soon'): Give a timedelta"),
    ({"max_wait": 0}, "Batching(max_wait=0): "),
    ({"shared": dep("rates")}, "Batching(shared=...) is no value: for an asset's give a function that takes it"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[str(sorted(given)) + m[:40] for given, m in REFUSED])
def test_values_that_batching_does_not_take(given: dict[str, Any], message: str) -> None:
    """BATCH-01: `FS109`, when the pipeline is validated."""
    pipe = Pipeline("p")
    untyped(pipe).scatter(["a"], batch=Batching(**given))(_taking_anything)
    problem = only(pipe)
    assert problem.code == "FS109"
    assert problem.message.startswith(f"_taking_anything: {message}")


def test_the_type_of_its_items_may_be_said() -> None:
    """BATCH-01: as for any generic class; that of a `Page`, too."""
    assert Batching[int](max_items=3).max_items == 3
    assert sources.Page[int]([1]).items == (1,)


async def _taking_anything(texts):
    return 1


def test_other_values_of_the_option() -> None:
    """BATCH-01, G-05: a number of items is no batching, nor is an async function a group; all is told at once."""
    for value, message in (
        (10, "batch=10: give Batching(...), or False for one item at a time."),
        (True, "batch=True: give Batching(...), or False for one item at a time."),
        (Batching, f"batch={Batching!r}: give Batching(...), or False for one item at a time."),
        (
            Batching(group_by=_async_length),
            f"Batching(group_by={_async_length!r}): give a plain function of an item.",
        ),
    ):
        pipe = Pipeline("p")
        untyped(pipe).scatter(["a"], batch=value)(_taking_anything)
        assert only(pipe).message == f"_taking_anything: {message}"
    pipe = Pipeline("p")
    untyped(pipe).scatter(["a"], batch=Batching(max_items=0, max_bytes=0))(_taking_anything)
    assert codes(pipe) == ["FS109", "FS109"]
    handle = Pipeline("q").constant("rates", 1)
    pipe = Pipeline("p")
    untyped(pipe).scatter(["a"], batch=Batching(shared=handle))(_taking_anything)
    assert "give a function that takes it, shared=lambda a: a" in only(pipe).message


FITS: list[tuple[object, object]] = [
    ([1], Batch[int]),
    ([1], Batch[float]),
    ([1], Batch[int | str]),
    ([1], Batch),
    ([1], Batch[Any]),
    ([1], Sequence[int]),
    ([1], Any),
    ([1], object),
    ([{"a": 1}], Batch[Item]),
    ([{"a": 1}], Batch[dict[str, int]]),
    ([[1]], Batch[list[int]]),
]


@pytest.mark.parametrize(("source", "annotation"), FITS, ids=[str(each[1]) for each in FITS])
def test_what_fits_batches(source: object, annotation: Any) -> None:
    """BATCH-01."""
    pipe = Pipeline("p")

    async def scattered(batch: annotation) -> int:
        return 1

    scattered.__annotations__["batch"] = annotation
    untyped(pipe).scatter(source, batch=Batching())(scattered)
    assert problems(pipe) == []


CALLED = "but the body is called with batches."
MISFITS: list[tuple[object, object, str]] = [
    (
        [1],
        int,
        f"FS160 scattered(batch: int) {CALLED} | Annotate it Batch[int].",
    ),
    (
        [1],
        list[int],
        f"FS160 scattered(batch: list[int]) {CALLED} | Annotate it Batch[int].",
    ),
    ([1], Batch[str], "FS160 scattered(batch: Batch[str]) but the items of its source are int."),
    ([1], Sequence[str], "FS160 scattered(batch: Sequence[str]) but the items of its source are int."),
    ([[1]], Sequence[int], "FS160 scattered(batch: Sequence[int]) but the items of its source are list[int]."),
]


@pytest.mark.parametrize(("source", "annotation", "message"), MISFITS, ids=[str(each[1]) for each in MISFITS])
def test_what_does_not_fit_batches(source: object, annotation: Any, message: str) -> None:
    """BATCH-01: `T` instead of `Batch[T]`, or a batch of something else."""
    pipe = Pipeline("p")

    async def scattered(batch: annotation) -> int:
        return 1

    scattered.__annotations__["batch"] = annotation
    untyped(pipe).scatter(source, batch=Batching())(scattered)
    assert problems(pipe) == [message]


@pytest.mark.parametrize(
    "annotation", [Batch[int], Batch, Batch[int] | Batch[str]], ids=["of a type", "plain", "a union"]
)
def test_a_batch_where_there_is_one_item(annotation: Any) -> None:
    """BATCH-01: the reverse."""
    pipe = Pipeline("p")

    async def scattered(batch: annotation) -> int:
        return 1

    scattered.__annotations__["batch"] = annotation
    untyped(pipe).scatter([1])(scattered)
    problem = only(pipe)
    assert problem.code == "FS160"
    assert problem.message.endswith("but the body is called with one item.")
    assert problem.hint == "Say batch=Batching(...), or annotate it with the type of an item."


def test_items_arrive_as_what_the_batch_says() -> None:
    """SCAT-03: of the source's type, else of the annotation's."""
    pipe = Pipeline("p")

    async def unknown():
        yield 1

    async def known() -> AsyncIterator[int]:
        yield 1

    untyped(pipe).scatter(unknown, batch=Batching(), name="one")(_of_floats)
    untyped(pipe).scatter(known, batch=Batching(), name="two")(_of_floats)
    nodes = pipe.compiled().nodes
    wanted = {name: node.scatter.item.wanted for name, node in nodes.items() if node.scatter is not None}
    assert wanted == {"one": float, "two": int}


async def _of_floats(batch: Batch[float]) -> int:
    return len(batch)


def test_what_its_functions_take() -> None:
    """BATCH-05, BATCH-06: an item and dependencies by name, or dependencies alone; each is checked like any other."""
    pipe = Pipeline("p")
    pipe.constant("weight", 2)
    pipe.constant("rates", [1.5])

    def size(text: str, weight: int) -> int:
        return weight * len(text)

    def group(text: str) -> str:
        return text[0]

    def shared(rates: list[float], weight: int) -> float:
        return weight * rates[0]

    batching = Batching(size=size, max_bytes=10, group_by=group, shared=shared)
    _batched(pipe, batching)
    assert problems(pipe) == []
    assert pipe.asset_info("scattered").depends_on == ("weight", "rates")

    pipe = Pipeline("p")
    pipe.constant("weight", "2")

    def wrong(number: int) -> int:
        return number

    def missing(rate: float) -> float:
        return rate

    _batched(pipe, Batching(size=size, max_bytes=10, group_by=wrong, shared=missing))
    said = problems(pipe)
    assert [problem[:5] for problem in said] == ["FS101", "FS104", "FS160"]
    assert "size(weight: int) but asset 'weight' produces str" in said[1]
    assert "shared(rate: float) — 'rate' is not an asset" in said[0]
    assert "group_by(number: int) but the items of its source are str" in said[2]


def _of_texts(batch: Batch[str]) -> str:
    return batch[0]


def _of_numbers(batch: Batch[int]) -> int:
    return batch[0]


def _of_a_text(text: str) -> str:
    return text


def _weighed(batch: Batch[str], weight: int) -> int:
    return weight


@pytest.mark.parametrize("key", [_of_texts, _weighed, len, lambda batch: batch.keys])
def test_the_key_of_its_rate_takes_a_batch(key: Any) -> None:
    """RATE-08, BATCH-07: and dependencies by name."""
    pipe = Pipeline("p")
    pipe.constant("weight", 2)
    untyped(pipe).scatter(["a"], batch=Batching(), rate=Rate(1, key=key))(_lengths)
    assert problems(pipe) == []


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (_of_a_text, "rate key(text: str) but it is called with batches. | Annotate it Batch[str]."),
        (_of_numbers, "rate key(batch: Batch[int]) but the items of its source are str."),
    ],
)
def test_what_the_key_of_its_rate_does_not_take(key: Any, message: str) -> None:
    """RATE-08."""
    pipe = Pipeline("p")
    untyped(pipe).scatter(["a"], batch=Batching(), rate=Rate(1, key=key))(_lengths)
    assert problems(pipe) == [f"FS160 _lengths: {message}"]


def test_the_key_of_a_rate_takes_no_batch_where_there_are_none() -> None:
    """RATE-08: it takes what the body does."""
    pipe = Pipeline("p")

    @untyped(pipe).scatter(["a"], rate=Rate(1, key=_of_texts))
    async def length(text: str) -> int:
        return len(text)

    assert only(pipe).message.endswith("rate key(batch: Batch[str]) but it is called with one item.")


async def _lengths(batch: Batch[str]) -> int:
    return len(batch)
