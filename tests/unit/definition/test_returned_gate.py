"""Bodies that may return a gate, and its handlers: what the definition must say (SIG-03 to SIG-05)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from flowstone_async import Context, Daily, Failed, Gathered, Pipeline, Rearm, SignalGate, dep, param
from flowstone_async.definition.code_hash import code_hash
from tests.unit.definition.reading import codes, only, problems, untyped


@dataclass
class Done:
    """What the other side sends."""

    url: str


class Params(BaseModel):
    """Of a pipeline."""

    size: int = 1


def test_the_value_is_what_is_left_of_the_union() -> None:
    """SIG-03: also for dependants, in any order, and optional."""
    pipe = Pipeline("p")

    @pipe.asset(signal=Done)
    async def one(ctx: Context) -> SignalGate[Done] | str | None:
        return ctx.signal(Done)

    @one.on_signal
    async def done(done: Done) -> str:
        return done.url

    @pipe.asset
    async def fits(one: str | None) -> str | None:
        return one

    @pipe.asset(signal=Done, partitions=Daily("2025-01-01"))
    async def daily(ctx: Context) -> Done | SignalGate[Done]:
        return ctx.signal(Done)

    assert problems(pipe) == []
    assert pipe.asset_info(one).value_type == (str | None)
    assert pipe.asset_info(daily).value_type is Done

    @pipe.asset
    async def misfit(one: int) -> int:
        return one

    assert only(pipe).message == "misfit(one: int) but asset 'one' produces str | None."


def test_what_the_body_says_and_signal_says() -> None:
    """FS170."""
    pipe = Pipeline("p")
    asset = untyped(pipe.asset)

    @pipe.asset
    async def unasked(ctx: Context) -> str | SignalGate[Done]:
        return ctx.signal(Done)

    @asset(signal=Done)
    async def without() -> str:
        return "x"

    @asset(signal=Done)
    async def unsaid():
        return "x"

    @asset(signal=Done)
    async def alone(ctx: Context) -> SignalGate[Done]:
        return ctx.signal(Done)

    @asset(signal=Done)
    async def another(ctx: Context) -> str | SignalGate[int]:
        return ctx.signal(int)

    @asset(signal=Done)
    async def stream() -> AsyncIterator[str]:
        yield "x"

    @asset(signal=Done, run_in="thread")
    def thread() -> str | SignalGate[Done]:
        return "x"

    @asset(max_rearms=2)
    async def needless() -> str:
        return "x"

    @untyped(pipe.scatter)([1, 2])
    async def items(n: int, ctx: Context) -> str | SignalGate[Done]:
        return ctx.signal(Done)

    @items.gather
    async def gathers(results: Gathered[str], ctx: Context) -> str | SignalGate[Done]:
        return ctx.signal(Done)

    assert [each.split(" | ")[0] for each in problems(pipe) if "FS104" not in each] == [
        "FS170 unasked: it may return SignalGate[Done], but there is no signal=.",
        "FS170 without: signal=Done, but not in str.",
        "FS170 unsaid: signal=Done, but the body does not say what it returns.",
        "FS170 alone: the body returns SignalGate[Done], which does not say of what type the value is.",
        "FS170 another: signal=Done, but the body returns SignalGate[int].",
        "FS170 stream: signal= on a stream, which returns nothing.",
        "FS170 thread: signal= on a body that does not run on the event loop.",
        "FS170 needless: max_rearms=2 without signal=.",
        "FS170 items: it may return SignalGate[Done], but there is no signal=.",
        "FS170 gathers: it may return SignalGate[Done], which a gathering body cannot.",
    ]


def test_how_often_it_may_be_opened_again() -> None:
    """SIG-05."""
    for wrong in (-1, True, "3", 1.5):
        pipe = Pipeline("p")

        @untyped(pipe.asset)(signal=Done, max_rearms=wrong)
        async def one(ctx: Context) -> Done | SignalGate[Done]:
            return ctx.signal(Done)

        assert "FS109" in codes(pipe)


def _gated() -> tuple[Pipeline, Callable[[str], Any]]:
    """Return a pipeline, and what adds an asset to it whose body may return a gate."""
    pipe = Pipeline("p")
    pipe.constant("docs", 1)
    pipe.constant("other", 1)

    def gated(name: str) -> Any:
        @pipe.asset(signal=Done, name=name)
        async def body(docs: int | Failed, ctx: Context) -> str | SignalGate[Done]:
            return ctx.signal(Done)

        return body

    return pipe, gated


def _found(pipe: Pipeline) -> list[str]:
    return sorted((each.split(" | ")[0] for each in problems(pipe)), key=lambda each: each.split(" ")[1])


def test_handlers_of_the_wrong_kind() -> None:
    """FS171."""
    pipe, gated = _gated()

    @pipe.asset
    async def value() -> int:
        return 1

    @value.on_signal
    async def needless(done: Done) -> int:
        return 1

    @gated("a").on_signal
    def plain(done: Done) -> str:
        return done.url

    @gated("b").on_signal
    async def misfit(done: int) -> str:
        return str(done)

    gated("c")
    twice = gated("d")
    for _ in range(2):

        @twice.on_signal
        async def both(done: Done) -> str:
            return done.url

    found = _found(pipe)
    assert found == [
        "FS171 a: on_signal plain is no coroutine function.",
        "FS171 b: on_signal(done: int) but the payload is Done.",
        "FS171 c: without on_signal the payload is the value, but Done is no str.",
        found[3],
        "FS171 value: on_signal needless of an asset without signal=, whose body returns no gate.",
    ]
    assert found[3].startswith("FS171 d: two functions are on_signal: both (")


def test_what_handlers_take_and_return() -> None:
    """FS171; the rest is said as of a body's parameters."""
    pipe, gated = _gated()

    @gated("a").on_signal
    async def nothing(*, done: Done) -> str:
        return done.url

    @gated("b").on_signal
    async def value(done: Done) -> int:
        return 1

    @gated("c").on_signal
    async def rearm(done: Done) -> Rearm:
        return Rearm("1h")

    late = gated("d")

    @late.on_signal
    async def fine(done: Done, docs: int | Failed) -> str:
        return done.url

    @late.on_timeout
    async def wrong(ctx: Context) -> int | Rearm:
        return 1

    @gated("e").on_signal
    async def takes_other(done: Done, other: int, unknown: int, x: int = dep("docs")) -> str:
        return done.url

    assert _found(pipe) == [
        "FS171 a: on_signal nothing has no parameter for the payload.",
        "FS101 a: on_signal(done: Done) — 'done' is not an asset, param or resource of this pipeline.",
        "FS171 b: on_signal value returns int, but the value is str.",
        "FS171 c: on_signal rearm returns Rearm, but the value is str.",
        "FS171 d: on_timeout wrong returns int",
        "FS101 e: on_signal(unknown: int) — 'unknown' is not an asset, param or resource of this pipeline.",
        "FS171 e: on_signal(other) takes 'other', and the body does not, or not alike.",
        "FS171 e: on_signal(x) takes 'docs', and the body does not, or not alike.",
    ]


