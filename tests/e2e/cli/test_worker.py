"""`flowstone worker`: its signals, what it hands back, and what its probes say (JOB-07, JOB-14, CFG-07, CLI-04)."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from tests.e2e.cli.process import Shell, Terminal, _environment
from tests.e2e.cli.workers import Worker, start, state, submit
from tests.e2e.commands import CHAIN
from tests.e2e.database import connection, until
from tests.e2e.gates import Gates
from tests.e2e.invariants import assert_whole, calls, counts
from tests.e2e.servers import Server

ONCE = {"first": 1, "second": 1, "third": 1}
LOST = "SELECT (SELECT max(lost) FROM flowstone.run) + (SELECT coalesce(max(lost), 0) FROM flowstone.asset_key)"


@pytest.fixture
def chain(folder: Path, dsn: str) -> Shell:
    """Commands on a Postgres of their own, whose bodies a test can hold (programs/chain.py)."""
    return Shell(folder, dsn)


@pytest_asyncio.fixture
async def sql(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with connection(dsn) as opened:
        yield opened


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_says_when_it_is_ready_and_ends_when_it_is_told_to(
    postgres: Shell, number: signal.Signals, code: int
) -> None:
    with start(postgres, "flow.py", str(CHAIN), "--slots", "3") as running:
        worker = Worker(running)
        live, ready = worker.probe("live"), worker.probe("ready")
        running.signal(number)
        done = running.end()
    assert done.code == code, done
    said = worker.ready
    assert (said["pipelines"], said["slots"], live.status, ready.status) == (["flow", "chain"], 3, 200, 200)
    assert said["store"].startswith("postgresql://")
    assert said["worker"] in ready.body["parts"]["workers"]["detail"]
    assert (done.data, "nothing is at work" in done.messages) == ("", True)
    assert done.messages.endswith("INFO stopped\n")


async def test_runs_of_all_its_pipelines_are_executed(postgres: Shell) -> None:
    with start(postgres, "flow.py", str(CHAIN)) as running:
        Worker(running)
        one, two = submit(postgres, "flow.py", "base"), submit(postgres, str(CHAIN), "first")
        assert postgres.run("watch", "flow.py", one).code == 0
        assert postgres.run("watch", str(CHAIN), two).code == 0


def test_it_finds_runs_without_notifications_too(postgres: Shell, dsn: str) -> None:
    with start(postgres, "flow.py", "--no-notify", "--poll", "100ms", "--direct", dsn) as running:
        Worker(running)
        assert postgres.run("watch", "flow.py", submit(postgres, "flow.py", "base")).code == 0


async def test_a_body_at_work_is_finished_and_the_rest_handed_back(
    chain: Shell, gates: Gates, sql: asyncpg.Connection
) -> None:
    gates.hold("second")
    run_id = submit(chain, str(CHAIN), "third")
    with start(chain, str(CHAIN)) as running:
        worker = Worker(running)
        held = gates.reached()
        running.signal(signal.SIGTERM)
        told = running.wait_for("no more runs are claimed")
        stopping = worker.until("ready", 503)
        assert (stopping.reason, worker.probe("live").status) == ("the worker is being stopped", 200)
        later = submit(chain, str(CHAIN), "first", "--force")
        held.go()
        done = running.end()
    assert (done.code, f"waiting up to 30s for second (run {run_id})" in told) == (0, True)
    assert f"stopped; handed back for another worker: {run_id}" in done.messages
    assert (counts(chain.folder), state(chain, later, str(CHAIN))) == ({"first": 1, "second": 1}, "queued")
    gates.hold()
    with start(chain, str(CHAIN)) as running:
        Worker(running)
        assert [chain.run("watch", str(CHAIN), each).code for each in (run_id, later)] == [0, 0]
    assert counts(chain.folder) == ONCE | {"first": 2}
    assert await sql.fetchval(LOST) == 0
    await assert_whole(sql)


@pytest.mark.parametrize("how", ["after its grace", "at once after a second signal"])
async def test_a_body_that_takes_too_long_is_cancelled_and_counts_as_no_loss(
    chain: Shell, gates: Gates, sql: asyncpg.Connection, how: str
) -> None:
    gates.hold("second")
    run_id = submit(chain, str(CHAIN), "third")
    with start(chain, str(CHAIN), "--grace", "300ms" if how == "after its grace" else "10m") as running:
        Worker(running)
        gates.reached()
        running.signal(signal.SIGTERM)
        running.wait_for("no more runs are claimed")
        if how != "after its grace":
            running.signal(signal.SIGTERM)
        done = running.end()
    assert done.code == (0 if how == "after its grace" else 130), done
    assert [call.cancelled for call in calls(chain.folder)] == [False, True]
    assert await sql.fetchval("SELECT worker IS NULL FROM flowstone.run WHERE state = 'running'")
    assert not await sql.fetchval("SELECT count(*) FROM flowstone.worker WHERE NOT dead")
    gates.hold()
    with start(chain, str(CHAIN)) as running:
        Worker(running)
        assert chain.run("watch", str(CHAIN), run_id).code == 0
    assert counts(chain.folder) == ONCE | {"second": 2}
    assert await sql.fetchval(LOST) == 0
    await assert_whole(sql)


@pytest.mark.parametrize("asset", ["stubborn", "hogging", "blocking"])
def test_nothing_holds_up_a_second_signal(postgres: Shell, asset: str) -> None:
    submit(postgres, "flow.py", asset)
    with start(postgres) as running:
        Worker(running)
        running.wait_for("BEGUN")
        running.signal(signal.SIGTERM)
        running.signal(signal.SIGINT)  # another one: two of a kind may arrive as one
        assert running.end().code == 130


def test_a_thread_that_goes_on_does_not_hold_up_the_end(postgres: Shell) -> None:
    submit(postgres, "flow.py", "blocking")
    with start(postgres, "flow.py", "--grace", "200ms") as running:
        Worker(running)
        running.wait_for("BEGUN")
        running.signal(signal.SIGTERM)
        assert running.end().code == 0


def test_a_body_that_blocks_the_loop_is_named_by_the_probes(postgres: Shell) -> None:
    run_id = submit(postgres, "flow.py", "hogging")
    with start(postgres, "flow.py", "--block-limit", "500ms") as running:
        worker = Worker(running)
        running.wait_for("BEGUN")
        live, ready = worker.until("live", 503), worker.until("ready", 503)
        line = (postgres.folder / "flow.py").read_text().splitlines().index('    while not Path("never").exists():') + 1
        for found in (live, ready):
            assert "the event loop has been held for " in found.reason
            assert f"by asset 'hogging' (line {line} of its body)" in found.reason
        assert f"asset 'hogging' (line {line} of its body)" in running.wait_for("engine.loop_blocked")
        (postgres.folder / "never").touch()
        worker.until("live", 200)
        worker.until("ready", 200)
        assert postgres.run("watch", "flow.py", run_id).code == 0


async def test_it_is_not_ready_while_the_store_is_down_and_goes_on_afterwards(folder: Path) -> None:
    with Server(folder / "server") as server:
        shell = Shell(folder, server.dsn)
        with start(shell) as running:
            worker = Worker(running)
            worker.until("ready", 200)
            server.kill()
            assert worker.until("ready", 503, "store").status == 503
            assert worker.probe("live").status == 200
            server.start_again()
            worker.until("ready", 200)
            run_id = submit(shell, "flow.py", "base")
            assert shell.run("watch", "flow.py", run_id).code == 0
            running.signal(signal.SIGTERM)
            assert running.end().code == 0


async def test_a_worker_that_was_declared_dead_comes_back_under_another_id(
    postgres: Shell, sql: asyncpg.Connection
) -> None:
    with start(postgres, "flow.py", "--lease", "2s") as running:
        worker = Worker(running)
        async with sql.transaction():
            # Nobody can register meanwhile.
            await sql.execute("LOCK TABLE flowstone.worker IN SHARE ROW EXCLUSIVE MODE")
            await sql.execute("UPDATE flowstone.worker SET dead = true")
            found = await asyncio.to_thread(worker.until, "ready", 503, "workers")
            assert "lease" in found.reason
            assert worker.probe("live").status == 200
        await until(sql, "SELECT count(*) FROM flowstone.worker WHERE NOT dead AND id <> $1", worker.ready["worker"])
        again = worker.until("ready", 200)
        assert worker.ready["worker"] not in again.body["parts"]["workers"]["detail"]
        run_id = submit(postgres, "flow.py", "base")
        assert postgres.run("watch", "flow.py", run_id).code == 0
        running.signal(signal.SIGTERM)
        assert running.end().code == 0


async def test_a_worker_that_gets_no_lease_any_more_ends(postgres: Shell, sql: asyncpg.Connection) -> None:
    with start(postgres, "flow.py", "--lease", "300ms", "--grace", "1s") as running:
        Worker(running)
        async with sql.transaction():
            await sql.execute("LOCK TABLE flowstone.worker IN SHARE ROW EXCLUSIVE MODE")
            running.wait_for("the engine has had no lease for ")
        done = running.end()
    assert done.code == 1, done


def test_a_store_that_cannot_be_reached_is_told_at_once(memory: Shell) -> None:
    done = memory.run("worker", "flow.py", "--store", "postgresql://u:topsecret@127.0.0.1:1/db")
    assert (done.code, done.data) == (8, "")
    assert "topsecret" not in done.messages


def test_a_port_that_is_taken_is_a_usage_error(postgres: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = postgres.run("worker", "flow.py", "--health-port", port)
    assert (done.code, done.data) == (2, "")
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.messages
    assert "--health-port" in done.messages


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_worker_works_although_nobody_can_be_told_that_it_is_ready(postgres: Shell) -> None:
    words = postgres.words(("worker", "flow.py"))
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(
            words, cwd=postgres.folder, env=_environment(None), stdout=full, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stderr is not None
        assert any("nobody could be told: standard output: No space left on device" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    assert (process.returncode, "Traceback" in said) == (0, False)


def test_a_worker_is_ready_by_name_for_people(postgres: Shell) -> None:
    with Terminal(postgres, "worker", "flow.py", "--slots", "1", "--health-port", "0") as terminal:
        shown = terminal.wait_for("is ready")
        terminal.press("\x03")
        done = terminal.end()
    assert done.code == 130
    assert "1 slot; health at http://127.0.0.1:" in shown + done.data
    assert json.dumps("worker.ready") not in done.data
