"""Names and options that cannot be (ASSET-17, ASSET-18, ASSET-24, FLOW-06)."""

from __future__ import annotations

from typing import Any

import pytest

from flowstone_async import Cache, Pipeline, Retry
from tests.unit.definition.reading import codes, line_here, only, problems, untyped

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


@pytest.mark.parametrize("name", [5, [], {}], ids=repr)
def test_a_name_that_is_no_text(name: object) -> None:
    """ASSET-12, ASSET-17: no decorator raises because of it."""
    pipe = Pipeline("p")

    async def body() -> int:
        return 1

    untyped(pipe).asset(name=name)(body)
    untyped(pipe).add(body, name=name)
    untyped(pipe).resource(name=name)(body)
    assert sorted(codes(pipe)) == ["FS105", "FS108", "FS108"]
    assert codes(untyped(Pipeline)(name)) == ["FS108"]


def test_an_illegal_name_says_what_is_legal() -> None:
    """ASSET-17."""
    pipe = Pipeline("My Pipeline")
    pipe.add(lambda: 1, run_in="thread")
    untyped(pipe).constant(5, 1)
    rule = "lower-case letters, digits and '_', a letter or '_' first, at most 100 characters"
    assert problems(pipe) == [
        (
            "FS108 'My Pipeline' is not a legal pipeline name. | Use lower-case letters, digits, '_' and '-', a letter"
            " or '_' first, at most 100 characters."
        ),
        f"FS108 <lambda>: '<lambda>' is not a legal asset name. | Use {rule}; or say name=\"...\".",
        f"FS108 5: '5' is not a legal asset name. | Use {rule}; or say name=\"...\".",
    ]


DURATION = 'Give a timedelta, seconds, or text such as "500ms", "30s", "15m", "24h", "7d"; more than zero.'


async def _none_coroutine(error: BaseException) -> bool:
    return True


_Retry, _Cache = untyped(Retry), untyped(Cache)
WRONG: list[tuple[str, Any, str]] = [
    ("retry", _Retry(0), "Retry(0): attempts must be a whole number of 1 or more (1 is: no second attempt)."),
    ("retry", _Retry("3"), "Retry('3'): attempts must be a whole number"),
    ("retry", _Retry(True), "Retry(True): attempts must be a whole number"),
    ("retry", _Retry(2, backoff="slow"), "Retry(backoff='slow'): allowed are 'none', 'fixed', 'linear'"),
    ("retry", _Retry(2, initial="soon"), f"Retry(initial='soon'): {DURATION}"),
    ("retry", _Retry(2, maximum=0), f"Retry(maximum=0): {DURATION}"),
    ("retry", _Retry(2, jitter="some"), "Retry(jitter='some'): allowed are True, False."),
    ("retry", _Retry(2, on=("x",)), "Retry(on=('x',)): give an exception type, or a tuple of them."),
    ("retry", _Retry(2, on=5), "Retry(on=5): give an exception type"),
    ("retry", _Retry(2, when=5), "Retry(when=5): give a plain function"),
    ("retry", _Retry(2, when=_none_coroutine), "Retry(when=<function _none_coroutine"),
    ("retry", 3, "retry=3: allowed are Retry(...) and False."),
    ("retry", True, "retry=True: allowed are Retry(...) and False."),
    ("retry", 0, "retry=0: allowed are Retry(...) and False."),
    ("cache", "never", "cache='never': allowed are True, False, \"exists\" and Cache(...)."),
    ("cache", 0, 'cache=0: allowed are True, False, "exists" and Cache(...).'),
    ("cache", {"ttl": 3600}, "cache={'ttl': 3600}: allowed are"),
    ("cache", _Cache(ttl="1 hour"), f"Cache(ttl='1 hour'): {DURATION}"),
    ("cache", _Cache(ttl=-1), f"Cache(ttl=-1): {DURATION}"),
    ("cache", _Cache(version=2), "Cache(version=2): a version is text."),
    ("cache", _Cache(key="k"), "Cache(key='k'): a key is a function that returns text."),
    ("cache", _Cache(on_code_change="stop"), "Cache(on_code_change='stop'): allowed are 'report', 'rerun'."),
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


@pytest.mark.parametrize(("option", "value", "words"), WRONG, ids=map(str, range(len(WRONG))))
def test_an_option_with_a_bad_value(option: str, value: Any, words: str) -> None:
    """ASSET-17, FLOW-06: `FS109` that lists what is allowed."""
    pipe = Pipeline("p")

    async def wrong() -> int:
        return 1

    untyped(pipe).asset(**{option: value})(wrong)

    found = only(pipe)
    assert found.code == "FS109"
    assert found.message.startswith(f"wrong: {words}")


def test_a_bad_default_of_a_pipeline_is_one_problem() -> None:
    """ASSET-17, ASSET-18: not one for each asset."""
    line = line_here(1)
    pipe = untyped(Pipeline)("p", cache="no", retry=Retry(0), timeout=-1, params=dict)
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
