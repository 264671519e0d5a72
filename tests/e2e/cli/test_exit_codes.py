"""What the process ends with (CLI-06)."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest

from flowstone_async import Engine, Pipeline
from flowstone_async.store.embedded.server import EmbeddedServer
from tests.e2e.cli.process import FLOW, Shell
from tests.support.postgres import FAST, short_folder


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ["run", "flow.py", "double"]),
        (0, ["--help"]),
        (1, ["run", "flow.py", "broken"]),
        (1, ["run", "flow.py", "below"]),
        (1, ["backfill", "flow.py", "weekly", "-p", "2025-01-02..2025-01-04"]),
        (1, ["get", "flow.py", "double"]),
        (2, ["run", "flow.py", "dubble"]),
        (2, ["run", "flow.py", "double", "--nope"]),
        (2, ["submit", "flow.py", "double", "--store", "memory"]),
        (2, ["cancel", "flow.py", "nothing", "--store", "memory"]),
        (2, ["worker", "flow.py", "--store", "memory"]),
        (2, []),
        (3, ["check", "wrong.py"]),
        (3, ["run", "wrong.py", "x"]),
        (3, ["run", "raises.py", "x"]),
        (4, ["run", "flow.py", "lenient"]),
        (6, ["run", "flow.py", "endless", "--timeout", "10ms"]),
        (8, ["run", "flow.py", "double", "--store", "postgresql://u:topsecret@127.0.0.1:1/db"]),
        (8, ["submit", "flow.py", "double", "--store", "postgresql://u:topsecret@127.0.0.1:1/db"]),
        (8, ["worker", "flow.py", "--store", "postgresql://u:topsecret@127.0.0.1:1/db"]),
        (8, ["status", "flow.py", "--store", "postgresql://u:topsecret@127.0.0.1:1/db"]),
    ],
)
def test_each_outcome_has_its_code(memory: Shell, code: int, words: list[str]) -> None:
    wrong = "from flowstone_async import Pipeline\npipe = Pipeline('wrong')\n"
    (memory.folder / "wrong.py").write_text(f"{wrong}@pipe.asset\nasync def x(y: int) -> int:\n    return y\n")
    (memory.folder / "raises.py").write_text("raise ValueError('boom')")
    store = Shell(memory.folder, memory.store if words[:1] in (["run"], ["backfill"], ["get"]) else None)
    done = store.run(*words)
    assert done.code == code, done.messages
    assert "topsecret" not in done.data + done.messages
    assert "Traceback" not in done.messages
    assert not (memory.folder / ".flowstone").exists()


def test_a_tolerated_failure_is_told_in_each_run(postgres: Shell) -> None:
    """CLI-06, ASSET-08: also where the target's value is reused, because the same failed again."""
    for _ in range(2):
        done = postgres.run("run", "flow.py", "lenient")
        assert done.code == 4, done.messages
        assert "failures that the target tolerates: 1" in done.messages


def test_a_run_that_somebody_else_cancels(postgres: Shell, dsn: str) -> None:
    async def cancel() -> None:
        async with Engine(_flow(), store=dsn) as engine:
            await engine.cancel("endless")

    with postgres.start("run", "flow.py", "endless") as running:
        running.wait_for("BEGUN")
        asyncio.run(cancel())
        done = running.end()
    assert done.code == 7
    assert "was cancelled" in done.messages
    assert "CLEANED UP" in done.messages


def test_a_server_that_is_down_and_a_wrong_password_are_told_with_the_way_out(tmp_path: Path) -> None:
    with short_folder() as folder:
        server = EmbeddedServer(folder / "store", settings=FAST, tcp=True)
        address = server.start()
        try:
            assert address.password is not None
            dsn = address.dsn()
            wrong = Shell(tmp_path, dsn.replace(address.password, "topsecret")).run("run", "flow.py", "double")
            right = Shell(tmp_path, dsn).run("run", "flow.py", "double")
        finally:
            server.stop()
        down = Shell(tmp_path, dsn).run("run", "flow.py", "double")
    assert (wrong.code, right.code, down.code) == (8, 0, 8)
    assert "password" in wrong.messages
    assert "nobody listens" in down.messages
    for done in (wrong, down):
        assert "127.0.0.1" in done.messages
        assert "\n  " in done.messages, "a hint"
        assert "topsecret" not in done.messages
        assert address.password not in done.messages


def _flow() -> Pipeline:
    spec = importlib.util.spec_from_file_location("flow_of_the_test", FLOW)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pipe
