"""Bodies that may return requests for approval: what their annotations and handlers must say (APPR-16)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstone_async import ApprovalGate, ConfigError, Context, Decision, Gathered, Pipeline
from tests.unit.definition.reading import problems


def test_the_request_is_taken_out_of_the_type():
    pipe = Pipeline("p")

    @pipe.asset
    async def one() -> str | ApprovalGate[str] | None:
        return ApprovalGate("?", value="one")

    @one.on_reject
    async def no(decision: Decision[None], ctx: Context) -> None:
        raise NotImplementedError

    @pipe.asset
    async def two(one: str | None) -> int:
        return len(one or "")

    assert problems(pipe) == []
    assert pipe.asset_info(one).value_type == (str | None)
    assert pipe.asset_info(two).value_type is int
    assert (pipe.asset_info(one).has_approval, pipe.asset_info(two).has_approval) == (True, False)
    assert callable(no)


def test_what_does_not_fit_is_found():
    pipe: Any = Pipeline("p")

    @pipe.asset
    async def alone() -> ApprovalGate[str]:
        raise NotImplementedError

    @pipe.asset
    async def other() -> str | ApprovalGate[int]:
        raise NotImplementedError

    @pipe.asset(run_in="thread")
    def thread() -> str | ApprovalGate[str]:
        raise NotImplementedError

    @pipe.asset
    async def stream() -> AsyncIterator[str | ApprovalGate[str]]:
        yield "x"

    @pipe.scatter([1])
    async def items(n: int) -> str:
        raise NotImplementedError

    @items.gather
    async def gathers(results: Gathered[str]) -> str | ApprovalGate[str]:
        raise NotImplementedError

    @pipe.asset
    async def plain() -> str:
        raise NotImplementedError

    @plain.on_approve
    async def needless(decision: Decision[None]) -> str:
        raise NotImplementedError

    @pipe.asset
    async def handled(plain: str) -> str | ApprovalGate[str]:
        raise NotImplementedError

    @handled.on_approve
    async def wrong(decision: Decision[None], alone: str) -> int:
        raise NotImplementedError

    assert [each.split(" | ")[0] for each in problems(pipe) if "FS104" not in each] == [
        "FS170 alone: the body returns ApprovalGate[str], which does not say of what type the value is.",
        "FS170 other: the body returns ApprovalGate[int], but the value is str.",
        "FS170 thread: it may return ApprovalGate[str], which a body in a thread cannot.",
        "FS170 stream: it may return ApprovalGate[str], which a stream cannot.",
        "FS170 gathers: it may return ApprovalGate[str], which a gathering body cannot.",
        "FS171 plain: on_approve needless of an asset whose body returns no request for approval.",
        "FS171 handled: on_approve wrong returns int, but the value is str.",
        "FS171 handled: on_approve(alone) takes 'alone', and the body does not, or not alike.",
    ]


def test_what_handlers_of_items_take():
    pipe: Any = Pipeline("p")

    @pipe.scatter([1])
    async def items(n: int) -> str | ApprovalGate[str]:
        raise NotImplementedError

    @items.on_approve
    async def itemless() -> str:
        raise NotImplementedError

    @items.on_reject
    async def strange(n: str, decision: Decision[None]) -> str:
        raise NotImplementedError

    @pipe.scatter([1])
    async def only(n: int) -> ApprovalGate[str]:
        raise NotImplementedError

    @pipe.scatter([1])
    async def unlike(n: int) -> str | ApprovalGate[int]:
        raise NotImplementedError

    @pipe.scatter([1])
    async def fine(n: int) -> str | ApprovalGate[str]:
        raise NotImplementedError

    @fine.on_approve
    async def untyped(n, answer) -> str:
        raise NotImplementedError

    @fine.on_reject
    async def later(n: int, ctx: Context, answer: Decision[None]) -> str:
        raise NotImplementedError

    assert [each.partition(" | ")[0] for each in problems(pipe)] == [
        "FS171 items: on_approve itemless has no parameter for the item.",
        "FS171 items: on_reject(n: str) but the item is int in the body.",
        "FS170 only: the body returns ApprovalGate[str], which does not say of what type the value is.",
        "FS170 unlike: the body returns ApprovalGate[int], but the value is str.",
    ]


@pytest.mark.parametrize(
    "options",
    [{"timeout": "soon"}, {"roles": "editor"}, {"on_timeout": "perhaps"}, {"initial": 1}, {"name": ""}],
)
def test_options_that_are_wrong(options: Any):
    with pytest.raises(ConfigError):
        ApprovalGate("?", value=1, **options)
    with pytest.raises(ConfigError, match="asks a question"):
        ApprovalGate(" ", value=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'key'"):
        ApprovalGate("?", value=1, key=1)  # pyright: ignore[reportCallIssue]
