"""Bodies that cannot be: plain ones, empty ones, generators (ASSET-11, ASSET-17)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from flowstone_async import Pipeline
from tests.unit.definition.reading import codes, line_here, only, problems


def test_a_plain_body_says_where_it_runs() -> None:
    """ASSET-11: `FS103` shows both remedies."""
    pipe = Pipeline("p")

    @pipe.asset  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    def silent() -> int:
        return 1

    @pipe.asset(run_in="thread")
    def thread() -> int:
        return 1

    @pipe.asset(run_in="process")
    def process() -> int:
        return 1

    @pipe.asset(run_in="dask")
    def dask() -> int:
        return 1

    assert problems(pipe) == [
        (
            "FS103 silent: the body is a plain def, which would block the event loop. | Make it async def, or name"
            ' where it runs: @pipe.asset(run_in="thread"), "process" or "dask".'
        )
    ]


def test_where_a_body_cannot_run() -> None:
    """ASSET-11, ASSET-17: `FS109`."""
    pipe = Pipeline("p")

    @pipe.asset(run_in="thread")
    async def coroutine() -> int:
        return 1

    @pipe.asset(run_in="thread")
    async def stream() -> AsyncIterator[int]:
        yield 1

    @pipe.asset(run_in="thread")
    def generator() -> Any:
        yield 1

    @pipe.asset(run_in="fiber")  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    def elsewhere() -> int:
        return 1

    loop = "run_in='thread' on an async def, which runs on the event loop. | Make it a plain def, or leave run_in= out."
    assert problems(pipe) == [
        f"FS109 coroutine: {loop}",
        f"FS109 stream: {loop}",
        (
            "FS109 generator: the body is a plain generator, which is no value."
            " | Return a list, or make it an async generator and leave run_in= out."
        ),
        "FS109 elsewhere: run_in='fiber': allowed are 'thread', 'process', 'dask'.",
    ]


def _pass() -> None:
    pass


async def _ellipsis() -> int: ...


async def _docstring() -> int:  # pyright: ignore[reportReturnType]
    """Say what it will be."""


async def _both(raw: int = 1) -> int:  # pyright: ignore[reportReturnType]
    """Say what it will be."""


async def _passes() -> None:
    """Say nothing else."""
    pass  # noqa: PIE790


class _Object:
    async def __call__(self) -> int: ...

    async def method(self) -> int: ...


@pytest.mark.parametrize(
    "body",
    [_ellipsis, _docstring, _both, _passes, _Object(), _Object().method],
    ids=["ellipsis", "docstring", "both", "pass", "object", "method"],
)
def test_an_empty_body(body: Callable[..., Any]) -> None:
    """ASSET-17: `FS107`."""
    pipe = Pipeline("p")
    pipe.add(body, name="empty")
    assert problems(pipe) == ["FS107 empty: the body is empty. | Write the body, or take the asset away."]


async def _none() -> None:
    return None


async def _bare_return() -> None:
    return


async def _text() -> str:
    return "text"


async def _argument(raw: int = 1) -> int:
    return raw


async def _raises() -> int:
    raise NotImplementedError


async def _stream() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    "body", [_none, _bare_return, _text, _argument, _raises, _stream], ids=lambda each: each.__name__
)
def test_a_body_that_does_something(body: Callable[..., Any]) -> None:
    """ASSET-17: however little it is."""
    pipe = Pipeline("p")
    pipe.add(body, name="something")
    assert codes(pipe) == []


def test_an_empty_decorated_body_is_found_where_it_is_defined() -> None:
    """ASSET-17: under a decorator with arguments over several lines."""
    pipe = Pipeline("p")
    line = line_here(2)

    @pipe.asset(
        tags=["a"],
        description="Empty.",
    )
    async def empty() -> int: ...

    assert (only(pipe).code, only(pipe).line) == ("FS107", line)
