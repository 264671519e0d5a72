"""Assets as they are defined: names, options, handles, direct calls, programmatic forms (ASSET-01, 02, 10, 18)."""

from __future__ import annotations

import asyncio
import copy
import functools
import os
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flowstone_async import Asset, AssetNotFound, Cache, ConfigError, Context, Daily, Pipeline, Retry, RunFailed, dep
from tests.unit.definition.reading import only, problems, untyped

ROOT = Path(__file__).resolve().parents[3]
module_pipe = Pipeline("module")


@module_pipe.asset
async def at_module_level() -> int:
    """Be found by name.

    This is the second paragraph.
    """
    return 1


def test_an_asset_is_called_like_its_function() -> None:
    """ASSET-01."""
    pipe = Pipeline("p")

    @pipe.asset
    async def raw() -> int:
        return 1

    @pipe.asset(name="cooked")
    async def whatever() -> int:
        return 2

    assert pipe.assets() == ("raw", "cooked")
    assert isinstance(raw, Asset)
    assert (raw.name, whatever.name) == ("raw", "cooked")
    assert repr(whatever) == "<asset p.cooked>"
    assert pipe.asset_info(whatever) == pipe.asset_info("cooked")
    assert pipe.run_sync(whatever) == pipe.run_sync("cooked") == 2


def test_a_handle_looks_like_its_function() -> None:
    """ASSET-01: for help(), for pickle, for copy."""
    assert at_module_level.__module__ == __name__
    assert at_module_level.__qualname__ == "at_module_level"
    assert (at_module_level.__doc__ or "").startswith("Be found by name.")
    assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level
    assert copy.deepcopy(at_module_level) is at_module_level


def test_a_name_that_is_not_there_is_refused_with_a_hint() -> None:
    """ASSET-01, RUN-22."""
    with pytest.raises(AssetNotFound) as caught:
        module_pipe.asset_info("at_module_levle")
    assert str(caught.value) == (
        "pipeline 'module' has no asset 'at_module_levle'. It has: at_module_level.\n  Did you mean 'at_module_level'?"
    )
    assert caught.value.details == {"pipeline": "module", "available": ["at_module_level"]}
    with pytest.raises(AssetNotFound):
        module_pipe.asset_info(Pipeline("other").constant("elsewhere", 1))


def test_of_many_names_some_are_listed() -> None:
    """ASSET-01, RUN-22."""
    pipe = Pipeline("p")
    for number in range(25):
        pipe.constant(f"asset_{number}", number)
    with pytest.raises(AssetNotFound, match=r"asset_18, asset_19 and 5 more\."):
        pipe.asset_info("nothing_like_it")


async def test_a_direct_call_is_the_body_alone() -> None:
    """ASSET-02."""
    pipe = Pipeline("p")
    calls: list[object] = []

    @pipe.asset(retry=Retry(3), cache=Cache(ttl="1h"), timeout="1s")
    async def doubled(raw: list[int], factor: int = 2) -> list[int]:
        calls.append(raw)
        if not raw:
            raise ValueError("nothing to double")
        return [n * factor for n in raw]

    @pipe.asset(run_in="thread")
    def summed(doubled: list[int]) -> int:
        return sum(doubled)

    @pipe.asset
    async def streamed(doubled: list[int]) -> AsyncIterator[int]:
        for n in doubled:
            yield n

    assert await doubled([1, 2]) == [2, 4]
    assert await doubled(raw=[1], factor=3) == [3]
    assert summed([1, 2]) == 3
    assert [n async for n in streamed([1, 2])] == [1, 2]
    with pytest.raises(ValueError, match="nothing to double"):
        await doubled([])
    assert calls == [[1, 2], [1], []]  # neither cached nor retried


def test_a_direct_call_needs_what_a_run_would_inject() -> None:
    """ASSET-02."""
    pipe = Pipeline("p")
    days = Daily("2025-01-01")
    raw = pipe.constant("raw", [1])

    @pipe.asset
    async def total(numbers: list[int] = dep(raw)) -> int:
        return sum(numbers)

    @pipe.asset(partitions=days)
    async def several(ctx: Context, raw: list[int], day: object = days.key(), limit: int = 3) -> int:
        return limit

    message = "total() misses `numbers=`: pass `numbers=` or run it through a pipeline"
    with pytest.raises(TypeError) as caught:
        untyped(total)()
    assert str(caught.value) == message
    message = "several() misses `ctx=`, `day=`: pass `ctx=`, `day=` or run it through a pipeline"
    with pytest.raises(TypeError) as caught:
        untyped(several)(raw=[1])
    assert str(caught.value) == message
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'rwa'"):
        untyped(several)(rwa=[1])
    assert asyncio.run(total([1, 2])) == 3


