"""One fault run: workers compute, and what its seed says is done to them, to their server and to their connections."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from flowstone_async import FlowstoneError, NothingToCancel
from tests.e2e.servers import Server
from tests.faults import work
from tests.faults.program import ANSWERS, EXIT, MAX_LOST, Spec
from tests.faults.workers import Broken, Crew, Worker
from tests.support.fault_proxy import BOTH, FaultProxy, ProxyThread, Role

PARTS = 4
"""Of so many seeds, from 1, 5, 9, ... on, each fault is the business of one."""

_BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)
_PATIENCE = 60.0
_PAUSE = 0.01
_BODIES = 32
_ANSWERED, _AT_MOST = 0.1, 5.0
_LEASED = "SELECT EXISTS (SELECT FROM flowstone.worker WHERE pid = $1 AND NOT dead AND lease_until > now())"
_LIVE = "SELECT EXISTS (SELECT FROM flowstone.worker WHERE pid = $1 AND NOT dead)"
_HELD = "SELECT EXISTS (SELECT FROM flowstone.asset_key WHERE asset = $1 AND claim_run = $2)"
_LEFT = "SELECT count(*) FROM flowstone.run WHERE finished_at IS NULL"
_STATE = """
SELECT r.id, r.state, r.targets, r.partition, r.worker, r.fence, r.lost, w.dead, w.pid, w.lease_until - now() AS left
FROM flowstone.run AS r LEFT JOIN flowstone.worker AS w ON w.id = r.worker
WHERE r.finished_at IS NULL
"""


@dataclass(kw_only=True)
class Told:
    """What came of a fault run.

    Attributes:
        done: What was done, in order.
        skipped: Faults whose moment never came.
    """

    seed: int
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    runs: int = 0
    calls: int = 0
    lost: int = 0
    replies: int = 0
    started: int = 0
    seconds: float = 0.0
    problem: str | None = None


class FaultRun:
    """A fault run.

    Args:
        server: Where its database is.
        dsn: Its database.
        folder: Where its workers run.
        seed: What decides what is done, and when.
        workers: How many processes compute.
        lease: Seconds.
    """

    def __init__(self, server: Server, dsn: str, folder: Path, *, seed: int, workers: int, lease: float) -> None:
        self._server, self._dsn, self._folder = server, dsn, folder
        self._chance = random.Random(seed)
        self._workers, self._lease = workers, lease
        self._crew = Crew()
        self._proxies: list[ProxyThread[FaultProxy]] = []
        self._sql: asyncpg.Connection | None = None
        self._wanted: dict[str, work.Wanted] = {}
        self._cancelled: set[str] = set()
        self._unanswered: list[tuple[str, str]] = []
        self._read = 0
        self._begun: Counter[tuple[str, str]] = Counter()
        self.told = Told(seed=seed)

    async def play(self) -> Told:
        """Do it all."""
        began = time.monotonic()
        try:
            with ExitStack() as stack:
                stack.callback(self._crew.close)
                self._proxies = [
                    stack.enter_context(ProxyThread(lambda: FaultProxy(self._dsn))) for _ in range(self._workers + 2)
                ]
                await self._play()
        except (Broken, AssertionError) as error:
            self.told.problem = str(error)
        except Exception:  # with the seed, whatever it is
            self.told.problem = traceback.format_exc()
        finally:
            if self._sql is not None:
                self._sql.terminate()
        self.told.seconds = time.monotonic() - began
        return self.told

    async def _play(self) -> None:
        doomed = self._chance.random() < 1 / PARTS
        wanted = work.choose(self._chance, doomed=doomed)
        entrance = self._proxies[-1]
        entrance.do(lambda proxy: proxy.lose(self._chance.randint(0, 3), ["pool"]))
        self._wanted = await work.submit(entrance.dsn, wanted, self._chance)
        entrance.do(lambda proxy: proxy.heal())
        self._unanswered = [
            (run_id, name) for run_id, each in self._wanted.items() if each.target == "asked" for name in ANSWERS
        ]
        self._chance.shuffle(self._unanswered)
        for number in range(self._workers):
            self._start(number)
        if doomed:
            self._start(self._workers, "deadly", max_lost=MAX_LOST)
        faults = schedule(self.told.seed)
        marks = sorted(self._chance.sample(range(1, _BODIES), len(faults)))
        for mark, name in zip(marks, faults, strict=True):
            await self._wait(lambda: self._bodies >= mark, f"{mark} bodies begin")
            if await self._all_ended():
                self.told.skipped.append(name)
                continue
            fault: Callable[[], Awaitable[str]] = getattr(self, f"_{name}")
            self.told.done.append(f"{name}@{self._bodies}")
            self.told.done[-1] += await fault()
        await self._finish()

    async def _finish(self) -> None:
        for proxy in self._proxies:
            proxy.do(lambda each: each.heal())
        await self._wait(lambda: False, "every run ends")
        for worker in self._crew.workers:
            if worker.cut_off:
                worker.kill()
        for worker in self._crew.workers:
            if not worker.is_dead and (code := worker.end()) not in (0, EXIT):
                raise Broken(f"{worker.spec.name} ended with {code}:\n{self._said(worker)}")
        self._look()
        self.told.runs, self.told.calls = len(self._wanted), self._bodies
        self.told.replies = sum(proxy.do(lambda each: each.lost) for proxy in self._proxies)
        self.told.started = self._crew.started
        self.told.lost = await self._ask("SELECT coalesce(sum(lost), 0) FROM flowstone.run")
        await work.submit_again(self._dsn, self._wanted)
        sql = await self._connected()
        await work.check(sql, self._dsn, self._folder, self._wanted)

    # -- looking ------------------------------------------------------------------------------------------------

    @property
    def _bodies(self) -> int:
        return self._begun.total()

    def _look(self) -> None:
        """Read what the bodies have written since."""
        log = self._folder / "calls"
        if log.exists():
            with log.open("rb") as written:
                written.seek(self._read)
                whole = written.read().rpartition(b"\n")[0]  # the last line may be half written
            for line in whole.decode().splitlines():
                what, call, run_id, *_ = line.split()
                self._begun[call, run_id] += what == "start"
            self._read += len(whole) + bool(whole)

    async def _wait(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds or every run has ended, and do what has to be done meanwhile."""
        deadline = time.monotonic() + _PATIENCE
        self._look()
        while not holds() and not await self._all_ended():
            if time.monotonic() > deadline:
                raise Broken(f"in vain, for {_PATIENCE:g} s: {what}\n{await self._state()}")
            await _pass(_PAUSE)
            self._tend()
            self._look()
            await self._cancel()
            await self._answer()

    async def _wait_for(self, query: str, pid: int, *, answer: bool, what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while await self._ask(query, pid) is not answer and not await self._all_ended():
            if time.monotonic() > deadline:
                raise Broken(f"in vain, for {_PATIENCE:g} s: {what}\n{await self._state()}")
            await _pass(_PAUSE)
            self._tend()

    async def _state(self) -> str:
        sql = await self._connected()
        return "\n".join(str(dict(row)) for row in await sql.fetch(_STATE))

    def _tend(self) -> None:
        """Replace a process that killed itself, and complain of one that ended otherwise."""
        for worker in [each for each in self._crew.workers if each.is_dead]:
            if worker.process.exitcode != EXIT:
                raise Broken(f"{worker.spec.name} ended with {worker.process.exitcode}:\n{self._said(worker)}")
            self._crew.workers.remove(worker)
            self._start(self._workers, "deadly", max_lost=MAX_LOST)

    async def _cancel(self) -> None:
        """Cancel the runs that would not end, once they compute what does not end."""
        for run_id, each in self._wanted.items():
            begun = each.state == "cancelled" and self._begun[each.call, run_id]
            if begun and run_id not in self._cancelled and await self._ask(_HELD, each.target, run_id):
                with suppress(FlowstoneError):
                    with suppress(NothingToCancel):
                        await work.cancel(self._dsn, run_id)
                    self._cancelled.add(run_id)

    async def _answer(self) -> None:
        """Answer what waits, or will: before the gate is there, while its run is suspended, or driven."""
        if self._unanswered and self._chance.random() < _ANSWERED:
            with suppress(FlowstoneError, TimeoutError):
                async with asyncio.timeout(_AT_MOST):
                    await work.answer(self._dsn, *self._unanswered[-1])
                self._unanswered.pop()

    async def _all_ended(self) -> bool:
        return await self._ask(_LEFT) == 0

    async def _ask(self, query: str, *arguments: object) -> Any:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return await (await self._connected()).fetchval(query, *arguments, timeout=10)
            except _BROKEN:
                self._sql = None
                if time.monotonic() > deadline:
                    raise
                await _pass(_PAUSE)

    async def _connected(self) -> asyncpg.Connection:
        if self._sql is None or self._sql.is_closed():
            self._sql = await asyncpg.connect(self._dsn)
        return self._sql

    def _said(self, worker: Worker) -> str:
        log = self._folder / f"{worker.spec.name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-40:]) if log.exists() else ""

    # -- faults -------------------------------------------------------------------------------------------------

    def _start(self, number: int, *pipelines: str, **options: Any) -> Worker:
        given = {
            "lease": f"{self._lease}s",
            "poll": "100ms",
            "grace": "100ms",
            "cancel_grace": "500ms",
            "max_lost": 1000,
            "secret": b"s" * 32,
            **options,
        }
        spec = Spec(
            dsn=self._proxies[number].dsn,
            folder=self._folder,
            name=f"worker-{number}-{self._crew.started}",
            pipelines=pipelines or ("shop",),
            seed=self._chance.randrange(1 << 30),
            options=given,
        )
        return self._crew.start(spec)

    def _number(self, worker: Worker) -> int:
        return int(worker.spec.name.split("-")[1])

    async def _awake(self) -> Worker:
        """Choose a worker that is awake and has a lease."""
        able = [each for each in self._crew.workers if not each.asleep and not each.is_dead and not each.cut_off]
        chosen = self._chance.choice([each for each in able if "shop" in each.spec.pipelines] or able)
        await self._wait_for(_LEASED, chosen.pid, answer=True, what=f"{chosen.spec.name} has a lease")
        return chosen

    async def _kill(self) -> str:
        worker = await self._awake()
        worker.kill()
        self._crew.workers.remove(worker)
        self._start(self._number(worker))
        return ""

    async def _sleep(self) -> str:
        """Let a process sleep beyond its lease, or until it was declared dead."""
        worker, until = await self._awake(), self._chance.choice([_LEASED, _LIVE])
        worker.stop()
        await self._wait_for(until, worker.pid, answer=False, what=f"the lease of {worker.spec.name} ends")
        worker.go_on()
        return ""

    async def _cut_off(self) -> str:
        """Let nothing pass between a process and the server, until others hold it for dead."""
        worker = await self._awake()
        proxy = self._proxies[self._number(worker)]
        proxy.do(lambda each: each.hinder())
        worker.cut_off = True
        await self._wait_for(_LIVE, worker.pid, answer=False, what=f"{worker.spec.name} is held for dead")
        proxy.do(lambda each: each.heal())
        return ""

    async def _restart(self) -> str:
        """`pg_ctl stop -m immediate`, and start."""
        self._server.quit()
        await asyncio.to_thread(self._server.start_again)
        return ""

    async def _outage(self) -> str:
        """Kill the server, and start it when every lease has run out."""
        await asyncio.to_thread(self._server.kill)
        await _pass(1.2 * self._lease)
        await asyncio.to_thread(self._server.start_again)
        return ""

    async def _reset(self) -> str:
        """Reset all connections."""
        return f"({sum(proxy.do(lambda each: each.reset()) for proxy in self._proxies)})"

    async def _terminate(self) -> str:
        """Let the server end some of its processes."""
        ended = await self._ask(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < $1::float8",
            self._chance.choice([0.3, 1.0]),
        )
        return f"({ended})"

    async def _expire(self) -> str:
        """Let the leases of one or all run out, as far as the server knows."""
        worker = await self._awake()
        pids = [each.pid for each in self._crew.workers] if self._chance.random() < 0.5 else [worker.pid]
        await self._ask(
            "UPDATE flowstone.worker SET lease_until = now() - interval '1 hour' WHERE pid = ANY ($1::int[])", pids
        )
        return f"({len(pids)})"

    async def _lose(self) -> str:
        """Let replies to commits be lost."""
        times, before = self._chance.randint(1, 4), self._lost()
        for proxy in self._proxies[:-1]:
            proxy.do(lambda each: each.lose(times))
        await self._wait(lambda: self._lost() > before, "a reply is lost")
        return f"({times})"

    def _lost(self) -> int:
        return sum(proxy.do(lambda each: each.lost) for proxy in self._proxies)

    async def _slow(self) -> str:
        """Let everything come late, until many more bodies have begun."""
        mark = self._bodies + 8
        for proxy in self._proxies:
            proxy.do(lambda each: each.hinder(seconds=0.002))
        await self._wait(lambda: self._bodies >= mark, f"{mark} bodies begin")
        for proxy in self._proxies:
            proxy.do(lambda each: each.heal())
        return ""

    async def _deaf_listener(self) -> str:
        return await self._half_open("listener")

    async def _deaf_committer(self) -> str:
        return await self._half_open("committer")

    async def _deaf_pool(self) -> str:
        return await self._half_open("pool")

    async def _half_open(self, role: Role) -> str:
        """Let the connections of a role be half open; new ones are whole."""
        directions = self._chance.choice([BOTH, BOTH[1:]])
        for proxy in self._proxies:
            proxy.do(lambda each: each.hinder([role], directions))
        await self._wait(self._deaf, f"a {role} is deaf")
        for proxy in self._proxies:
            proxy.do(lambda each: each.heal())
        return ""

    def _deaf(self) -> bool:
        return any(proxy.do(lambda each: any(link.deaf for link in each.links)) for proxy in self._proxies)


FAULTS = (
    "kill",
    "sleep",
    "cut_off",
    "restart",
    "outage",
    "reset",
    "terminate",
    "expire",
    "lose",
    "slow",
    "deaf_listener",
    "deaf_committer",
    "deaf_pool",
)


def schedule(seed: int) -> list[str]:
    """Return the faults of a seed, in order: each of them once in `PARTS` seeds, and one more at random."""
    block, part = divmod(seed - 1, PARTS)
    shuffled = random.Random(f"block {block}").sample(FAULTS, len(FAULTS))
    chance = random.Random(f"more {seed}")
    chosen = [*shuffled[part::PARTS], chance.choice(("kill", "sleep", "restart", "lose"))]
    return chance.sample(chosen, len(chosen))


async def _pass(seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), seconds)
