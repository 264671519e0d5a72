"""What `flowstone doctor` finds wrong with a store, and the way out (CLI-03)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import asyncpg

from tests.e2e.cli.process import Shell

FILES = """
from flowstone_async import Pipeline, io

pipe = Pipeline("files", io=io.Files("lake"))

@pipe.asset
async def one() -> int:
    return 1
"""


def findings(shell: Shell, target: str) -> dict[str, dict[str, Any]]:
    done = shell.run("doctor", target, "--json")
    assert done.code == 0, "mere warnings are no failure"
    return {each["subject"]: each for each in map(json.loads, done.data.splitlines())}


def execute(dsn: str, *statements: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


def test_it_tells_missing_indexes_and_how_to_make_them(postgres: Shell, dsn: str) -> None:
    execute(dsn, "DROP INDEX flowstone.run_newest")

    found = findings(postgres, "flow.py")["tables"]
    text = postgres.run("doctor", "flow.py").data

    assert (found["verdict"], "run_newest of run is missing" in found["text"]) == ("warning", True)
    assert "to mend it, run:" in text
    assert found["remedy"] in text
    execute(dsn, *found["remedy"].splitlines())
    assert findings(postgres, "flow.py")["tables"]["verdict"] == "ok"


def test_it_tells_what_is_left_of_deleted_scatters(postgres: Shell, dsn: str) -> None:
    one = (
        "INSERT INTO flowstone.scatter_remains (scatter, part) VALUES (md5('s')::uuid, 'run'), (md5('s')::uuid, 'read')"
    )
    assert findings(postgres, "flow.py")["deleted"]["verdict"] == "ok"
    execute(dsn, one)
    young = findings(postgres, "flow.py")["deleted"]
    execute(dsn, "UPDATE flowstone.scatter_remains SET at = at - interval '2 days' WHERE part = 'read'")
    old = findings(postgres, "flow.py")["deleted"]
    text = postgres.run("doctor", "flow.py", "--verify").data

    assert (young["verdict"], young["remedy"]) == ("note", "")
    assert young["text"].startswith("1 deleted scatter has rows left")
    assert (old["verdict"], old["remedy"]) == ("warning", "flowstone db prune")
    assert "since 2d ago" in old["text"]
    assert "since 2d ago" in text
    assert "flowstone db prune" in text
    assert postgres.run("db", "prune").code == 0
    assert findings(postgres, "flow.py")["deleted"]["verdict"] == "ok"


def test_it_counts_values_that_no_record_names_and_leaves_them(postgres: Shell) -> None:
    (postgres.folder / "files.py").write_text(FILES)
    assert postgres.run("run", "files.py", "one").code == 0
    assert findings(postgres, "files.py")["values"]["verdict"] == "ok"
    [value] = (path for path in postgres.folder.glob("lake/.values/.*/files/one/*") if path.is_file())
    stray = value.with_name("00000000-0000-7000-8000-000000000000")
    stray.write_bytes(b" 123")
    for path in (value, stray):
        os.utime(path, (0, 0))

    found = findings(postgres, "files.py")["values"]

    assert (found["verdict"], "1 file of 4 bytes" in found["text"]) == ("warning", True)
    assert str(postgres.folder / "lake") in found["text"]
    assert stray.exists()
    assert postgres.run("get", "files.py", "one").data == "1\n"


def test_it_reads_all_records_if_asked_and_fails_for_damage(postgres: Shell, dsn: str) -> None:
    assert postgres.run("run", "flow.py", "double").code == 0
    whole = postgres.run("doctor", "flow.py", "--verify", "--json")
    assert whole.code == 0
    assert "records" in {json.loads(line)["subject"] for line in whole.data.splitlines()}
    execute(dsn, "DELETE FROM flowstone.materialization WHERE asset = 'double'")

    done = postgres.run("doctor", "flow.py", "--verify", "--json")

    found = {each["subject"]: each for each in map(json.loads, done.data.splitlines())}["records"]
    assert (done.code, found["verdict"]) == (1, "error")
    assert "double has the current value" in found["text"]
    assert findings(postgres, "flow.py").keys().isdisjoint({"records"})
    assert "which there is not" in postgres.run("doctor", "flow.py", "--verify").data


def test_it_tells_who_works_on_the_store_and_whose_lease_is_over(postgres: Shell, dsn: str) -> None:
    assert "none is registered" in findings(postgres, "flow.py")["workers"]["text"]
    with postgres.start("run", "flow.py", "endless") as running:
        running.wait_for("BEGUN")
        alive = findings(postgres, "flow.py")
        running.signal(signal.SIGKILL)
        running.end()
    execute(dsn, "UPDATE flowstone.worker SET lease_until = now() - interval '90 seconds'")
    dead = findings(postgres, "flow.py")

    assert (alive["workers"]["verdict"], dead["workers"]["verdict"]) == ("ok", "warning")
    assert f"process {running.pid} on " in alive["workers"]["text"]
    assert ", lease for " in alive["workers"]["text"]
    assert "lease over since 9" in dead["workers"]["text"]
    assert alive["queue"]["text"] == "nothing is queued; 1 running"
    assert alive["clock"]["text"] == "the store's clock and this machine's agree within 1 s"
