"""The code hash covers the body and the helpers of its package that it names (CACHE-07)."""

from __future__ import annotations

import functools
import gc
import importlib
import itertools
import linecache
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

from flowstone_async.definition import code_hash as module
from flowstone_async.definition.code_hash import CodeHash, code_hash

Hash = Callable[..., CodeHash]
_numbers = itertools.count()


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hash]:
    """Write a package of files and return the hash of `body` in its module `jobs`; each call is another version."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names: list[str] = []

    def make(jobs: str, name: str = "body", **files: str) -> CodeHash:
        package = f"package{next(_numbers)}"
        names.append(package)
        (tmp_path / package).mkdir()
        for file, text in {"__init__": "", "jobs": jobs, **files}.items():
            (tmp_path / package / f"{file}.py").write_text(dedent(text), encoding="utf-8")
        importlib.invalidate_caches()
        return code_hash(getattr(importlib.import_module(f"{package}.jobs"), name))

    yield make
    for loaded in [each for each in sys.modules if each.partition(".")[0] in names]:
        del sys.modules[loaded]


BODY = """
    async def body(x: int) -> int:
        return x + 1
"""


@pytest.mark.parametrize(
    "same",
    [
        '# a remark\n\nasync def body(\n    x: int,\n) -> int:\n    """Says."""\n    return (x +\n    1)  # one more',
        "def option(**_): return lambda fn: fn\n@option(cache=1)\nasync def body(x: int) -> int: return x + 1",
        "async def other(x): return 0\nasync def body(x: int) -> int:\n    'Text.'\n    return x + 1",
    ],
    ids=["formatting", "options", "neighbours"],
)
def test_comments_docstrings_formatting_and_options_do_not_count(hashed: Hash, same: str) -> None:
    """CACHE-07"""
    assert hashed(BODY).hash == hashed(same).hash


@pytest.mark.parametrize(
    "other",
    [
        "async def body(x: int) -> int:\n    return x + 2",
        "async def body(x: int) -> int:\n    return 1 + x",
        "def body(x: int) -> int:\n    return x + 1",
        "async def body(x: int) -> int:\n    y = x\n    return x + 1",
    ],
)
def test_what_is_executed_counts(hashed: Hash, other: str) -> None:
    """CACHE-07"""
    assert hashed(BODY).hash != hashed(other).hash


def test_the_name_of_a_body_does_not_count(hashed: Hash) -> None:
    """ASSET-24: an asset may be renamed."""
    renamed = hashed(BODY.replace("body", "renamed"), name="renamed")
    assert renamed.hash == hashed(BODY).hash
    assert renamed.function == "renamed"


def test_it_says_function_and_line(hashed: Hash) -> None:
    """CACHE-07"""
    found = hashed("\n\n\nasync def body():\n    return 1\n")
    assert (found.function, found.line) == ("body", 4)
    assert len(found.hash) == 32


JOBS = """
    import json
    from . import more
    from .more import TABLE as table, Cleaner, polish
    from .values import RATE

    LIMIT = 3
    SCALE = LIMIT * 2
    WORDS = frozenset({"a", "b"})

    def helper(x, by=RATE): return json.dumps(inner(x))
    def inner(x): return x
    def unused(x): return x

    async def body(x: int) -> int:
        polish(x)
        more.shine(x)
        Cleaner().clean(x)
        return [helper(y) for y in range(SCALE)], table, WORDS
"""
MORE = """
    TABLE = {
        "a": 1,
    }

    def polish(x): return _rub(x)
    def _rub(x): return x
    def shine(x): return x
    def unused(x): return x

    class Cleaner:
        def clean(self, x):
            \"\"\"Cleans.\"\"\"
            return _wipe(x)

    def _wipe(x): return x
