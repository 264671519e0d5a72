"""The budgets hold, and each of them can fail."""

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.architecture import budgets
from tests.architecture.budgets import Finding, Source

ROOT = Path(__file__).resolve().parents[2]

# Why a file may do what no other may. An entry that is no longer needed fails too.
BROAD_EXCEPTS = {
    "flowstone_async/_engine/approving/requests.py": "schemas of a form's fields are anybody's code",
    "flowstone_async/_engine/asking.py": "conditions and cache keys are user code",
    "flowstone_async/_engine/attempt.py": "bodies are user code: here what they raise becomes an outcome",
    "flowstone_async/_engine/backfill.py": "iterating the caller's partitions, and the caller's own progress function",
    "flowstone_async/_engine/child.py": "the process of a body: whatever happens there is sent back as an answer",
    "flowstone_async/_engine/managed.py": "an I/O manager may be user code",
    "flowstone_async/_engine/processes.py": "pickling bodies, arguments and values is anybody's code",
    "flowstone_async/_engine/user_error.py": "`__str__` of an exception is anybody's code",
    "flowstone_async/_engine/gates/payloads.py": "pydantic and the hooks of a payload's class may raise anything",
    "flowstone_async/_engine/gates/type_names.py": "importing the module of a payload's class runs anything",
    "flowstone_async/_engine/waits/returned.py": "a body that is called for whom to tell changes nothing",
    "flowstone_async/_engine/replay/messages.py": "notifiers are user code and change nothing",
    "flowstone_async/_engine/replay/body.py": "steps are user code: here what they raise becomes their record",
    "flowstone_async/_engine/replay/choosing.py": "waits may be steps, which are user code",
    "flowstone_async/_engine/waits/watch.py": "a loop that must go on whatever happens",
    "flowstone_async/_engine/scatter/bodies.py": "bodies are user code: here what they raise becomes a failed item",
    "flowstone_async/_engine/scatter/intake.py": "`select` and `key` are user code",
    "flowstone_async/_engine/scatter/packing.py": "encoding a key runs anybody's code",
    "flowstone_async/_engine/scatter/rating.py": "the key of a rate is user code",
    "flowstone_async/_engine/scatter/working.py": "what any part of a scatter raises ends it, and is told",
    "flowstone_async/_engine/helpers.py": "one scatter that cannot be helped with does not stop the others",
    "flowstone_async/_engine/scatter/suspended.py": "what is thrown into a coroutine is the coroutine's to handle",
    "flowstone_async/_engine/hooks.py": "hooks are user code and change nothing",
    "flowstone_async/_engine/run.py": "a mistake of the library's own must reach whoever awaits the run",
    "flowstone_async/_engine/dispatcher.py": "one run of the queue does not stop the others",
    "flowstone_async/_engine/upkeep.py": "no duty may end the others, nor the engine's runs",
    "flowstone_async/_engine/user_call.py": "a health check's failure is its answer",
    "flowstone_async/cli/preview.py": "`__repr__` of a value is anybody's code",
    "flowstone_async/cli/process.py": "the outermost frame: whatever is left becomes a message and an exit code",
    "flowstone_async/cli/target.py": "importing the user's module runs anything",
    "flowstone_async/definition/body_log.py": "a message that cannot be formatted ends no body, as with any logger",
    "flowstone_async/definition/annotations.py": "an annotation is an expression of the user's",
    "flowstone_async/definition/code_hash.py": "sources and names of the user's code may do anything when looked at",
    "flowstone_async/io/codec.py": "pydantic and the hooks of a value's class may raise anything",
    "flowstone_async/io/copying.py": "`__deepcopy__`, `__eq__` and `__init__` of a value are anybody's code",
    "flowstone_async/mapped/work.py": "calls are user code: what they raise is raised in the loop that takes their results",
    "flowstone_async/web/endpoint.py": "the outermost frame of a request: whatever is left becomes an answer without a trace",
    "flowstone_async/redaction.py": "looking at the attributes of a value is anybody's code",
    "flowstone_async/resources.py": "opening and closing a resource is user code",
    "flowstone_async/sources/attempt.py": "closing a source is user code",
    "flowstone_async/sources/rows.py": "validators and `__post_init__` of a model are anybody's code",
    "flowstone_async/sources/reading.py": "reading a source is user code: what it raises is tried again, then told",
}
STRAY_TASKS = {
    "flowstone_async/_engine/host.py": "the root of an engine's tasks, awaited by `close`; entered and left in any task",
    "flowstone_async/sources/attempt.py": "the source's own code, awaited by every way out of `read_pages`",
    "flowstone_async/store/postgres/store.py": "the root of a store's tasks, which `close` awaits, likewise",
}
WALL_CLOCKS = {
    "flowstone_async/clock.py": "the one place that reads it",
    "flowstone_async/types.py": "new identifiers sort by the time they carry; nothing is scheduled by it",
}


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    return budgets.tracked_files(ROOT)


@pytest.fixture(scope="module")
def sources(tracked: list[str]) -> list[Source]:
    return budgets.read_sources(ROOT, tracked)


@pytest.mark.parametrize(
    ("check", "folder", "allowed"),
    [
        (budgets.long_files, "", {}),
        (budgets.long_functions, "", {}),
        (budgets.hidden_imports, "", {}),
        (budgets.broad_excepts, "flowstone_async/", BROAD_EXCEPTS),
        (budgets.stray_tasks, "flowstone_async/", STRAY_TASKS),
        (budgets.wall_clocks, "flowstone_async/", WALL_CLOCKS),
        (budgets.sleeps, "tests/", {}),
    ],
)
def test_files_keep_the_budget(
    sources: list[Source], check: Callable[[Source], Iterator[Finding]], folder: str, allowed: dict[str, str]
) -> None:
    findings = [finding for source in sources if source.name.startswith(folder) for finding in check(source)]
    _assert_none(finding for finding in findings if finding.name not in allowed)
    assert set(allowed) <= {finding.name for finding in findings}, "an allow-list names a file that needs it no more"