def test_what_handlers_take_belongs_to_the_asset() -> None:
    """Params make it stale, and so does their code; upstreams are those of the body."""
    pipe = Pipeline("p", params=Params)

    @pipe.asset
    async def docs() -> int:
        return 1

    @pipe.asset(signal=Done)
    async def job(docs: int) -> str | SignalGate[Done]:
        return SignalGate(Done, token="t")

    @job.on_signal
    async def done(done: Done, again: int = dep("docs"), *, size: int = param("size")) -> str:
        return f"{done.url} {again} {size}"

    before = pipe.compiled().nodes["job"]
    assert before.gate is not None
    assert before.upstreams == ("docs",)
    assert [each.parameter for each in before.taken] == ["docs", "again", "size"]
    assert before.gate.on_timeout is None

    @job.on_timeout
    async def late() -> Rearm:
        return Rearm("1h")

    after = pipe.compiled().nodes["job"]  # also after it was validated
    assert after.gate is not None
    assert after.gate.on_timeout is not None
    assert after.gate.on_timeout.function is late
    assert code_hash(late).hash != code_hash(done).hash


def test_an_included_asset_has_its_handlers() -> None:
    """Also those that come after the copy."""
    inner, outer = Pipeline("inner"), Pipeline("outer")

    @inner.asset(signal=Done)
    async def job() -> str | SignalGate[Done]:
        return SignalGate(Done, token="t")

    outer.include(inner, prefix="x_")
    assert codes(outer) == codes(inner) == ["FS171"]

    @job.on_signal
    async def done(done: Done) -> str:
        return done.url

    assert codes(outer) == codes(inner) == []


def test_items_of_a_scatter_return_gates() -> None:
    """SIG-07: the result is what is left of the union; handlers take the item first, then the payload."""
    pipe = Pipeline("p", params=Params)

    @pipe.asset
    async def numbers() -> list[int]:
        return [1]

    @pipe.scatter(numbers, signal=Done, max_rearms=1)
    async def one(number: int, numbers: list[int], ctx: Context) -> str | SignalGate[Done]:
        return ctx.signal(Done)

    @one.on_signal
    async def signalled(number: int, done: Done, numbers: list[int], size: int = param("size")) -> str:
        return done.url

    @one.on_timeout
    async def late(number: int, ctx: Context) -> Rearm:
        return Rearm("1m")

    @one.gather
    async def fits(results: Gathered[str]) -> int:
        return results.total

    assert problems(pipe) == []

    wrong = Pipeline("wrong")
    scatter = untyped(wrong.scatter)

    @scatter([1], signal=Done)
    async def bare(number: int, ctx: Context) -> str | SignalGate[Done]:
        return ctx.signal(Done)

    @untyped(bare.on_signal)
    async def taken_alone(done: Done) -> str:
        return done.url

    @untyped(bare.on_timeout)
    async def of_text(number: str) -> str:
        return number

    @scatter([1], max_rearms=1)
    async def needless(number: int) -> str:
        return "x"

    @scatter([1], signal=Done)
    async def without(number: int) -> str:
        return "x"

    assert [each.split(" | ")[0] for each in problems(wrong) if "FS104" not in each] == [
        "FS171 bare: on_signal(done: Done) but the item is int in the body.",
        "FS171 bare: on_signal taken_alone has no parameter for the payload.",
        "FS171 bare: on_timeout(number: str) but the item is int in the body.",
        "FS170 needless: max_rearms=1 without signal=.",
        "FS170 without: signal=Done, but not in str.",
    ]
