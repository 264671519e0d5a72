"""Every problem at once, each with its place, its sentence and its way out (ASSET-11, 12, 14, 17, 24; FLOW-06)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from flowstone_async import Cache, DefinitionError, Engine, Pipeline, Retry, RunStarted, dep
from tests.unit.definition.reading import codes, line_here, only, problems

ROOT = Path(__file__).resolve().parents[3]

BROKEN = """
from __future__ import annotations
from flowstone_async import Pipeline, DefinitionError, dep
pipe = Pipeline("daily")

@pipe.asset
async def events() -> list[str]: return []
@pipe.asset
async def metrics(event: list[str]) -> int: return 1
@pipe.asset
async def report(metrics: str, partition: str) -> str: return ""
try: pipe.validate()
except DefinitionError as e: print(e)
print("-----")
p2 = Pipeline("loop")
@p2.asset
async def a(c: int) -> int: return c
@p2.asset
async def b(a: int) -> int: return a
@p2.asset
async def c(b: int) -> int: return b
try: p2.validate()
except DefinitionError as e: print(e)
print("-----")
p3 = Pipeline("blocking")
@p3.asset
def blocking() -> int: return 1
try: p3.validate()
except DefinitionError as e: print(e)
"""

SAID = """
2 problems in pipeline 'daily'

FS101  errs.py:7
  metrics(event: list[str]) — 'event' is not an asset, param or resource of this pipeline. Did you mean 'events'?

FS104  errs.py:9
  report(metrics: str) but asset 'metrics' produces int.
-----
1 problem in pipeline 'loop'

FS110  errs.py:15
  cycle: a -> b -> c -> a. Take one of these edges away.
-----
1 problem in pipeline 'blocking'

FS103  errs.py:25
  blocking: the body is a plain def, which would block the event loop. Make it async def, or name where it runs: \
