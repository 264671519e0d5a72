"""Commands one after the other on a store: what one has done, the others see (CLI-02, CLI-03)."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.cli.process import Shell


def test_a_value_is_computed_once_and_then_found_by_every_command(postgres: Shell) -> None:
    assert postgres.run("run", "flow.py", "double").code == 0
    again = postgres.run("run", "flow.py", "double")
    assert [json.loads(line)["type"] for line in again.data.splitlines()][1] == "asset.reused"
    assert postgres.run("get", "flow.py", "double").data == "2\n"
    assert "double is fresh" in postgres.run("why", "flow.py", "double").data
    status = json.loads(postgres.run("status", "flow.py", "double", "--json").data)
    assert (status["state"], status["has_value"], status["io"]) == ("completed", True, "postgres")
    overview = postgres.run("status", "flow.py").data.splitlines()
    assert next(line.split()[:3] for line in overview if line.startswith("double ")) == ["double", "completed", "1"]
    listed = [json.loads(line) for line in postgres.run("runs", "flow.py", "--json").data.splitlines()]
    assert [(run["targets"], run["state"]) for run in listed] == [(["double"], "succeeded")] * 2
    assert len(postgres.run("runs", "flow.py", "--limit", "1").data.splitlines()) == 2
    assert postgres.run("runs", "flow.py", "--state", "failed").messages.endswith("no failed runs\n")


def test_force_computes_again(postgres: Shell) -> None:
    postgres.run("run", "flow.py", "double")
    done = postgres.run("run", "flow.py", "double", "--force")
    types = [json.loads(line) for line in done.data.splitlines()]
    assert [each["asset"] for each in types if each["type"] == "asset.succeeded"] == ["double"]


def test_upstreams_that_are_not_stored_stop_a_run_without_them(postgres: Shell) -> None:
    done = postgres.run("run", "flow.py", "double", "--no-deps")
    assert done.code == 1
    assert "base', which is not stored" in done.messages
    assert "--no-deps" in done.messages


def test_params_decide_what_a_plan_reuses(postgres: Shell) -> None:
    postgres.run("run", "flow.py", "double", "--param", "n=1")

    def actions(n: int) -> list[str]:
        planned = json.loads(postgres.run("plan", "flow.py", "double", "--param", f"n={n}", "--json").data)
        return [each["action"] for each in planned["entries"]]

    assert actions(1) == ["reuse"]
    assert actions(2) == ["run", "unknown"]


def test_values_of_every_form_are_written_as_data(postgres: Shell) -> None:
    for asset in ("text", "raw", "numbers", "noisy"):
        assert postgres.run("run", "flow.py", asset).code == 0
    file = postgres.folder / "value"

    def written(*words: str) -> bytes:
        assert postgres.run("get", "flow.py", *words, "-o", "value").code == 0
        return file.read_bytes()

    assert written("raw") == b"\x00\xff"
    assert written("text") == b"plain \x1b[31mtext\x1b[0m token=abc", "data is not what is shown of it"
    assert json.loads(written("text", "--json")) == "plain \x1b[31mtext\x1b[0m token=abc"
    assert written("numbers") == b"0\n1\n2\n"
    assert json.loads(written("noisy")) == {"double": 2}
    assert [each.name for each in postgres.folder.iterdir() if "part" in each.name] == []


def test_a_file_that_cannot_be_written_is_left_as_it_was(postgres: Shell) -> None:
    postgres.run("run", "flow.py", "base")
    done = postgres.run("get", "flow.py", "base", "-o", "nowhere/value")
    assert done.code == 1
    assert "No such file or directory" in done.messages
    (postgres.folder / "value").write_text("before")
    assert postgres.run("get", "flow.py", "double", "-o", "value").code == 1
    assert (postgres.folder / "value").read_text() == "before"
    assert postgres.run("get", "flow.py", "base", "-o", "/dev/null").code == 0


def test_a_backfill_is_mended_with_only_failed(postgres: Shell) -> None:
    first = postgres.run("backfill", "flow.py", "weekly", "--parallel", "3")
    assert (first.code, "2025-01-03" in first.messages) == (1, True)
    failed = postgres.run("status", "flow.py", "weekly", "-p", "2025-01-03").data
    assert "is failed" in failed
    assert "9 of 10" in next(
        line for line in postgres.run("status", "flow.py").data.splitlines() if line.startswith("weekly ")
    )
    (postgres.folder / "mended").touch()
    again = postgres.run("backfill", "flow.py", "weekly", "--only", "failed")
    last = json.loads(again.data.splitlines()[-1])
    assert (again.code, last["succeeded"], last["skipped"]) == (0, 1, 9)
    missing = postgres.run("backfill", "flow.py", "weekly", "--only", "missing", "-p", "2025-01-01..2025-01-05")
    assert json.loads(missing.data.splitlines()[-1])["skipped"] == 5


def test_invalidate_deletes_what_it_says(postgres: Shell) -> None:
    postgres.run("run", "flow.py", "weekly", "-p", "2025-01-04..2025-01-06")
    one = postgres.run("invalidate", "flow.py", "daily", "-p", "2025-01-04", "--cascade", "--yes")
    assert (one.code, one.messages.splitlines()[-1]) == (0, "2 values deleted")
    rest = postgres.run("invalidate", "flow.py", "daily", "--all", "--yes", "--json")
    assert json.loads(rest.data) == {"asset": "daily", "removed": 2}
    assert postgres.run("get", "flow.py", "weekly", "-p", "2025-01-05").code == 0
    refused = postgres.run("invalidate", "flow.py", "weekly", "--all")
    assert (refused.code, "--yes" in refused.messages) == (2, True)


def test_doctor_finds_orphans_and_changed_code(postgres: Shell, dsn: str) -> None:
    postgres.run("run", "flow.py", "noisy")
    sound = [json.loads(line) for line in postgres.run("doctor", "flow.py", "--json").data.splitlines()]
    assert {each["subject"]: each["verdict"] for each in sound} == {
        "definitions": "ok",
        "store": "ok",
        "clock": "ok",
        "tables": "ok",
        "deleted": "ok",
        "workers": "ok",
        "queue": "ok",
        "orphans": "ok",
        "values": "ok",
        "code": "ok",
    }
    flow = postgres.folder / "flow.py"
    changed = flow.read_text().replace("async def noisy(", "async def loud(").replace("base * 2", "base + base")
    flow.write_text(changed)
    done = postgres.run("doctor", "flow.py", "--json")
    found = {each["subject"]: each for each in map(json.loads, done.data.splitlines())}
    assert done.code == 0
    assert (found["orphans"]["verdict"], "noisy: 1 value" in found["orphans"]["text"]) == ("warning", True)
    assert "double: 1 of 1 values" in found["code"]["text"]
    assert urlsplit(dsn).path in found["store"]["text"]


def test_looking_takes_no_work(embedded: Shell) -> None:
    with embedded.start("run", "flow.py", "endless") as running:
        running.wait_for("BEGUN")
    # It was killed, which an embedded server knows at once: the next engine that takes work continues it, or ends it.
    for command in (["status"], ["doctor"], ["why", "endless"], ["plan", "endless"], ["invalidate", "double", "--yes"]):
        assert embedded.run(command[0], "flow.py", *command[1:]).code == 0
    found = json.loads(embedded.run("runs", "flow.py", "--json").data)
    assert (found["targets"], found["state"]) == (["endless"], "running")


def test_an_embedded_server_lives_in_the_folder_that_is_named(embedded: Shell) -> None:
    assert embedded.run("run", "flow.py", "double").code == 0
    assert embedded.run("get", "flow.py", "double").data == "2\n"
    doctor = embedded.run("doctor", "flow.py").data
    assert str(embedded.folder.resolve() / "store") in doctor
    assert "rm -rf" in doctor


def test_without_a_store_it_is_embedded_here_and_says_so_once(folder: Path) -> None:
    shell = Shell(folder)
    (folder / "pyproject.toml").write_text('[tool.flowstone]\ntarget = "flow:pipe"\n')
    (folder / ".flowstone").symlink_to(folder / "store")
    (folder / "store").mkdir(mode=0o700)
    first, second = shell.run("run", "double"), shell.run("get", "double")
    assert (first.code, second.code, second.data) == (0, 0, "2\n")
    assert "an embedded Postgres server now lives in" in first.messages
    assert "rm -rf" in first.messages
    assert "now lives in" not in second.messages
