"""Annotations are read when a pipeline is validated (ASSET-06); this file has `from __future__ import annotations`."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Annotated, Any

import pytest

from flowstone_async import Context, Daily, Pipeline, dep
from flowstone_async.definition.annotations import capture, resolve
from flowstone_async.definition.location import caller
from tests.unit.definition.reading import problems

if TYPE_CHECKING:
    import xml.dom
    from collections import abc
    from decimal import Decimal as Number
    from json import decoder

    from nowhere_at_all import Ghost  # pyright: ignore[reportMissingImports]

    Alias = dict[str, int]

    class OnlyChecked:
        """Does not exist at run time."""


Module = Callable[[str], types.ModuleType]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """Return a function that imports a module of the given text."""
    monkeypatch.syspath_prepend(tmp_path)

    def imported(text: str) -> types.ModuleType:
        name = f"made_{len(list(tmp_path.iterdir()))}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(dedent(text), encoding="utf-8")
        importlib.invalidate_caches()
        return importlib.import_module(name)

    return imported


def _types(pipe: Pipeline) -> dict[str, object]:
    return {name: node.value_type for name, node in pipe.compiled().nodes.items()}


def test_types_local_to_a_function() -> None:
    """ASSET-06: a class, an alias, a handle and a partition set of the defining scope."""

    @dataclass
    class Row:
        n: int

    Rows = list[Row]  # noqa: N806
    days = Daily("2025-01-01")
    pipe = Pipeline("p")

    @pipe.asset
    async def rows() -> Rows:  # pyright: ignore[reportInvalidTypeForm]
        return [Row(1)]

    @pipe.asset(partitions=days)
    async def first(xs: Annotated[Rows, dep(rows)], day: Annotated[object, days.key()]) -> Row:  # pyright: ignore[reportInvalidTypeForm]
        return xs[0]

    assert _types(pipe) == {"rows": list[Row], "first": Row}
    assert pipe.asset_info(first).depends_on == ("rows",)


def _made_elsewhere() -> Pipeline:
    pipe = Pipeline("p")

    @pipe.asset
    async def early() -> Late:
        return Late()

    class Late:
        pass

    return pipe


def test_types_bound_after_the_decorator_ran() -> None:
    """ASSET-06: as long as they are bound when the pipeline is validated, also after the function has returned."""
    pipe = _made_elsewhere()
    assert _types(pipe)["early"].__qualname__ == "_made_elsewhere.<locals>.Late"  # pyright: ignore[reportAttributeAccessIssue]


def test_names_bound_anew_in_a_loop() -> None:
    """ASSET-06: each body has the scope as it was when it was defined."""
    pipe = Pipeline("p")
    for Kind in (int, str):  # noqa: N806

        @pipe.asset(name=f"of_{Kind.__name__}")
        async def body() -> Kind:  # pyright: ignore[reportInvalidTypeForm]
            raise NotImplementedError

    assert _types(pipe) == {"of_int": int, "of_str": str}


def test_names_imported_for_type_checkers() -> None:
    """ASSET-06: `from x import a as b`, `import x.y as z`, `import x.y`, a module imported from its package."""
    pipe = Pipeline("p")

    @pipe.asset
    async def a() -> Number:
        raise NotImplementedError

    @pipe.asset
    async def b() -> abc.Mapping[str, Number]:
        raise NotImplementedError

    @pipe.asset
    async def c() -> xml.dom.Node:
        raise NotImplementedError

    @pipe.asset
    async def d() -> decoder.JSONDecoder:
        raise NotImplementedError

    from collections.abc import Mapping
    from decimal import Decimal
    from json.decoder import JSONDecoder
    from xml.dom import Node

    assert _types(pipe) == {"a": Decimal, "b": Mapping[str, Decimal], "c": Node, "d": JSONDecoder}
    assert "Number" not in globals()


def test_what_exists_for_type_checkers_only_is_not_checked() -> None:
    """ASSET-06: nothing can be known of it, and nothing else is lost by it."""
    pipe = Pipeline("p")

    @pipe.asset
    async def ghost() -> Ghost:
        return 1

    @pipe.asset
    async def alias(ghost: Ghost) -> Alias:
        return {}

    @pipe.asset
    async def checked(alias: OnlyChecked, number: int = dep(ghost)) -> int:
        return number

    assert _types(pipe) == {"ghost": None, "alias": None, "checked": int}


def test_an_annotation_that_cannot_be_read_is_a_problem_and_hides_no_other() -> None:
    """ASSET-06, ASSET-12: a misspelt type would otherwise switch checks off, or drop a marker, in silence."""
    pipe = Pipeline("p")
    days = Daily("2025-01-01")
    pipe.constant("raw", [1])

    @pipe.asset
    async def wrong(raw: Lst[int], other: Annotated[int, dep(rwa)], text: str = dep("raw")) -> Nowhere:  # noqa: F821  # pyright: ignore[reportUndefinedVariable]
        return 1

    @pipe.asset(partitions=days)
    async def raises(week: Annotated[object, dep("raw", over=days.last(0))]) -> int:
        return 1

    assert problems(pipe) == [
        "FS101 wrong(raw) — its annotation cannot be read: name 'Lst' is not defined.",
        "FS101 wrong(other) — its annotation cannot be read: name 'rwa' is not defined.",
        "FS101 wrong(...) — its return annotation cannot be read: name 'Nowhere' is not defined.",
        "FS104 wrong(text: str) but asset 'raw' produces list[int].",
        "FS101 raises(week) — its annotation cannot be read: last(0) takes a whole number from 1.",
    ]


def test_methods_see_the_names_of_their_class() -> None:
    """ASSET-06, ASSET-10."""

    class Loader:
        class Row:
            pass

        def list(self) -> None:
            """Shadow nothing."""

        async def load(self, rows: list[Row]) -> Row:
            return rows[0]

        async def __call__(self, rows: Row) -> list[Row]:
            return [rows]

        @classmethod
        async def made(cls, rows: Row) -> Row:
            return rows

    pipe = Pipeline("p")
    pipe.constant("rows", Loader.Row())
    pipe.add(Loader().load, name="by_method", deps={"rows": "by_call"})
    pipe.add(Loader(), name="by_call")
    pipe.add(Loader.made, name="by_class")
    assert pipe.problems() == ()
    assert _types(pipe)["by_call"] == list[Loader.Row]
    assert _types(pipe)["by_method"] is _types(pipe)["by_class"] is Loader.Row


def test_without_postponed_annotations(module: Module) -> None:
    """ASSET-06: annotations that are objects already, forward references in quotes, a context under TYPE_CHECKING."""
    made = module(
        """
        from typing import TYPE_CHECKING
        from flowstone_async import Pipeline, dep
        if TYPE_CHECKING:
            from flowstone_async import Context

        pipe = Pipeline("p")

        @pipe.asset
        async def early(ctx: "Context") -> "list[Row]":
            return []

        class Row: ...

        @pipe.asset
        async def late(rows: list["Row"] = dep(early)) -> int:
            return len(rows)
        """
    )
    assert made.pipe.problems() == ()
    assert _types(made.pipe) == {"early": list[made.Row], "late": int}
    assert made.pipe.compiled().nodes["early"].takes_context


def test_modules_that_import_each_other_for_type_checkers(module: Module) -> None:
    """ASSET-06: the usual way out of a circle of imports."""
    first = module(
        """
        from __future__ import annotations
        import typing as t
        if t.TYPE_CHECKING:
            from OTHER import Row

        from flowstone_async import Pipeline
        pipe = Pipeline("p")

        @pipe.asset
        async def rows() -> list[Row]:
            raise NotImplementedError
        """
    )
    text = Path(first.__file__ or "").read_text(encoding="utf-8")
    second = module(f"from {first.__name__} import pipe\nclass Row: ...\n")
    Path(first.__file__ or "").write_text(text.replace("OTHER", second.__name__), encoding="utf-8")
    assert _types(first.pipe) == {"rows": list[second.Row]}


def test_wrapped_functions_are_read_where_they_were_written(module: Module) -> None:
    """ASSET-06, ASSET-10: a decorator of the user's between the pipeline and the function."""
    made = module(
        """
        from __future__ import annotations
        import functools
        class Row: ...
        def traced(fn):
            @functools.wraps(fn)
            async def wrapper(*args, **kwargs):
                return await fn(*args, **kwargs)
            return wrapper
        @traced
        async def rows(raw: int) -> list[Row]:
            return [Row()] * raw
        """
    )
    pipe = Pipeline("p")
    pipe.constant("raw", 2)
    rows = pipe.add(made.rows)
    assert _types(pipe)["rows"] == list[made.Row]
    assert pipe.asset_info(rows).location.endswith(f"{made.__name__}.py:10")
    assert len(pipe.run_sync(rows)) == 2