class _Fetcher:
    """Not the asset's description."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    async def __call__(self, numbers: list[int]) -> list[int]:
        """Multiply."""
        return [n * self.factor for n in numbers]

    async def method(self, numbers: list[int]) -> int:
        """Add up."""
        return sum(numbers) * self.factor

    async def stream(self) -> AsyncIterator[int]:
        yield self.factor

    def blocking(self, raw: list[int]) -> int:
        return len(raw) * self.factor


async def _scaled(factor: int, numbers: list[int]) -> list[int]:
    return [n * factor for n in numbers]


async def test_assets_may_be_added_by_program() -> None:
    """ASSET-10: functions, bound methods, callable objects, partials; upstreams as handles or names."""
    pipe = Pipeline("p")
    raw = pipe.add(_Fetcher(3).stream, name="urls")
    numbers = pipe.constant("raw", [1, 2])
    by_object = pipe.add(_Fetcher(10), name="by_object", deps={"numbers": numbers})
    by_method = pipe.add(_Fetcher(2).method, deps={"numbers": "by_object"}, tags=["added"])
    blocking = pipe.add(_Fetcher(2).blocking, run_in="thread")
    partial = pipe.add(functools.partial(_scaled, 5), deps={"numbers": numbers})
    again = pipe.add(by_object, name="again", deps={"numbers": by_object})

    assert pipe.problems() == ()
    assert pipe.assets() == ("urls", "raw", "by_object", "method", "blocking", "_scaled", "again")
    assert await (await pipe.run(raw)).to_list(limit=5) == [3]
    assert await pipe.run(by_object, by_method, blocking) == ([10, 20], 60, 4)
    assert await pipe.run(partial, again) == ([5, 10], [100, 200])
    assert pipe.asset_info(by_object).description == "Multiply."
    assert pipe.asset_info(by_method).description == "Add up."
    assert pipe.asset_info(by_method).tags == ("added",)
    assert pipe.asset_info(by_object).depends_on == ("raw",)
    assert await by_object([1]) == [10]
    assert str(pipe.asset_info(by_object).location).startswith("tests/unit/definition/test_asset.py:")


async def test_a_body_with_any_keyword_takes_what_deps_names() -> None:
    """ASSET-10."""
    pipe = Pipeline("p")
    ones = [pipe.constant(f"one_{n}", n) for n in range(5)]

    async def combine(start: int = 100, **inputs: int) -> int:
        return start + sum(inputs.values())

    combined = pipe.add(combine, deps={f"n{i}": each for i, each in enumerate(ones)})
    assert pipe.asset_info(combined).depends_on == tuple(each.name for each in ones)
    assert await pipe.run(combined) == 110

    wrong = Pipeline("wrong")
    wrong.constant("text", "x")
    wrong.add(combine, deps={"n": "text"})
    assert problems(wrong) == ["FS104 combine(n: int) but asset 'text' produces str."]


def test_wrong_upstreams_of_added_assets() -> None:
    """ASSET-10, ASSET-12."""
    pipe = Pipeline("p")
    pipe.constant("raw", [1])
    pipe.add(_scaled, name="misspelt", deps={"numbrs": "raw", "factor": "raw"})
    untyped(pipe).add(_scaled, name="unknown", deps={"numbers": "rwa", "factor": 3})
    untyped(pipe).add(_scaled, name="listed", deps=["raw"])
    assert problems(pipe) == [
        "FS101 misspelt(numbers: list[int]) — 'numbers' is not an asset, param or resource of this pipeline.",
        "FS109 misspelt: deps={'numbrs': ...} names a parameter that the body does not have. | Did you mean 'numbers'?",
        "FS109 unknown(factor: int) — 3 is neither an asset nor a name.",
        "FS101 unknown(numbers: list[int]) — 'rwa' is not an asset of this pipeline. | Did you mean 'raw'?",
        "FS109 listed: deps=['raw']: give a mapping from parameters to assets.",
        "FS101 listed(factor: int) — 'factor' is not an asset, param or resource of this pipeline.",
        "FS101 listed(numbers: list[int]) — 'numbers' is not an asset, param or resource of this pipeline.",
        "FS104 misspelt(factor: int) but asset 'raw' produces list[int].",
    ]


def test_descriptions_come_from_the_docstring() -> None:
    """ASSET-18."""
    pipe = Pipeline("p")

    @pipe.asset
    async def documented() -> int:
        """Count things
        over two lines.

        And more.
        """
        return 1

    @pipe.asset(description="Given.")
    async def described() -> int:
        """Not this."""
        return 1

    @pipe.asset
    async def bare() -> int:
        return 1

    assert pipe.asset_info(documented).description == "Count things over two lines."
    assert pipe.asset_info(described).description == "Given."
    assert pipe.asset_info(bare).description is None


def test_a_pipeline_gives_defaults_to_its_assets() -> None:
    """ASSET-18, CFG-02: the asset's own option wins, None is not given, False switches off."""
    lake = object()
    pipe = Pipeline("p", io=lake, cache=Cache(ttl="1h"), retry=Retry(3), timeout="1m")

    @pipe.asset
    async def inherits() -> int:
        return 1

    @pipe.asset(io=None, cache=None, retry=None, timeout=None)
    async def not_given() -> int:
        return 1

    @pipe.asset(io="other", cache=False, retry=False, timeout=False)
    async def overrides() -> int:
        return 1

    @pipe.asset(cache=True, retry=Retry(1), timeout=5)
    async def own() -> int:
        return 1

    for info in (pipe.asset_info(inherits), pipe.asset_info(not_given)):
        assert (info.io, info.cache, info.retry, info.timeout) == (lake, Cache(ttl="1h"), Retry(3), "1m")
    info = pipe.asset_info(overrides)
    assert (info.io, info.cache, info.retry, info.timeout) == ("other", False, False, False)
    info = pipe.asset_info(own)
    assert (info.io, info.cache, info.retry, info.timeout) == (lake, True, Retry(1), 5)