"""
FILES = {"jobs": JOBS, "more": MORE, "values": "RATE = 0.1\nOTHER = 1\n"}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("jobs", "json.dumps(inner(x))", "json.dumps(inner(x), indent=1)"),
        ("jobs", "def inner(x): return x", "def inner(x): return x + 1"),
        ("jobs", "LIMIT = 3", "LIMIT = 4"),
        ("jobs", "SCALE = LIMIT * 2", "SCALE = LIMIT * 3"),
        ("jobs", '{"a", "b"}', '{"a", "c"}'),
        ("more", '"a": 1', '"a": 2'),
        ("more", "return _rub(x)", "return _rub(x) + 1"),
        ("more", "def _rub(x): return x", "def _rub(x): return x * 2"),
        ("more", "def shine(x): return x", "def shine(x): return None"),
        ("more", "return _wipe(x)", "return _wipe(x) or 0"),
        ("more", "def _wipe(x): return x", "def _wipe(x): return 0"),
        ("values", "RATE = 0.1", "RATE = 0.2"),
    ],
)
def test_helpers_and_constants_of_the_package_count(hashed: Hash, file: str, old: str, new: str) -> None:
    """CACHE-07"""
    assert old in FILES[file]
    assert hashed(**FILES).hash != hashed(**{**FILES, file: FILES[file].replace(old, new)}).hash


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("jobs", "def unused(x): return x", "def unused(x): return 1"),
        ("more", "def unused(x): return x", "def unused(x): return 1"),
        ("more", '"""Cleans."""', '"""Cleans well."""'),
        ("more", '"a": 1,\n', '"a": 1  # one\n'),
        ("values", "OTHER = 1", "OTHER = 2"),
    ],
)
def test_what_is_not_named_does_not_count(hashed: Hash, file: str, old: str, new: str) -> None:
    """CACHE-07"""
    assert old in FILES[file]
    assert hashed(**FILES).hash == hashed(**{**FILES, file: FILES[file].replace(old, new)}).hash


def test_an_upstream_asset_named_in_the_signature_does_not_count(hashed: Hash) -> None:
    """CACHE-08: upstream assets have fingerprints."""
    text = """
        class Handle:
            def __init__(self, fn): self.__wrapped__ = fn

        def dep(handle): return handle

        @Handle
        async def upstream(): return {value}

        async def body(x: int = dep(upstream)): return x{call}
    """
    quiet = [hashed(text.format(value=value, call="")).hash for value in (1, 2)]
    called = [hashed(text.format(value=value, call=" + await upstream.__wrapped__()")).hash for value in (1, 2)]
    assert quiet[0] == quiet[1]
    assert called[0] != called[1]


def test_other_packages_do_not_count(hashed: Hash, tmp_path: Path) -> None:
    """CACHE-07"""
    library = tmp_path / "library_of_others.py"
    jobs = "from library_of_others import helper\nasync def body(x):\n    return helper(x)\n"
    found: list[str] = []
    for text in ("def helper(x): return x", "def helper(x): return 1"):
        library.write_text(text, encoding="utf-8")
        sys.modules.pop("library_of_others", None)
        found.append(hashed(jobs).hash)
    del sys.modules["library_of_others"]
    assert found[0] == found[1]


def test_helpers_may_call_each_other_in_circles(hashed: Hash) -> None:
    """CACHE-07"""
    text = """
        def one(x): return two(x)
        def two(x): return one(x) or body or Node

        class Node:
            def more(self): return Node(), one

        async def body(x): return one(x)
    """
    assert hashed(text).hash == hashed(text).hash


def test_a_value_from_the_environment_does_not_count(hashed: Hash, monkeypatch: pytest.MonkeyPatch) -> None:
    """CACHE-07: the same code has the same hash on every host."""
    text = "import os\nHOST = os.environ.get('SOME_HOST', '')\nasync def body():\n    return HOST\n"
    found: set[str] = set()
    for host in ("a", "b"):
        monkeypatch.setenv("SOME_HOST", host)
        found.add(hashed(text).hash)
    assert len(found) == 1


def _make(number: object, helper: Callable[[], int]) -> Callable[[], object]:
    def inner() -> object:
        return number, helper()

    return inner


def _one() -> int: return 1  # fmt: skip


def _two() -> int: return 2  # fmt: skip


def test_what_a_closure_holds_counts() -> None:
    """CACHE-07"""
    hashes = {code_hash(_make(number, helper)).hash for number in (1, 2, "1", (1, 2)) for helper in (_one, _two)}
    assert len(hashes) == 8
    assert code_hash(_make(1, _one)).hash == code_hash(_make(1, _one)).hash
    assert code_hash(_make(object(), _one)).hash == code_hash(_make(object(), _one)).hash


def test_a_long_constant_counts_by_its_contents_and_is_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """CACHE-07: hashing a body that closes over megabytes takes no time that anybody would notice."""
    long = "x" * 10_000
    written: list[int] = []
    monkeypatch.setattr(module, "_digest", lambda texts: _noted(texts, written))
    values = (long + "a", long + "b", long.encode(), (long, long))
    assert len({code_hash(_make(value, _one)).hash for value in values}) == len(values)
    assert max(written) < 5_000


def _noted(texts: Iterable[str], written: list[int]) -> str:
    kept = [*texts]
    written += map(len, kept)
    return "\0".join(kept)


class Handle:
    def __init__(self, body: object) -> None:
        self.body = body


class Caller:
    def method(self) -> int:
        return 1

    def __call__(self) -> int:
        return 1


def test_what_stands_for_a_function_has_its_hash() -> None:
    """ASSET-10"""
    plain = code_hash(_one)
    assert code_hash(Handle(_one)) == plain
    assert code_hash(Handle(functools.wraps(_one)(lambda: None))) == plain
    assert code_hash(functools.lru_cache(_one)) == plain
    assert code_hash(Caller().method).function == "Caller.method"
    assert code_hash(Caller()).function == "Caller.__call__"
    assert code_hash(functools.partial(_make, 1)).hash != code_hash(functools.partial(_make, 2)).hash
    assert code_hash(functools.partial(_make, 1)).function == "_make"


def test_lambdas_are_told_apart() -> None:
    one, two = (lambda: 1), (lambda: 1 + 1)  # fmt: skip
    other = lambda: 2  # noqa: E731
    assert code_hash(one).hash == code_hash(two).hash, "two of one line are hashed together"
    assert code_hash(one).hash != code_hash(other).hash


def _compiled(text: str, file: str = "<nowhere>") -> Any:
    scope: dict[str, Any] = {"__name__": "nowhere"}
    exec(compile(dedent(text), file, "exec"), scope)
    return scope["body"]


def test_without_source_bytecode_counts() -> None:
    """CACHE-07"""
    text = 'def body(x):\n    """{doc}"""\n    return x + {number}, [y for y in (1, 2)]'
    one = code_hash(_compiled(text.format(doc="A", number=1)))
    assert one.hash == code_hash(_compiled(text.format(doc="B", number=1))).hash
    assert one.hash != code_hash(_compiled(text.format(doc="A", number=2))).hash
    assert one.line == 1


def test_a_cell_of_a_notebook_has_source() -> None:
    """CACHE-07"""
    found: list[str] = []
    for number, text in enumerate(("def body():\n    return 1", "def body():\n    # now\n    return 1")):
        file = f"<cell {number}>"
        linecache.cache[file] = (len(text), None, [*text.splitlines(keepends=True)], file)
        found.append(code_hash(_compiled(text, file)).hash)
    assert found[0] == found[1]


def test_source_that_changed_under_a_running_program_is_not_mistaken_for_its_code(tmp_path: Path) -> None:
    """CACHE-07"""
    file = tmp_path / "edited.py"
    text = "def body():\n    return 1"
    file.write_text("\n\n\n" + text, encoding="utf-8")
    assert code_hash(_compiled(text, str(file))).hash == code_hash(_compiled(text)).hash


class Hostile:
    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


ODD: list[object] = [None, 1, "text", len, int, object(), Hostile(), ModuleType("m"), functools.partial(len)]


@pytest.mark.parametrize("number", range(len(ODD)))
def test_it_never_raises(number: int) -> None:
    """CACHE-07"""
    assert code_hash(ODD[number]).hash == code_hash(ODD[number]).hash


HOSTILE = Hostile()


def test_a_hostile_global_is_a_constant_like_any_other() -> None:
    def body() -> object:
        return HOSTILE

    def other() -> object:
        return HOSTILE, 1

    assert code_hash(body).hash != code_hash(other).hash


def test_functions_that_end_are_forgotten() -> None:
    """CACHE-07: cached for as long as the function lives."""
    function = _make(1, _one)
    code_hash(function)
    assert function in module._known
    end = weakref.ref(function)
    del function
    gc.collect()
    assert end() is None


def test_a_function_that_has_run_often_has_the_hash_of_one_that_has_not() -> None:
    """CACHE-07: the interpreter rewrites its bytecode as it runs."""
    often, never = _make(3, _one), _make(3, _one)
    for _ in range(2_000):
        often()
    assert code_hash(often).hash == code_hash(never).hash


def test_many_assets_with_one_body_cost_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """CACHE-07"""
    walks: list[object] = []
    walk = module._Walk
    monkeypatch.setattr(module, "_Walk", lambda root: walks.append(root) or walk(root))
    function = _make(2, _two)
    assert len({code_hash(Handle(function)).hash for _ in range(1_000)}) == 1
    assert len(walks) == 1


def _run(*command: str | Path, seed: str = "0") -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_the_hash_is_the_same_in_every_process() -> None:
    """CACHE-07"""
    script = "from tests.unit.test_code_hash import _make, _one, code_hash; print(code_hash(_make(1, _one)).hash)"
    assert {_run("-c", script, seed=seed) for seed in ("0", "7")} == {code_hash(_make(1, _one)).hash}


def test_a_script_counts_with_its_own_file(tmp_path: Path) -> None:
    """CACHE-07"""
    text = """
        from flowstone_async.definition.code_hash import code_hash
        RATE = {rate}
        def helper(x): return x * RATE
        async def body(x): return helper(x)
        print(code_hash(body).hash)
    """
    found: list[str] = []
    for number, rate in enumerate((1, 1, 2)):
        script = tmp_path / f"script{number}.py"
        script.write_text(dedent(text).format(rate=rate), encoding="utf-8")
        found.append(_run(script))
    assert found[0] == found[1] != found[2]
