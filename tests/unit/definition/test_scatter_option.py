"""The options of a scatter and what becomes of the pipeline's (SCAT-01, 05, 07, 09, 12, 15, 20; READ-03)."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from flowstone_async import Item, Keys, Pipeline, Rate, Retry, Single, Tolerance, io
from flowstone_async.definition.scatter import ScatterKind
from tests.unit.definition.reading import codes, line_here, only, problems, untyped


def _kind(pipe: Pipeline, **options: Any) -> ScatterKind:
    @untyped(pipe).scatter([1, 2], **options)
    async def scattered(n: int) -> int:
        return n

    kind = scattered.definition.kind
    assert isinstance(kind, ScatterKind)
    return kind


def _length(item: list[int]) -> int:
    return len(item)


def test_what_holds_where_nothing_is_said() -> None:
    """SCAT-01, SCAT-05, SCAT-07, SCAT-09, SCAT-12, SCAT-15, SCAT-20, READ-03."""
    pipe = Pipeline("p")
    kind = _kind(pipe)
    assert (kind.max_concurrent, kind.tolerate, kind.timeout) == (50, Tolerance(count=0), 1800.0)
    assert (kind.select, kind.key, kind.order, kind.page_size, kind.results) == (None, None, "source", 1000, "packed")
    assert kind.retry == Retry(3, backoff="exponential", initial="1s", maximum="1m", jitter=True)
    assert codes(pipe) == []


def test_what_may_be_said() -> None:
    """SCAT-01: each option is kept as what it stands for."""
    pipe = Pipeline("p")
    kind = _kind(
        pipe,
        max_concurrent=7,
        tolerate=0.25,
        retry=Retry(5),
        timeout="2m",
        select=_length,
        key=str,
        order="completion",
        page_size=10,
        results="rows",
    )
    assert (kind.max_concurrent, kind.tolerate, kind.retry) == (7, Tolerance(fraction=0.25), Retry(5))
    assert (kind.timeout, kind.select, kind.key) == (120.0, _length, str)
    assert (kind.order, kind.page_size, kind.results) == ("completion", 10, "rows")
    both = Tolerance(count=3, fraction=0.5)
    assert _kind(Pipeline("q"), tolerate=both).tolerate is both
    with pytest.raises(FrozenInstanceError):
        untyped(kind).page_size = 5


def test_false_switches_off_and_none_says_nothing() -> None:
    """SCAT-05, SCAT-07, SCAT-12, SCAT-15."""
    off = _kind(Pipeline("p"), max_concurrent=False, retry=False, timeout=False, key=False)
    assert (off.max_concurrent, off.retry, off.timeout, off.key) == (None, Retry(1), None, False)
    names = ("max_concurrent", "tolerate", "retry", "timeout", "select", "key", "order", "page_size", "results")
    silent, plain = _kind(Pipeline("p"), **dict.fromkeys(names)), _kind(Pipeline("p"))
    assert [getattr(silent, name) for name in names] == [getattr(plain, name) for name in names]


def test_policies_of_the_pipeline_hold_for_each_item() -> None:
    """SCAT-12, SCAT-15, ASSET-18: they are for assets that give none, and of each attempt; never for a whole scatter."""
    pipe = Pipeline("p", retry=Retry(7), timeout="5m", io=io.Memory(), cache="exists")
    kind = _kind(pipe)
    assert (kind.retry, kind.timeout) == (Retry(7), 300.0)
    definition = pipe.compiled().nodes["scattered"].definition
    assert (definition.retry, definition.timeout, definition.io, definition.cache) == (None, None, None, "exists")
    own = _kind(Pipeline("p", retry=Retry(7), timeout="5m"), retry=Retry(2), timeout=False)
    assert (own.retry, own.timeout) == (Retry(2), None)
    none = _kind(Pipeline("p", retry=False, timeout=False))
    assert (none.retry, none.timeout) == (Retry(1), None)


REFUSED: list[tuple[str, object, str]] = [
    ("max_concurrent", 0, "max_concurrent=0: give a whole number of 1 or more, or False for no bound."),
    ("max_concurrent", -1, "max_concurrent=-1: give a whole number of 1 or more, or False for no bound."),
    ("max_concurrent", True, "max_concurrent=True: give a whole number of 1 or more, or False for no bound."),
    ("max_concurrent", 2.0, "max_concurrent=2.0: give a whole number of 1 or more, or False for no bound."),
    ("page_size", 0, "page_size=0: give a whole number of 1 or more."),
    ("page_size", False, "page_size=False: give a whole number of 1 or more."),
    ("order", "random", "order='random': allowed are 'source', 'completion'."),
    ("results", [], "results=[]: allowed are 'packed', 'rows'."),
    ("retry", 3, "retry=3: allowed are Retry(...) and False."),
    ("timeout", "soon", "timeout='soon': Give a timedelta"),
    ("tolerate", 5, "tolerate=5: for a number of items say Tolerance(count=5), for a share of all of them give a"),
    ("tolerate", "2%", "tolerate='2%': give a fraction from 0 to 1, or Tolerance(count=..., fraction=...)."),
    ("tolerate", Tolerance(), "Tolerance() does not say how much: give count= or fraction=."),
    ("select", "url", "select='url': give a plain function of an item."),
    ("select", False, "select=False: give a plain function of an item."),
    ("key", True, "key=True: give a plain function of an item."),
    ("key", "id", "key='id': give a plain function of an item."),
]


@pytest.mark.parametrize(
    ("option", "value", "message"), REFUSED, ids=[f"{name}={value!r}" for name, value, _ in REFUSED]
)
def test_values_that_an_option_does_not_take(option: str, value: object, message: str) -> None:
    """SCAT-05, SCAT-07, SCAT-09, READ-03: `FS109`, and the default stands in."""
    pipe = Pipeline("p")
    kind = _kind(pipe, **{option: value})
    problem = only(pipe)
    assert problem.code == "FS109"
    assert problem.message.startswith(f"scattered: {message}")
    assert getattr(kind, option) == getattr(_kind(Pipeline("p")), option)


def test_all_that_is_wrong_is_told_at_once() -> None:
    """ASSET-12: with the place of the decorator."""
    pipe = Pipeline("p")
    line = line_here(2)

    @untyped(pipe).scatter("x", page_size=0, order=1, tolerate=2, tags=3)
    async def scattered(n: int) -> int:
        return n

    assert [(each.code, each.line) for each in pipe.problems()] == [("FS109", line)] * 5
    assert {each.asset for each in pipe.problems()} == {"scattered"}


async def _later(item: int) -> int:
    return item


async def _many(item: int) -> Any:
    yield item


@pytest.mark.parametrize("function", [_later, _many])
def test_functions_of_an_item_are_plain(function: object) -> None:
    """SCAT-04, SCAT-05: they are called for every item."""
    for option in ("select", "key"):
        pipe = Pipeline("p")
        _kind(pipe, **{option: function})
        assert "give a plain function of an item" in only(pipe).message


def test_a_rate() -> None:
    """SCAT-08, RATE-08: False is none; anything else is refused, with the way out."""
    rate = Rate(5, per="1m", key=str)
    assert _kind(Pipeline("p"), rate=rate).rate is rate
    assert (_kind(Pipeline("p")).rate, _kind(Pipeline("p"), rate=False).rate) == (None, None)
    for wrong in (5, "openai", True, 0.5):
        pipe = Pipeline("p")
        _kind(pipe, rate=wrong)
        finding = only(pipe)
        assert finding.code == "FS109"
        assert f"rate={wrong!r}: give a Rate, such as Rate(100, per=" in finding.message
        assert ("ctx.limit" in finding.message) == (wrong == "openai")


def _nothing() -> str:
    return ""


def _text(item: str) -> str:
    return item


def _tenant(item: int, nobody: dict[int, str]) -> str:
    return nobody[item]


@pytest.mark.parametrize(
    ("key", "code", "says"),
    [
        (_later, "FS109", "give a plain function of an item"),
        (_nothing, "FS161", "rate key= takes no parameter"),
        (_text, "FS160", "rate key(item: str)"),
        (_tenant, "FS101", "'nobody' is not"),
    ],
)
def test_the_key_of_a_rate_takes_the_item(key: Any, code: str, says: str) -> None:
    """RATE-08: as the function for `key` does."""
    pipe = Pipeline("p")
    _kind(pipe, rate=Rate(1, key=key))
    finding = only(pipe)
    assert finding.code == code
    assert says in finding.message


@pytest.mark.parametrize("option", ["io", "run_in", "retries", "source"])
def test_options_that_there_are_not(option: str) -> None:
    """SCAT-01: an unknown keyword is a `TypeError` at the call."""
    with pytest.raises(TypeError, match=rf"scatter\(\) got an unexpected keyword argument '{option}'"):
        untyped(Pipeline("p")).scatter([1], **{option: 1})


def test_options_of_every_asset() -> None:
    """SCAT-01, ASSET-18, ASSET-19: they are those of the asset; retry and timeout are of each item."""
    pipe, regions = Pipeline("p"), Keys("us", "eu")

    async def wanted() -> bool:
        return True

    @pipe.scatter(
        [{"id": 1}],
        name="renamed",
        description="Rows.",
        tags=["a"],
        owner="me",
        metadata={"unit": "m"},
        partitions=regions,
        cache=False,
        retry=Retry(2),
        timeout=9,
        when=wanted,
        renamed_from="older",
    )
    async def rows(row: Item) -> int:
        return row.id

    info = pipe.asset_info(rows)
    assert (info.name, info.kind, info.scatter, info.parallel) == ("renamed", "scatter", True, False)
    assert (info.description, info.tags, info.owner, info.metadata) == ("Rows.", ("a",), "me", {"unit": "m"})
    assert (info.partitions, info.cache, info.retry, info.timeout, info.io) == (regions, False, Retry(2), 9.0, None)
    assert type(rows).__name__ == "PartitionedScatterAsset"
    (condition,) = pipe.compiled().nodes["renamed"].conditions
    assert condition.function is wanted


def test_a_handle_says_what_it_is() -> None:
    """SCAT-01, ASSET-01, ASSET-02."""
    pipe = Pipeline("p")

    @pipe.scatter([1], partitions=Single())
    async def single(n: int) -> int:
        """Double."""
        return n * 2

    assert type(single).__name__ == "ScatterAsset"
    assert (single.name, single.__name__, single.__doc__, repr(single)) == (
        "single",
        "single",
        "Double.",
        "<asset p.single>",
    )
    assert problems(pipe) == []


async def test_calling_a_handle_calls_the_body_alone() -> None:
    """ASSET-02: with one item, and whatever else a run would have injected."""
    pipe = Pipeline("p")
    pipe.constant("rate", 3)

    @pipe.scatter([1])
    async def scaled(n: int, rate: int) -> int:
        return n * rate

    assert await scaled(2, 5) == 10
    with pytest.raises(TypeError, match=r"scaled\(\) misses `rate=`"):
        await untyped(scaled)(2)