@pipe.asset(run_in="thread"), "process" or "dask".
"""


def test_three_broken_pipelines(tmp_path: Path) -> None:
    """ASSET-12: api/errs.py without its route, word for word; a line counts from the decorator."""
    (tmp_path / "errs.py").write_text(BROKEN.lstrip("\n"), encoding="utf-8")
    command = [sys.executable, "errs.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stderr == ""
    assert done.stdout.strip() == SAID.strip()


def _broken() -> Pipeline:
    pipe = Pipeline("Bad Name", timeout="soon")

    @pipe.asset
    async def metrics(event: list[str]) -> int:
        return 1

    @pipe.asset(retry=Retry(0), name="Report")
    async def report(metrics: str) -> str:
        return ""

    return pipe


def test_all_problems_are_found_at_once() -> None:
    """ASSET-12: with code, place, sentence, asset and hint, also as values; decorators raise nothing."""
    pipe = _broken()
    with pytest.raises(DefinitionError) as caught:
        pipe.validate()
    error = caught.value
    first = _broken.__code__.co_firstlineno
    assert [(p.code, p.line, p.asset) for p in error.problems] == [
        ("FS108", first + 1, None),
        ("FS109", first + 1, None),
        ("FS101", first + 3, "metrics"),
        ("FS109", first + 7, "Report"),
        ("FS108", first + 7, "Report"),
        ("FS104", first + 7, "Report"),
    ]
    assert {p.file for p in error.problems} == {"tests/unit/definition/test_problems.py"}
    assert error.message.startswith("6 problems in pipeline 'Bad Name'\n\nFS108  tests/unit/definition/test_problems.py:")
    assert error.problems == pipe.problems()
    assert error.details["problems"] == [
        {"code": p.code, "location": p.location, "message": p.message} for p in error.problems
    ]
    assert not error.retryable


async def test_nothing_runs_before_validation(tmp_path: Path) -> None:
    """ASSET-12: no body, resource or hook has run, and no store was opened."""
    pipe = Pipeline("p")
    touched: list[str] = []

    @pipe.resource
    async def resource() -> AsyncIterator[Path]:
        touched.append("resource")
        yield tmp_path

    @pipe.on(RunStarted)
    async def hook(event: RunStarted) -> None:
        touched.append("hook")

    @pipe.asset
    async def fine(where: Path) -> int:
        touched.append("body")
        return 1

    @pipe.asset
    async def wrong(nothing: int) -> int:
        return 1

    store = tmp_path / "store"
    with pytest.raises(DefinitionError):
        await pipe.run(fine)
    with pytest.raises(DefinitionError):
        await pipe.plan(fine)
    with pytest.raises(DefinitionError):
        async with Engine(pipe, store=f"embedded:{store}"):
            touched.append("engine")
    for look in (pipe.order, pipe.graph, lambda: pipe.asset_info(fine)):
        with pytest.raises(DefinitionError):
            look()
    assert touched == []
    assert not store.exists()


def test_a_plain_body_says_where_it_runs() -> None:
    """ASSET-11: `FS103` shows both remedies."""
    pipe = Pipeline("p")

    @pipe.asset  # pyright: ignore
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
        "FS103 silent: the body is a plain def, which would block the event loop. | Make it async def, or name where"
        ' it runs: @pipe.asset(run_in="thread"), "process" or "dask".'
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

    @pipe.asset(run_in="fiber")  # pyright: ignore
    def elsewhere() -> int:
        return 1

    loop = "run_in='thread' on an async def, which runs on the event loop. | Make it a plain def, or leave run_in= out."
    assert problems(pipe) == [
        f"FS109 coroutine: {loop}",
        f"FS109 stream: {loop}",
        "FS109 generator: the body is a plain generator, which is no value."
        " | Return a list, or make it an async generator and leave run_in= out.",
        "FS109 elsewhere: run_in='fiber': allowed are 'thread', 'process', 'dask'.",
    ]


def test_two_assets_of_one_name() -> None:
    """ASSET-14: `FS105` with both places, and the first one stays."""
    pipe = Pipeline("p")
    first = line_here(2)

    @pipe.asset
    async def twice() -> int:
        return 1

    second = line_here(2)

    @pipe.asset(name="twice")
    async def again() -> str:
        return ""

    third = line_here(1)
    pipe.constant("twice", b"")
    file = "tests/unit/definition/test_problems.py"
    hint = 'Rename one of them, or give it another name with name="...".'
    assert problems(pipe) == [
        f"FS105 two assets are called 'twice': {file}:{first} and {file}:{second}. | {hint}",
        f"FS105 two assets are called 'twice': {file}:{first} and {file}:{third}. | {hint}",
    ]
    assert [p.line for p in pipe.problems()] == [second, third]
    assert pipe.assets() == ("twice",)


def test_two_resources_of_one_name() -> None:
    """ASSET-14, RES-01."""
    pipe = Pipeline("p")

    @pipe.resource(name="db")
    async def one() -> int:
        return 1

    @pipe.resource(name="db")
    async def other() -> str:
        return ""

    assert only(pipe).message.startswith("two resources are called 'db': ")


def _pass() -> None:
    pass


async def _ellipsis() -> int: ...


async def _docstring() -> int:  # pyright: ignore
    """Say what it will be."""


async def _both(raw: int = 1) -> int:
    """Say what it will be."""
    ...


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
    return None  # noqa: RET501


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


@pytest.mark.parametrize("body", [_none, _bare_return, _text, _argument, _raises, _stream], ids=lambda each: each.__name__)
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


NAMES = {
    "a": True,
    "_a1": True,
    "a_b": True,
    "x" * 100: True,
    "x" * 101: False,
    "": False,
    "A": False,
    "aB": False,
    "1a": False,
    "a-b": False,
    "a.b": False,
    "a b": False,
    "ä": False,
    "a\n": False,
}


@pytest.mark.parametrize(("name", "legal"), NAMES.items(), ids=map(repr, NAMES))
def test_names_of_assets_and_pipelines(name: str, legal: bool) -> None:
    """ASSET-17: `FS108`."""
    pipe = Pipeline("p")
    pipe.constant(name, 1)
    assert codes(pipe) == ([] if legal else ["FS108"])
    resources = Pipeline("p")

    @resources.resource(name=name)
    async def resource() -> int:
        return 1

    assert codes(resources) == ([] if legal else ["FS108"])
    assert codes(Pipeline(name)) == ([] if legal or name == "a-b" else ["FS108"])


def test_an_illegal_name_says_what_is_legal() -> None:
    """ASSET-17."""
    pipe = Pipeline("My Pipeline")
    pipe.add(lambda: 1, run_in="thread")
    pipe.constant(5, 1)  # pyright: ignore
    rule = "lower-case letters, digits and '_', a letter or '_' first, at most 100 characters"
    assert problems(pipe) == [
        "FS108 'My Pipeline' is not a legal pipeline name. | Use lower-case letters, digits, '_' and '-', a letter or"
        " '_' first, at most 100 characters.",
        f"FS108 <lambda>: '<lambda>' is not a legal asset name. | Use {rule}; or say name=\"...\".",
        f"FS108 5: '5' is not a legal asset name. | Use {rule}; or say name=\"...\".",
    ]


DURATION = 'Give a timedelta, seconds, or text such as "500ms", "30s", "15m", "24h", "7d"; more than zero.'
WRONG: list[tuple[str, Any, str]] = [
    ("retry", Retry(0), "Retry(0): attempts must be a whole number of 1 or more (1 is: no second attempt)."),
    ("retry", Retry("3"), "Retry('3'): attempts must be a whole number"),  # pyright: ignore
    ("retry", Retry(True), "Retry(True): attempts must be a whole number"),
    ("retry", Retry(2, backoff="slow"), "Retry(backoff='slow'): allowed are 'none', 'fixed', 'linear'"),  # pyright: ignore
    ("retry", Retry(2, initial="soon"), f"Retry(initial='soon'): {DURATION}"),
    ("retry", Retry(2, maximum=0), f"Retry(maximum=0): {DURATION}"),
    ("retry", Retry(2, jitter="some"), "Retry(jitter='some'): allowed are True, False."),  # pyright: ignore
    ("retry", Retry(2, on=("x",)), "Retry(on=('x',)): give an exception type, or a tuple of them."),  # pyright: ignore
    ("retry", Retry(2, on=5), "Retry(on=5): give an exception type"),  # pyright: ignore
    ("retry", Retry(2, when=5), "Retry(when=5): give a function"),  # pyright: ignore
    ("retry", 3, "retry=3: allowed are Retry(...) and False."),
    ("retry", True, "retry=True: allowed are Retry(...) and False."),
    ("retry", 0, "retry=0: allowed are Retry(...) and False."),
    ("cache", "never", "cache='never': allowed are True, False, \"exists\" and Cache(...)."),
    ("cache", 0, 'cache=0: allowed are True, False, "exists" and Cache(...).'),
    ("cache", {"ttl": 3600}, "cache={'ttl': 3600}: allowed are"),
    ("cache", Cache(ttl="1 hour"), f"Cache(ttl='1 hour'): {DURATION}"),
    ("cache", Cache(ttl=-1), f"Cache(ttl=-1): {DURATION}"),
    ("cache", Cache(version=2), "Cache(version=2): a version is text."),  # pyright: ignore
    ("cache", Cache(key="k"), "Cache(key='k'): a key is a function that returns text."),  # pyright: ignore
    ("cache", Cache(on_code_change="stop"), "Cache(on_code_change='stop'): allowed are 'report', 'rerun'."),  # pyright: ignore
    ("timeout", 0, f"timeout=0: {DURATION}"),
    ("timeout", True, f"timeout=True: {DURATION}"),
    ("timeout", "-1s", f"timeout='-1s': {DURATION}"),
    ("timeout", float("inf"), f"timeout=inf: {DURATION}"),
    ("when", 5, "when=5: give a function that answers True or False."),
    ("unless", "x", "unless='x': give a function that answers True or False."),
    ("tags", "abc", "tags='abc': give a list of texts."),
    ("tags", [1], "tags=[1]: give a list of texts."),
    ("metadata", 5, "metadata=5: give a mapping from text to values."),
    ("metadata", {1: 2}, "metadata={1: 2}: give a mapping from text to values."),
    ("description", 5, "description=5: give text."),
    ("owner", 5, "owner=5: give text."),
    ("renamed_from", "Old Name", "renamed_from='Old Name': give the asset's earlier name."),
    ("renamed_from", 5, "renamed_from=5: give the asset's earlier name."),
]


@pytest.mark.parametrize(("option", "value", "words"), WRONG, ids=[f"{each[0]} {each[1]!r}" for each in WRONG])
def test_an_option_with_a_bad_value(option: str, value: Any, words: str) -> None:
    """ASSET-17, FLOW-06: `FS109` that lists what is allowed."""
    pipe = Pipeline("p")

    @pipe.asset(**{option: value})
    async def wrong() -> int:
        return 1

    found = only(pipe)
    assert found.code == "FS109"
    assert found.message.startswith(f"wrong: {words}")


def test_a_bad_default_of_a_pipeline_is_one_problem() -> None:
    """ASSET-17, ASSET-18: not one for each asset."""
    line = line_here(1)
    pipe = Pipeline("p", cache="no", retry=Retry(0), timeout=-1, params=dict)  # pyright: ignore
    for name in ("a", "b", "c"):
        pipe.constant(name, 1)
    assert [(p.code, p.line) for p in pipe.problems()] == [("FS109", line)] * 4
    assert problems(pipe)[0].startswith("FS109 params=<class 'dict'>: give a pydantic model or a dataclass")


def test_a_renamed_asset_whose_old_name_is_still_there() -> None:
    """ASSET-24: `FS112`; nor can two take one over."""
    pipe = Pipeline("p")
    pipe.constant("old", 1)
    pipe.constant("new", 1, renamed_from="old")
    pipe.constant("self", 1, renamed_from="self")
    pipe.constant("heir", 1, renamed_from="gone")
    pipe.constant("second", 1, renamed_from="gone")
    assert problems(pipe) == [
        "FS112 new: renamed_from='old', but asset 'old' is still defined. | Take one of the two away.",
        "FS112 self: renamed_from='self', but asset 'self' is still defined. | Take one of the two away.",
        "FS112 second: renamed_from='gone', but asset 'heir' says that too. | Only one can take its values over.",
    ]


def test_a_definition_may_be_mended() -> None:
    """ASSET-12: validation looks again after each change, and only then."""
    pipe = Pipeline("p")

    @pipe.asset
    async def down(up: int) -> int:
        return up

    assert codes(pipe) == ["FS101"]
    pipe.constant("up", 1)
    assert codes(pipe) == []
    assert pipe.compiled() is pipe.compiled()
    before = pipe.compiled()
    pipe.constant("more", 1)
    assert pipe.compiled() is not before


REPL = """
from flowstone_async import Pipeline
pipe = Pipeline("p")
@pipe.asset
async def raw() -> int:
    return 1

