"""A process that uses an embedded server, as a program and as the handle by which a test holds it.

The program prints one JSON object when it has started, obeys lines on stdin (`stop`), and leaves at the end of stdin.
Its imports come before it becomes another user, to whom the interpreter may be out of reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import anyio.lowlevel
import asyncpg

from flowstone_async.errors import FlowstoneError
from flowstone_async.store.embedded import account, cluster, postmaster
from flowstone_async.store.embedded.address import Address
from flowstone_async.store.embedded.server import EmbeddedServer
from tests.support.postgres import FAST

ROOT = Path(__file__).parents[3]


class Process:
    """A process that starts the server in `home` and uses it until it is told to leave, or killed.

    Args:
        home: The server's folder.
        task: `use`, or `connect` to see whether the process is let in at an address.
        env: The whole environment, but for where modules are found.
        options: What `_main` reads.
    """

    def __init__(self, home: Path, task: str = "use", *, env: Mapping[str, str] | None = None, **options: Any) -> None:
        text = json.dumps({"home": str(home), "task": task, **options})
        found = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        environment = dict(os.environ) if env is None else {**found, **env}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.postgres.embedded.process", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )

    @functools.cached_property
    def first(self) -> dict[str, Any]:
        """What it said when it had started, or failed to."""
        return self.next()

    def next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"died": self._process.wait()}

    def tell(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        return self.next()

    def interrupt(self) -> None:
        """Press Ctrl-C at its terminal, which also reaches children of its group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def kill(self, *, after: float = 0.0) -> None:
        """Kill it, when it has not ended by itself after some seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(after)
        self._process.kill()
        self._process.communicate()

    def end(self) -> int:
        self._process.communicate()
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def postmaster_pid(home: Path) -> int:
    """The process id of the server of a folder, which runs."""
    return int((home / "cluster/data/postmaster.pid").read_text().split("\n", 1)[0])


def _main(options: dict[str, Any]) -> None:
    asyncio.run(anyio.lowlevel.checkpoint())  # anyio imports the rest of itself here
    _become(options.get("uid"), options.get("gid"))
    if groups := options.get("groups"):
        os.setgroups(groups)
    if limit := options.get("file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if crash := options.get("crash"):
        _CRASHES[crash]()
    try:
        {"use": _use, "connect": _connect}[options["task"]](options)
    except FlowstoneError as error:
        _say(error=type(error).__name__, message=str(error))
    except KeyboardInterrupt:
        _say(error="KeyboardInterrupt")


def _use(options: dict[str, Any]) -> None:
    home, state = Path(options["home"]), Path(options.get("state", "/nonexistent"))
    notices: list[str] = []
    settings = options.get("settings", FAST)
    server = EmbeddedServer(home, settings=settings, notice=notices.append, state=state)
    address = server.start()
    lock = server.process_lock(options["worker"]) if "worker" in options else contextlib.nullcontext()
    try:
        _say(
            host=address.host, port=address.port, notices=notices, pid=postmaster_pid(server.folder), **_query(address)
        )
        for line in sys.stdin:
            if line == "stop\n":
                server.stop()
                _say(stopped=True)
            elif line == "query\n":
                _say(**_query(address))
            elif line == "write\n":
                _say(written=_write(address))
    except KeyboardInterrupt:
        _say(interrupted=True, **_query(address))
        raise
    finally:
        with lock:
            server.stop()


def _connect(options: dict[str, Any]) -> None:
    try:
        _say(**_query(Address(host=options["home"], port=5432)))
    except (OSError, asyncpg.PostgresError) as error:
        _say(error=type(error).__name__, message=str(error))


def _query(address: Address) -> dict[str, Any]:
    return _ask(address, "SELECT current_user::text AS role, system_identifier FROM pg_control_system()")


def _write(address: Address) -> int:
    _ask(address, "CREATE TABLE IF NOT EXISTS t (x bigint GENERATED ALWAYS AS IDENTITY)")
    return _ask(address, "INSERT INTO t DEFAULT VALUES RETURNING x")["x"]


def _ask(address: Address, statement: str) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        connection = await asyncpg.connect(**address.arguments())
        try:
            return dict(await connection.fetchrow(statement) or {})
        finally:
            await connection.close()

    return asyncio.run(ask())


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def _become(uid: int | None, gid: int | None) -> None:
    if uid is not None:
        os.setgroups([])
        os.setgid(gid if gid is not None else uid)
        os.setuid(uid)


def _die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, act: Callable[..., object] = _die, *, when: Callable[..., bool]) -> None:
    original = getattr(owner, name)

    def replacement(*arguments: Any, **options: Any) -> Any:
        if when(*arguments, **options):
            act(*arguments, **options)
        return original(*arguments, **options)

    setattr(owner, name, replacement)


def _after(owner: Any, name: str) -> None:
    original = getattr(owner, name)

    def replacement(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        _die()

    setattr(owner, name, replacement)


def _runs(program: str) -> Callable[..., bool]:
    return lambda command, **_: Path(command[0]).name == program or program in command


def _begin(command: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Begin to run a program and do not wait for it."""
    text = options.pop("input")
    options.pop("timeout")
    options.pop("check")
    running = subprocess.Popen(command, stdin=subprocess.PIPE, **options)
    assert running.stdin is not None
    running.stdin.write(text)
    running.stdin.close()
    return running


def _begin_and_die(command: list[str], **options: Any) -> None:
    _begin(command, **options)
    _die()


def _begin_freeze_and_die(command: list[str], **options: Any) -> None:
    orphan = _begin(command, **options).pid
    os.kill(orphan, signal.SIGSTOP)
    _say(orphan=orphan)
    _die()


def _interrupt(*_: object, **__: object) -> None:
    os.killpg(0, signal.SIGINT)


# Where a process dies. By name, since the program runs elsewhere than the test.
_CRASHES: dict[str, Callable[[], None]] = {
    "before initdb": lambda: _before(account.subprocess, "run", when=_runs("initdb")),
    "during initdb": lambda: _before(account.subprocess, "run", _begin_and_die, when=_runs("initdb")),
    "during a long initdb": lambda: _before(account.subprocess, "run", _begin_freeze_and_die, when=_runs("initdb")),
    "before the database is made": lambda: _before(account.subprocess, "run", when=_runs("--single")),
    "during the making of the database": lambda: _before(
        account.subprocess, "run", _begin_and_die, when=_runs("--single")
    ),
    "before the data is renamed": lambda: _before(Path, "rename", when=lambda path, _: path.name == "data.new"),
    "after the data was made": lambda: _after(cluster, "create_data"),
    "before the server is run": lambda: _before(account.subprocess, "run", when=_runs('"$@" &')),
    "after the server was run": lambda: _after(cluster.Cluster, "_start"),
    "before the secret is written": lambda: _before(os, "fsync", when=lambda _: True),
    "before the server is told to stop": lambda: _before(postmaster.Postmaster, "signal", when=lambda *_: True),
    "after the server was told to stop": lambda: _after(postmaster.Postmaster, "signal"),
    "interrupt during initdb": lambda: _before(account.subprocess, "run", _interrupt, when=_runs("initdb")),
    "interrupt before it answers": lambda: _before(account.subprocess, "run", _interrupt, when=_runs("pg_isready")),
}


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