def test_at_most_one_function_in_twenty_is_longer_than_forty_lines(sources: list[Source]) -> None:
    package = [source for source in sources if source.name.startswith("flowstone_async/")]
    _assert_none(budgets.too_many_longish_functions(package))


def test_no_modules_import_each_other_in_a_circle() -> None:
    _assert_none(budgets.import_cycles("flowstone_async"))


def test_no_file_names_a_machine_or_a_registry(tracked: list[str]) -> None:
    _assert_none(finding for name in tracked for finding in budgets.machine_addresses(ROOT, name))


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        (budgets.long_files, "\n" * 401, "\n" * 400),
        (budgets.long_functions, "def f():" + "\n    pass" * 61, 'def f():\n    """A."""' + "\n    pass" * 60),
        (
            budgets.hidden_imports,
            "if typing.TYPE_CHECKING:\n    from flowstone_async.engine import Engine",
            "if TYPE_CHECKING:\n    from asyncpg import Pool\nfrom flowstone_async.engine import Engine",
        ),
        (budgets.broad_excepts, "try: f()\nexcept Exception: pass", "try: f()\nexcept OSError: pass"),
        (budgets.broad_excepts, "try: f()\nexcept (OSError, BaseException): pass", "try: f()\nfinally: pass"),
        (budgets.broad_excepts, "try: f()\nexcept: pass", "try: f()\nexcept BaseException:\n    g()\n    raise"),
        (budgets.broad_excepts, "try: f()\nexcept Exception as e: raise X from e", "try: f()\nexcept E: raise X"),
        (budgets.stray_tasks, "import asyncio\nasyncio.create_task(f())", "group.create_task(f())"),
        (budgets.stray_tasks, "import asyncio as aio\naio.gather(f())", "import asyncio\nasyncio.TaskGroup()"),
        (budgets.stray_tasks, "from asyncio import shield", "from asyncio import Event"),
        (budgets.stray_tasks, "asyncio.get_running_loop().create_task(f())", "asyncio.get_running_loop().time()"),
        (budgets.stray_tasks, "self._loop.create_task(f())", "self._group.create_task(f())"),
        (budgets.wall_clocks, "from datetime import datetime, UTC\ndatetime.now(UTC)", "clock.now()"),
        (budgets.wall_clocks, "import datetime as dt\ndt.datetime.utcnow()", "import time\ntime.monotonic()"),
        (budgets.wall_clocks, "from datetime import date\ndate.today()", "from datetime import date\ndate(2025, 1, 1)"),
        (budgets.wall_clocks, "from time import time", "from time import perf_counter"),
        (budgets.sleeps, "import asyncio\nawait asyncio.sleep(0.1)", "import asyncio\nawait asyncio.sleep(0)"),
        (budgets.sleeps, "from time import sleep as rest\nrest(1)", "await clock.sleep(60)"),
        (budgets.sleeps, "import anyio\nawait anyio.sleep(delay)", "import anyio\nawait anyio.sleep_forever()"),
    ],
)
def test_a_check_tells_bad_from_good(check: Callable[[Source], Iterator[Finding]], bad: str, good: str) -> None:
    assert list(check(_source(bad)))
    assert not list(check(_source(good)))


def test_the_check_of_longish_functions_counts_them_all() -> None:
    short, longish = "def f(): pass\n", "def g():" + "\n    pass" * 41
    assert not list(budgets.too_many_longish_functions([_source(short * 19 + longish)]))
    assert list(budgets.too_many_longish_functions([_source(short * 18 + longish)]))


@pytest.mark.parametrize("back", ["from circle import one", "def later():\n    import circle.one"])
def test_the_check_of_cycles_sees_late_imports_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: str) -> None:
    package = tmp_path / "circle"
    package.mkdir()
    (package / "__init__.py").write_text("from circle import one")
    (package / "one.py").write_text("from circle.two import x")
    (package / "two.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    assert not list(budgets.import_cycles("circle"))
    (package / "two.py").write_text(back)
    assert "circle.one" in str(next(budgets.import_cycles("circle")))


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        # Taken apart, or this file would be found itself.
        ("cd /" + "home/somebody/project", "cd ~/project"),
        ("file:///" + "root/.cache", "https://example.org/root/page"),
        ("https://files.python" + "hosted.org/x", "https://docs.python.org/3/"),
        ("pip install --index" + "-url x", "pip install x"),
        ("https://nex" + "us.example.org/simple", "https://example.org/nexus"),
    ],
)
def test_the_check_of_addresses_tells_bad_from_good(tmp_path: Path, bad: str, good: str) -> None:
    (tmp_path / "text").write_text(f"first line\n{bad}\n")
    assert [finding.line for finding in budgets.machine_addresses(tmp_path, "text")] == [2]
    (tmp_path / "text").write_text(good)
    assert not list(budgets.machine_addresses(tmp_path, "text"))
    (tmp_path / "text").write_bytes(b"\xff\xfe" + bad.encode())
    assert not list(budgets.machine_addresses(tmp_path, "text"))


def _source(text: str) -> Source:
    # Examples await at the top level, as a notebook may.
    tree = compile(text, "example.py", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return Source(name="example.py", text=text, tree=tree)


def _assert_none(findings: Iterable[Finding]) -> None:
    found = sorted(findings)
    assert not found, "\n" + "\n".join(map(str, found))