def test_streams_tell_their_items() -> None:
    """ASSET-06, ASSET-09."""
    from collections.abc import AsyncGenerator, AsyncIterable

    pipe = Pipeline("p")

    @pipe.asset
    async def iterator() -> AsyncIterator[int]:
        yield 1

    @pipe.asset
    async def generator() -> AsyncGenerator[str, None]:
        yield ""

    @pipe.asset
    async def iterable() -> AsyncIterable[bytes]:
        yield b""

    @pipe.asset
    async def unsaid():
        yield 1

    assert _types(pipe) == {"iterator": int, "generator": str, "iterable": bytes, "unsaid": None}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax came with Python 3.12")
def test_the_newer_syntax(module: Module) -> None:
    """ASSET-06: `type` aliases and type parameters."""
    made = module(
        """
        from flowstone_async import Pipeline
        pipe = Pipeline("p")
        type Rows = list[int]

        @pipe.asset
        async def rows() -> Rows:
            return [1]

        @pipe.asset
        async def first[T](rows: list[T]) -> T:
            return rows[0]

        @pipe.asset
        async def wrong(rows: "list[str]") -> str:
            return rows[0]
        """
    )
    assert problems(made.pipe) == ["FS104 wrong(rows: list[str]) but asset 'rows' produces Rows."]


def test_nothing_is_kept_of_a_module() -> None:
    """ASSET-06: only the names of a function are captured; those of a module are looked up when they are needed."""
    scope = capture(caller())
    assert "scope" not in scope.names
    exec(compile("kept = capture(caller())", "<module>", "exec"), space := {"capture": capture, "caller": caller})
    assert dict(space["kept"].names) == {}


def test_what_has_no_annotations() -> None:
    """ASSET-06: builtins and whatever is callable."""
    from flowstone_async.definition.asset import Scope

    class Odd:
        def __call__(self) -> Any: ...

    assert resolve(len, Scope()).types == {}
    assert resolve(print, Scope()).unread == {}
    assert resolve(Odd(), Scope()).types == {"return": Any}
    assert resolve(Context, Scope()).types == {}
