"""The ways in which stores learn of changes and bodies wait, and the suite in each of them: `pytest --mode=poll`.

- `notify`, the default: by notifications, on the server itself.
- `poll`: nobody tells and nobody listens, as with `Engine(notify=False)`.
- `pooler`: statements go through a transaction pooler, as with `Engine(store=<pooler>, direct=<server>)`.
- `evict`: a body is dropped whenever it waits at a gate, and called again, as with `Engine(park_after=0)`; and each body
  that may wait is dropped once before it begins, so that every run with such a body is suspended and goes on.

A mode is enforced where stores and engines are made, so that it holds for whatever a test opens, in this process, in programs
that it starts and in those that they start: all of them have `python_path` on their path, and enforce it as they begin
(enforced/sitecustomize.py). What a test says explicitly stays:
a pool or a `direct=` of its own, `notify=False`, and addresses that lead through a proxy of the test's; but not how long
bodies stay in memory, since nothing that they do may depend on it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

MODES = ("notify", "poll", "pooler", "evict")
VARIABLE = "FLOWSTONE_TEST_MODE"
POLL = 0.05
"""Seconds between looks in modes `poll` and `evict`; many tests wait for one."""
BEFORE = "before/"
"""How the keys of waits begin that mode `evict` puts before bodies."""
_HERE = Path(__file__).parent
_SIZE = 4
_BREATH = 0.02
"""Seconds that bodies wait in mode `evict`: for most, long enough that their runs are suspended, and not just looked at."""
_KNOWN = {"host", "port", "sslmode", "target_session_attrs", "application_name"}
"""Words of an address that a pooler need not pass on."""


def mode() -> str:
    """Return the mode of this process."""
    return os.environ.get(VARIABLE, MODES[0])


def python_path() -> str:
    """Return what PYTHONPATH is for programs: the repository, and before it, where there is one, what enforces the mode."""
    enforced = [] if mode() == MODES[0] else [_HERE / "enforced"]
    return os.pathsep.join(map(str, [*enforced, _HERE.parents[1]]))


def choose(mode: str) -> None:
    """Have a mode, in this process and in programs that it starts."""
    os.environ[VARIABLE] = mode
    if mode != MODES[0]:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [python_path(), os.environ.get("PYTHONPATH")]))
    enforce()


@cache
def enforce() -> None:
    """Make every store and engine that is made from now on one of the mode."""
    if mode() == "evict":
        _evict()
    elif mode() != MODES[0]:
        _connect()


def _evict() -> None:
    """Have every engine drop bodies that wait at once, and every body wait before it begins."""
    from flowstone_async import Engine
    from flowstone_async._engine.replay.body import DurableBody
    from flowstone_async._engine.replay.gate import BodyGate, sleep_wait
    from flowstone_async._engine.replay.scope import Scope
    from flowstone_async._engine.waits.wait_journal import WaitJournal
    from flowstone_async.clock import SystemClock

    plain_init, plain_load = Engine.__init__, DurableBody.load

    @wraps(plain_init)
    def init(self: Engine, *pipelines: Any, **options: Any) -> None:
        plain_init(self, *pipelines, **options)  # what is refused stays refused
        if type(options.get("clock") or SystemClock()) is SystemClock:
            plain_init(self, *pipelines, **{**options, "poll": POLL, "park_after": 0})

    @wraps(plain_load)
    async def load(self: DurableBody) -> None:
        await plain_load(self)
        if self._identity is None and type(self.services.clock) is SystemClock and self.services.worker is not None:
            await BodyGate(self, Scope(BEFORE.rstrip("/")).take("sleep"), sleep_wait(_BREATH, None)).wait()

    Engine.__init__, DurableBody.load = init, load
    for name in ("opened", "ended"):
        setattr(WaitJournal, name, _silent_before(getattr(WaitJournal, name)))


def _silent_before(tell: Callable[..., None]) -> Callable[..., None]:
    """Tell nothing of the waits that the mode puts before bodies: events stay what a test counts."""

    @wraps(tell)
    def told(self: Any, stored: Any, *more: Any) -> None:
        if not stored.gate.key.startswith(BEFORE):
            tell(self, stored, *more)

    return told


def _connect() -> None:
    """Have every store learn of changes in the way of the mode."""
    from flowstone_async.store.postgres.store import PostgresStore

    plain = PostgresStore.__init__

    @wraps(plain)
    def init(self: PostgresStore, dsn: Any, **options: Any) -> None:
        if mode() == "poll":
            options |= {"notify": False, "poll": min(options.get("poll", 1.0), POLL)}
        elif options.get("direct") is None and _can_be_pooled(dsn):
            options["direct"], dsn = dsn, _pooled(dsn)
        plain(self, dsn, **options)

    PostgresStore.__init__ = init


def _can_be_pooled(dsn: object) -> bool:
    """Tell whether an address leads to the socket of a server, and asks for nothing that a pooler takes away."""
    if not isinstance(dsn, str):
        return False
    query = parse_qs(urlsplit(dsn).query)
    return query.get("host", [""])[0].startswith("/") and query.keys() <= _KNOWN


_poolers: dict[str, Any] = {}
_lock = threading.Lock()


def _pooled(dsn: str) -> str:
    """Return the address of a database through this process's pooler in front of its server."""
    from tests.postgres.wire import Pooler
    from tests.support.fault_proxy import ProxyThread

    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    server = f"{query['host'][0]} {query['port'][0]}"
    with _lock:
        if server not in _poolers:
            _poolers[server] = ProxyThread(lambda: Pooler(dsn, _SIZE)).start()
    return urlsplit(_poolers[server].dsn)._replace(path=parts.path).geturl()
