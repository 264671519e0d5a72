"""Commands that need no store of their own, whole: what they print, what they refuse, what they end with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowstone_async.cli import exit_code
from flowstone_async.errors import StorageError
from flowstone_async.io import Files
from tests.unit.cli.conftest import Invoke

BROKEN = """
from flowstone_async import Pipeline
pipe = Pipeline("daily")

@pipe.asset
async def events() -> list[str]:
    return []

@pipe.asset
async def metrics(event: list[str]) -> int:
    return 1

@pipe.asset
async def report(metrics: str) -> str:
    return ""
"""
MEMORY = ("--store", "memory")


@pytest.fixture
def broken(project: Path) -> None:
    (project / "broken.py").write_text(BROKEN)


# -- check and graph --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("broken")
def test_check_prints_all_problems_as_text(invoke: Invoke) -> None:
    code, data, messages = invoke("check", "broken.py")
    assert (code, messages) == (exit_code.DEFINITION, "")
    assert data.startswith("2 problems in pipeline 'daily'\n\nFS101  broken.py:9\n")
    assert "Did you mean 'events'?" in data
    assert "FS104  broken.py:13" in data


@pytest.mark.usefixtures("broken")
def test_check_prints_all_problems_as_json(invoke: Invoke) -> None:
    code, data, _ = invoke("check", "broken.py", "--format", "json")
    found = json.loads(data)
    assert (code, found["pipeline"], found["ok"]) == (exit_code.DEFINITION, "daily", False)
    assert [(each["code"], each["file"], each["line"]) for each in found["problems"]] == [
        ("FS101", "broken.py", 9),
        ("FS104", "broken.py", 13),
    ]


@pytest.mark.usefixtures("broken")
def test_check_prints_all_problems_as_annotations(invoke: Invoke) -> None:
    code, data, _ = invoke("check", "broken.py", "--format", "github")
    assert code == exit_code.DEFINITION
    first, second = data.splitlines()
    assert first.startswith("::error file=broken.py,line=9,title=FS101::metrics(event: list[str])")
    assert second.startswith("::error file=broken.py,line=13,title=FS104::")


def test_a_module_that_raises_is_a_problem_for_machines_too(invoke: Invoke, project: Path) -> None:
    (project / "raises.py").write_text("raise ValueError('50% of, lines:\\nbroken')")
    assert invoke("check", "raises.py").code == exit_code.DEFINITION
    assert json.loads(invoke("check", "raises.py", "--format", "json").data)["problems"][0]["code"] == "IMPORT"
    annotation = "::error file=raises.py,line=1,title=IMPORT::ValueError: 50%25 of, lines:%0Abroken\n"
    assert invoke("check", "raises.py", "--format", "github").data == annotation


def test_check_is_quiet_about_what_is_right(invoke: Invoke) -> None:
    assert invoke("check", "shop:pipe") == (exit_code.OK, "pipeline 'shop' has no problems\n", "")
    assert invoke("check", "shop:pipe", "--format", "github") == (exit_code.OK, "", "")


def test_check_finds_values_that_the_store_cannot_hold(invoke: Invoke, project: Path) -> None:
    odd = "from flowstone_async import Pipeline\nclass Odd: ...\npipe = Pipeline('odd')\n"
    (project / "odd.py").write_text(f"{odd}@pipe.asset\nasync def odd() -> Odd:\n    return Odd()\n")
    code, data, _ = invoke("check", "odd.py")
    assert (code, "FS140" in data) == (exit_code.DEFINITION, True)
    assert invoke("check", "odd.py", *MEMORY).code == exit_code.OK
    assert not (project / ".flowstone").exists()


def test_check_says_what_it_cannot_judge(invoke: Invoke, project: Path) -> None:
    named = "from flowstone_async import Pipeline\npipe = Pipeline('named')\n"
    (project / "named.py").write_text(f"{named}@pipe.asset(io='lake')\nasync def a() -> int:\n    return 1\n")
    code, _, messages = invoke("check", "named.py")
    assert code == exit_code.OK
    assert "not checked" in messages
    assert "'lake'" in messages


def test_graph_draws_in_every_format(invoke: Invoke) -> None:
    assert invoke("graph", "shop:pipe").data.startswith("rates\n└── report\n    └── lenient\n")
    assert "events --> report" in invoke("graph", "shop:pipe", "--format", "mermaid").data
    assert '"events" -> "report";' in invoke("graph", "shop:pipe", "--format", "dot").data
    assert json.loads(invoke("graph", "shop:pipe", "--format", "json").data)["pipeline"] == "shop"


@pytest.mark.usefixtures("broken")
def test_graph_of_a_broken_pipeline_is_its_problems(invoke: Invoke) -> None:
    code, data, messages = invoke("graph", "broken.py")
    assert (code, data) == (exit_code.DEFINITION, "")
    assert "2 problems in pipeline 'daily'" in messages


# -- plan and run -----------------------------------------------------------------------------------------------------


def test_plan_prints_what_would_run_and_why(invoke: Invoke) -> None:
    code, data, messages = invoke("plan", "shop:pipe", "report", "-p", "2025-01-05", *MEMORY)
    assert (code, messages) == (exit_code.OK, "")
    assert [line.split()[:3] for line in data.splitlines()[1:-1]] == [
        ["events", "2025-01-05", "run"],
        ["rates", "2025-01-05", "run"],
        ["report", "2025-01-05", "run"],
    ]
    assert data.splitlines()[-1] == "3 to run"


def test_a_dry_run_is_the_plan(invoke: Invoke) -> None:
    options = ("shop:pipe", "report", "-p", "2025-01-05", "--json", *MEMORY)
    dry, planned = invoke("run", *options, "--dry-run"), invoke("plan", *options)
    assert dry == planned
    assert [each["action"] for each in json.loads(dry.data)["entries"]] == ["run", "run", "run"]


def test_a_dry_run_without_upstreams_says_what_is_missing(invoke: Invoke) -> None:
    data = invoke("run", "shop:pipe", "report", "-p", "2025-01-05", "--no-deps", "--dry-run", *MEMORY).data
    assert "blocked" in data


def test_run_writes_an_event_on_each_line(invoke: Invoke) -> None:
    code, data, messages = invoke("run", "shop:pipe", "report", "-p", "2025-01-05", *MEMORY)
    events = [json.loads(line) for line in data.splitlines()]
    assert (code, messages) == (exit_code.OK, "")
    assert (events[0]["type"], events[-1]["type"], events[-1]["state"]) == ("run.started", "run.finished", "succeeded")
    made = [event["asset"] for event in events if event["type"] == "asset.succeeded"]
    assert sorted(made) == ["events", "rates", "report"]
    assert {event["partition"] for event in events} == {"2025-01-05"}


def test_params_reach_the_bodies_and_their_secrets_stay_hidden(invoke: Invoke) -> None:
    words = (
        "run",
        "shop:pipe",
        "events",
        "-p",
        "2025-01-05",
        "--param",
        "limit=-1",
        "--param",
        "key=hunter22",
        *MEMORY,
    )
    code, data, messages = invoke(*words, "--verbose")
    assert code == exit_code.FAILED
    assert "limit is negative, key is ***" in messages
    assert "Traceback" in messages
    assert "hunter22" not in data + messages


def test_a_failure_is_told_with_its_cause_and_without_its_traceback(invoke: Invoke) -> None:
    words = ("run", "shop:pipe", "report", "-p", "2025-01-05", "--param", "limit=-1", *MEMORY)
    code, data, messages = invoke(*words)
    assert code == exit_code.FAILED
    assert "asset 'report' could not run because 'events' [2025-01-05] failed" in messages
    assert messages.count("limit is negative") == 1
    assert "Traceback" not in messages
    assert "--verbose" in messages
    assert json.loads(data.splitlines()[-1])["error"]["code"] == "DEPENDENCY_FAILED"


def test_a_tolerated_failure_has_a_code_of_its_own(invoke: Invoke) -> None:
    words = ("shop:pipe", "lenient", "-p", "2025-01-05", "--param", "limit=-1", *MEMORY)
    code, _, messages = invoke("run", *words)
    assert code == exit_code.TOLERATED
    assert "tolerates" in messages
    assert invoke("backfill", *words).code == exit_code.TOLERATED


def test_a_skipped_target_is_no_failure(invoke: Invoke) -> None:
    code, _, messages = invoke("run", "shop:pipe", "never", *MEMORY)
    assert code == exit_code.OK
    assert "skipped" in messages


def test_a_range_runs_as_a_backfill(invoke: Invoke) -> None:
    code, data, messages = invoke("run", "shop:pipe", "report", "-p", "2025-01-05..2025-01-07", *MEMORY)
    lines = [json.loads(line) for line in data.splitlines()]
    assert (code, messages) == (exit_code.OK, "")
    assert [each["partition"] for each in lines if each["type"] == "run.succeeded"] == [
        "2025-01-05",
        "2025-01-06",
        "2025-01-07",
    ]
    counts = {"succeeded": 3, "failed": 0, "skipped": 0, "not_started": 0, "errors": {}}
    assert lines[-1] == {"type": "backfill.finished", **counts}


def test_a_backfill_takes_all_declared_partitions_and_may_halt(invoke: Invoke) -> None:
    words = ("backfill", "shop:pipe", "report", "--param", "limit=-1", *MEMORY)
    code, data, messages = invoke(*words, "--on-error", "halt")
    last = json.loads(data.splitlines()[-1])
    assert (code, last["failed"], last["not_started"]) == (exit_code.FAILED, 1, 30)
    assert "1 of 31 partitions failed, 30 were not started" in messages
    code, data, messages = invoke(*words, "--parallel", "8")
    last = json.loads(data.splitlines()[-1])
    assert (code, last["failed"], len(last["errors"])) == (exit_code.FAILED, 31, 31)
    assert "and 21 more" in messages


def test_a_run_that_takes_too_long_has_a_code_of_its_own(invoke: Invoke, project: Path) -> None:
    slow = "import asyncio\nfrom flowstone_async import Pipeline\npipe = Pipeline('slow')\n"
    (project / "slow.py").write_text(
        f"{slow}@pipe.asset\nasync def forever() -> None:\n    await asyncio.Event().wait()\n"
    )
    code, _, messages = invoke("run", "slow.py", "forever", "--timeout", "1ms", *MEMORY)
    assert code == exit_code.TIMED_OUT
    assert "--timeout" in messages


# -- wrong usage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["run", "shop:pipe", "reprt"], "has no asset 'reprt'", "Did you mean 'report'?"),
        (["run", "shop:pipe", "shop.reprt"], "has no asset 'reprt'", "Did you mean 'report'?"),
        (["run", "shop:pipe", "report"], "has partitions", "-p 2025-01-01"),
        (["run", "shop:pipe", "report", "-p", "2026-01-01"], "2026-01-01", "2025-01-31"),
        (["run", "shop:pipe", "rates", "--param", "limt=3"], "limt: unknown field", "Did you mean 'limit'?"),
        (["run", "shop:pipe", "rates", "--timeout", "soon"], "--timeout='soon' is not a duration", "15m"),
        (["run", "shop:pipe", "report", "-p", "2025-01-05..2025-01-06", "--no-deps"], "--no-deps", "--parallel"),
        (
            ["run", "shop:pipe", "report", "-p", "2025-01-05..2025-01-06", "--concurrency", "2"],
            "--concurrency",
            "--par",
        ),
        (["run", "shop:pipe", "report", "-p", "2025-01-05..2025-01-06", "--dry-run"], "one key", "backfill"),
        (["backfill", "shop:pipe", "rates"], "declares no partitions", "flowstone run"),
        (["invalidate", "shop:pipe", "report", "--yes"], "has partitions", "--all"),
        (["invalidate", "shop:pipe", "report", "--all", "-p", "2025-01-05", "--yes"], "exclude each other", "one"),
        (["run", "shop:pipe", "rates", "--store", "sqlite://x"], "is not a store", "postgresql://"),
        (["check", "shop:pipe", "--store", "sqlite://x"], "is not a store", "postgresql://"),
        (["run", "shop:pipe", "rates", "--dry-run", "--timeout", "soon"], "--timeout='soon'", "15m"),
    ],
)
def test_wrong_usage_runs_nothing_and_shows_the_way_out(
    invoke: Invoke, project: Path, words: list[str], message: str, hint: str
) -> None:
    code, data, messages = invoke(*words)
    assert (code, data) == (exit_code.USAGE, "")
    assert message in messages
    assert hint in messages
    assert not (project / ".flowstone").exists()


def test_defaults_of_the_project_are_used(invoke: Invoke, project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.flowstone]\ntarget = "shop:pipe"\nstore = "memory"\n')
    below = project / "below"
    below.mkdir()
    assert invoke("run", "rates", cwd=below).code == exit_code.OK
    assert not list(project.rglob(".flowstone"))


def test_invalidate_asks_nobody_who_is_not_there(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "empty").open("w+") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        code, _, messages = invoke("invalidate", "shop:pipe", "rates", *MEMORY)
    assert code == exit_code.USAGE
    assert "--yes" in messages


def test_nothing_stored_is_said_with_the_way_to_it(invoke: Invoke) -> None:
    code, data, messages = invoke("get", "shop:pipe", "rates", *MEMORY)
    assert (code, data) == (exit_code.FAILED, "")
    assert "flowstone run" in messages


def test_doctor_looks_at_the_store_of_a_broken_pipeline_too(invoke: Invoke, project: Path) -> None:
    (project / "broken.py").write_text(BROKEN)
    code, data, _ = invoke("doctor", "broken.py", "--json", *MEMORY)
    found = {each["subject"]: each for each in map(json.loads, data.splitlines())}
    assert code == exit_code.DEFINITION
    assert found["definitions"]["verdict"] == "error"
    assert found["store"]["verdict"] == "ok"


def test_doctor_tells_of_a_place_that_cannot_be_read_beside_the_rest(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    text = "from flowstone_async import Pipeline, io\npipe = Pipeline('p', io=io.Files())\n"
    (project / "filed.py").write_text(f"{text}@pipe.asset\nasync def one() -> int: return 1\n")

    async def unreadable(*_: object, **__: object) -> None:
        raise StorageError("values that no record names cannot be read")

    monkeypatch.setattr(Files, "sweep", unreadable)
    code, data, _ = invoke("doctor", "filed.py", "--json", *MEMORY)
    found = {each["subject"]: each for each in map(json.loads, data.splitlines())}
    assert code == exit_code.OK
    assert (found["values"]["verdict"], "cannot be read" in found["values"]["text"]) == ("warning", True)
    assert found["code"]["verdict"] == "ok"


# -- db ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["migrate", "prune", "stats"])
def test_a_memory_store_has_no_database_to_look_after(invoke: Invoke, verb: str) -> None:
    code, data, messages = invoke("db", verb, *MEMORY)
    assert (code, data) == (exit_code.USAGE, "")
    assert "a memory store has no schema" in messages


def test_an_age_that_is_none_is_refused(invoke: Invoke) -> None:
    code, _, messages = invoke("db", "prune", "--runs", "soon", "--store", "postgresql://nowhere")
    assert code == exit_code.USAGE
    assert "--runs='soon' is not a duration" in messages