def test_an_unknown_keyword_is_a_type_error_at_the_call() -> None:
    """Conventions."""
    pipe = Pipeline("p")
    with pytest.raises(TypeError, match=r"asset\(\) got an unexpected keyword argument 'cach'"):
        untyped(pipe).asset(cach=False)
    with pytest.raises(TypeError, match=r"add\(\) got an unexpected keyword argument 'label'"):
        untyped(pipe).add(_scaled, label="x")
    with pytest.raises(TypeError, match=r"constant\(\) got an unexpected keyword argument 'partitions'"):
        untyped(pipe).constant("x", 1, partitions=None)
    with pytest.raises(TypeError, match=r"asset\(\) takes a function, not 'name'; options are given by keyword"):
        untyped(pipe).asset("name")
    assert pipe.assets() == ()


def test_two_pipelines_have_nothing_in_common() -> None:
    """ASSET-23: assets of one name share no value and no status."""
    one, other = Pipeline("one"), Pipeline("other")
    a, b = one.constant("raw", 1), other.constant("raw", 2)
    assert one.run_sync(a) == 1
    assert not asyncio.run(other.exists(b))
    assert asyncio.run(other.status("raw")).state == "not_found"
    assert other.run_sync("raw") == 2
    assert one.run_sync("raw") == 1


def test_a_fresh_process_that_only_imports_the_module(tmp_path: Path) -> None:
    """ASSET-23: lists and runs the same assets, with no registration call."""
    (tmp_path / "shop.py").write_text(
        "from flowstone_async import Pipeline, dep\n"
        "pipe = Pipeline('shop')\n"
        "@pipe.asset\n"
        "async def raw() -> list[int]: return [1, 2]\n"
        "@pipe.asset\n"
        "async def total(xs: list[int] = dep(raw)) -> int: return sum(xs)\n",
        encoding="utf-8",
    )
    program = "import shop; print(shop.pipe.assets(), shop.pipe.run_sync(shop.total), shop.pipe.graph())"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
        ).stdout
        for _ in range(2)
    ]
    assert outputs == ["('raw', 'total') 3 raw\n└── total\n"] * 2


def test_a_hook_takes_an_event_type() -> None:
    """EVT-01: and is given back as it is."""
    pipe = Pipeline("p")
    for wrong in ("run.failed", int, None):
        with pytest.raises(ConfigError, match=r"takes an event type\n  Say @pipe.on\(RunFailed\)"):
            untyped(pipe).on(wrong)

    def hook(event: RunFailed) -> None: ...

    assert pipe.on(RunFailed)(hook) is hook
    assert [(each.event, each.function) for each in pipe.hooks] == [(RunFailed, hook)]


def test_an_asset_without_dependencies_is_called_with_none() -> None:
    """ASSET-03."""
    pipe = Pipeline("p")
    seen: list[tuple[object, ...]] = []

    @pipe.asset
    async def alone(*args: object, **kwargs: object) -> int:
        seen.append((args, kwargs))
        return 1

    assert pipe.run_sync(alone) == 1
    assert seen == [((), {})]


def test_positional_only_parameters_cannot_be_injected() -> None:
    """ASSET-04."""
    pipe = Pipeline("p")
    pipe.constant("raw", 1)

    @pipe.asset
    async def wrong(raw: int, /) -> int:
        return raw

    assert problems(pipe) == [
        "FS101 wrong(raw: int) — 'raw' is positional-only, but arguments are passed by name. | Take the '/' away."
    ]
    assert only(pipe).asset == "wrong"