@pipe.asset
async def down(raw: int) -> int:
    return raw + 1

handle = raw
pipe.run_sync(down)
@pipe.asset
async def raw() -> int:
    return 10

pipe.constant("rate", 1)
pipe.constant("rate", 2)
other = Pipeline("other")
other.constant("raw", 5)
pipe.include(other, prefix="o_")
pipe.include(other, prefix="o_")
print(pipe.problems(), pipe.assets())
print(pipe.run_sync(down), pipe.run_sync(down, force="all"), pipe.run_sync(handle), pipe.run_sync("rate"))
pipe.include(other)
print([p.code for p in pipe.problems()])
"""


def test_in_a_repl_a_definition_replaces_the_earlier_one() -> None:
    """ASSET-14: typed once more, or included once more; an included asset of the same name still clashes."""
    command = [sys.executable, "-i", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSTARTUP": ""}
    text = dedent(REPL).lstrip()
    done = subprocess.run(command, check=False, capture_output=True, text=True, input=text, env=environment)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("<")]
    assert "() ('raw', 'down', 'rate', 'o_raw')" in lines, done.stderr
    assert "2 11 10 2" in lines  # a change of code alone leaves a value fresh (CACHE-07)
    assert "['FS105']" in lines


def test_a_definition_without_a_place_is_not_replaced() -> None:
    """ASSET-14: a callable without source is no REPL."""
    pipe = Pipeline("p")
    pipe.add(len, name="same", run_in="thread")
    pipe.add(len, name="same", run_in="thread")
    assert "FS105" in codes(pipe)
    assert "two assets are called 'same': <unknown>:0 and <unknown>:0." in problems(pipe)[0]


def test_a_handle_of_a_replaced_asset_means_the_new_one() -> None:
    """ASSET-14: what was defined against the old handle follows."""
    source = dedent(
        """
        from flowstone_async import Pipeline, dep
        pipe = Pipeline("p")
        @pipe.asset
        async def raw() -> int:
            return 1
        @pipe.asset
        async def down(x: int = dep(raw)) -> int:
            return x + 1
        """
    )
    again = "@pipe.asset\nasync def raw() -> int:\n    return 10\n"
    space: dict[str, Any] = {}
    exec(compile(source, "<ipython-input-1-abc>", "exec"), space)  # noqa: S102
    exec(compile(again, "<ipython-input-2-abc>", "exec"), space)  # noqa: S102
    assert space["pipe"].run_sync(space["down"]) == 11
    elsewhere: dict[str, Any] = {}
    exec(compile(source + again, "<string>", "exec"), elsewhere)  # noqa: S102
    assert codes(elsewhere["pipe"]) == ["FS105"]


def test_a_dependency_is_not_looked_for_among_methods() -> None:
    """ASSET-12: a pipeline's own attributes are no assets."""
    pipe = Pipeline("p")

    @pipe.asset
    async def wrong(run: int, x: int = dep("validate")) -> int:
        return run

    assert codes(pipe) == ["FS101", "FS101"]
