"""Resources as they are defined (RES-01)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import pytest
from pydantic import BaseModel

from flowstone_async import Context, Pipeline, dep, param, resource
from tests.unit.definition.reading import codes, line_here, only, problems, untyped

if TYPE_CHECKING:
    from fractions import Fraction


class Settings(BaseModel):
    """A settings model is a resource like any other."""

    dsn: str = "memory"


class Pool:
    """What a generator yields."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn


@dataclass
class Args:
    """Params."""

    limit: int = 1


def _provided(pipe: Pipeline) -> dict[str, object]:
    return {name: each.provides for name, each in pipe.compiled().resources.items()}


def test_what_a_resource_provides() -> None:
    """RES-01, ASSET-06: what is yielded or returned, by annotation."""
    pipe = Pipeline("p")

    class Local:
        pass

    @pipe.resource
    async def generator() -> AsyncIterator[Pool]:
        yield Pool("")

    @pipe.resource
    async def another() -> AsyncGenerator[dict[str, int], None]:
        yield {}

    @pipe.resource
    async def coroutine() -> Settings:
        return Settings()

    @pipe.resource
    async def checked() -> Fraction:
        raise NotImplementedError

    @pipe.resource(name="given")
    async def local() -> Annotated[Local, "a note"]:
        return Local()

    from fractions import Fraction as Imported

    assert _provided(pipe) == {
        "generator": Pool,
        "another": dict[str, int],
        "coroutine": Settings,
        "checked": Imported,
        "given": Local,
    }


async def test_resources_take_resources_and_are_injected_by_type() -> None:
    """RES-01: also of a generic type; the decorated function stays what it was."""
    pipe = Pipeline("p", params=Args)

    @pipe.resource
    async def settings() -> Settings:
        return Settings(dsn="x")

    @pipe.resource(scope="run", health=lambda pool: None)
    async def pool(
        settings: Settings, args: int = param("limit"), same: Settings = resource("settings"), default: int = 3
    ) -> AsyncIterator[Pool]:
        assert settings is same
        yield Pool(f"{settings.dsn} {args} {default}")

    @pipe.resource
    async def table() -> dict[str, int]:
        return {"a": 1}

    @pipe.asset
    async def rows(db: Pool, table: dict[str, int]) -> str:
        return f"{db.dsn} {table}"

    assert pipe.problems() == ()
    assert await pipe.run(rows) == "x 1 3 {'a': 1}"
    assert (await settings()).dsn == "x"
    assert pipe.compiled().resources["pool"].resources() == ("settings", "settings")


def test_what_cannot_be_a_resource() -> None:
    """RES-01, ASSET-17: `FS109`, found at validation, at its place."""
    pipe = Pipeline("p")
    line = line_here(2)

    @pipe.resource
    def plain() -> Pool:
        return Pool("")

    @pipe.resource
    async def unsaid():
        return Pool("")

    @pipe.resource
    async def nothing() -> None:
        return None

    @untyped(pipe).resource(scope="forever", health="well")
    async def scope() -> Pool:
        return Pool("")

    @pipe.resource
    async def misspelt() -> Pol:  # noqa: F821  # pyright: ignore[reportUndefinedVariable]
        return Pool("")

    assert pipe.problems()[0].line == line
    unsaid_ = "it is not said what it provides. | Annotate what it yields, AsyncIterator[T], or what it returns, T."
    assert problems(pipe) == [
        (
            "FS109 plain: a resource is opened by an async function."
            " | Write an async generator that yields it once, or an async function that returns it."
        ),
        f"FS109 unsaid: {unsaid_}",
        f"FS109 nothing: {unsaid_}",
        "FS109 scope: scope='forever': allowed are 'engine', 'run', 'asset'.",
        "FS109 scope: health='well': give a function of the handle.",
        "FS101 misspelt(...) — its return annotation cannot be read: name 'Pol' is not defined.",
    ]
    with pytest.raises(TypeError, match=r"resource\(\) takes a function, not 5"):
        untyped(pipe).resource(5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'scop'"):
        untyped(pipe).resource(scop="run")


def test_what_a_resource_cannot_take() -> None:
    """RES-01: assets, facts of a run, and params where it outlives the run."""
    pipe = Pipeline("p", params=Args)
    pipe.constant("raw", 1)

    @pipe.resource
    async def wrong(raw: int, ctx: Context, partition: str, params: Args, x: int = dep("raw")) -> Pool:
        return Pool("")

    @pipe.resource(scope="run")
    async def fine(params: Args) -> Settings:
        return Settings()

    hint = "A resource takes resources, by their annotated types, and params."
    assert problems(pipe) == [
        f"FS101 wrong(raw: int) — 'raw' is not a resource of this pipeline. | {hint}",
        f"FS101 wrong(ctx: Context) — 'ctx' is not a resource of this pipeline. | {hint}",
        f"FS101 wrong(partition: str) — 'partition' is not a resource of this pipeline. | {hint}",
        'FS101 wrong(params: Args) — a resource that lives as long as the engine has no params. | Say scope="run".',
        "FS109 wrong(x: int) — a resource cannot take an asset or a partition.",
    ]


def test_resources_that_need_each_other() -> None:
    """RES-01: a cycle is `FS110`."""
    pipe = Pipeline("p")

    @pipe.resource
    async def pool(settings: Settings) -> Pool:
        return Pool(settings.dsn)

    @pipe.resource
    async def settings(pool: Pool) -> Settings:
        return Settings(dsn=pool.dsn)

    assert problems(pipe) == [
        "FS110 pool: cycle of resources: pool -> settings -> pool. | Take one of these edges away."
    ]


SCOPES = ["engine", "run", "asset"]


@pytest.mark.parametrize("outer", SCOPES)
@pytest.mark.parametrize("inner", SCOPES)
def test_a_resource_lives_no_longer_than_what_it_takes(outer: str, inner: str) -> None:
    """RES-01: a wider scope that takes a narrower one is `FS109`."""
    pipe = Pipeline("p")

    @untyped(pipe).resource(scope=inner)
    async def settings() -> Settings:
        return Settings()

    @untyped(pipe).resource(scope=outer)
    async def pool(settings: Settings) -> Pool:
        return Pool("")

    if SCOPES.index(outer) >= SCOPES.index(inner):
        assert codes(pipe) == []
    else:
        assert only(pipe).message == (
            f"pool: it lives as long as its {outer}, but takes 'settings', which lives only as long as its {inner}."
        )
