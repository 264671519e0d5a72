"""`flowstone worker`: executes queued runs until it is stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import anyio

from flowstone_async.cli.at_work import AtWork
from flowstone_async.cli.call import EXPECTED, code_for
from flowstone_async.cli.job import Job
from flowstone_async.cli.output import OutputError, ReaderGone
from flowstone_async.cli.queue import refuse_memory
from flowstone_async.cli.stops import Stops
from flowstone_async.cli.usage import UsageError, read_duration
from flowstone_async.engine import Engine
from flowstone_async.errors import FlowstoneError, LeaseLost
from flowstone_async.events import LeaseAcquired
from flowstone_async.worker.health_server import HealthServer
from flowstone_async.worker.probes import Probes
from flowstone_async.worker.pulse import Pulse

_logger = logging.getLogger("flowstone")
_MOST_PORT = 65535
_LEASE = 30.0
_BLOCK_LIMIT = 60.0
_LOOKS = 4
_LEASES = 10
_PATIENCE = 1.0
_PAGE = 1000
_LONGEST_LOOK = 5.0


class Given(NamedTuple):
    """What the command line says of a worker.

    Attributes:
        options: Of the engine.
        lease: Seconds.
        block_limit: Seconds for which a body may hold the loop before the worker counts as dead.
    """

    options: dict[str, Any]
    lease: float
    block_limit: float


def worker(job: Job) -> int:
    """Execute runs of the queue until a signal comes, and return the exit code."""
    given = _given(job)
    refuse_memory(job)
    _ = job.pipelines  # imported before there is an event loop: the user's modules may run one of their own
    with asyncio.Runner() as runner:
        return runner.run(_stoppable(job, given))


def _given(job: Job) -> Given:
    options = job.options
    if options.health_port is not None and options.health_port > _MOST_PORT:
        raise UsageError(f"--health-port {options.health_port}: there is no such port", "Ports are 0 to 65535.")
    typed = {"grace": options.grace, "lease": options.lease, "poll": options.poll, "block_limit": options.block_limit}
    times = {
        name: read_duration(text, what=f"--{name.replace('_', '-')}")
        for name, text in typed.items()
        if text is not None
    }
    block_limit = times.pop("block_limit", _BLOCK_LIMIT)
    settings = {**times, "slots": options.slots, "notify": not options.no_notify, "direct": job.direct()}
    return Given(settings, times.get("lease", _LEASE), block_limit)


async def _stoppable(job: Job, given: Given) -> int:
    stops = Stops()
    with stops.caught():
        try:
            code = await Daemon(job, given, stops).run()
        except asyncio.CancelledError:
            if not stops.count:
                raise
            _logger.info("stopped" if stops.count == 1 else "stopped without waiting")
            code = stops.code
        except EXPECTED as error:
            code = code_for(error, job)
        # Told inside the loop: threads of the user's may hold up its end.
        job.output.end_within(code)
        return code


class Daemon:
    """A worker: an engine with whatever tells of it.

    Args:
        job: The command.
        given: What it says.
        stops: Signals.
    """

    def __init__(self, job: Job, given: Given, stops: Stops) -> None:
        self._job, self._given, self._stops = job, given, stops
        self._engine = Engine(
            *job.pipelines, store=job.store(), secret=job.secrets(), base_url=job.base_url(), **given.options
        )
        self._at_work = AtWork()
        self._worker = ""
        self._broken: FlowstoneError | None = None

    async def run(self) -> int:
        """Work until a signal comes, or the engine cannot go on."""
        engine, output = self._engine, self._job.output
        output.share(engine.redactor)
        self._at_work.attach(engine)
        engine.on(LeaseAcquired)(self._acquired)
        probes = Probes(
            engine.health,
            Pulse([each.compiled() for each in engine.pipelines]),
            block_limit=self._given.block_limit,
            hide=engine.redactor.line,
        )
        server = self._server(probes)
        with server or nullcontext():
            async with engine, self._leaving(probes):
                probes.unready = None
                self._stops.stands()
                self._tell_ready(server)
                await self._until_asked()
        left = ", ".join(self._at_work.runs)
        _logger.info("stopped%s", f"; handed back for another worker: {left}" if left else "")
        if self._broken is not None:
            raise self._broken
        return self._stops.code

    def _server(self, probes: Probes) -> HealthServer | None:
        options = self._job.options
        return None if options.health_port is None else HealthServer(options.health_host, options.health_port, probes)

    async def _acquired(self, event: LeaseAcquired) -> None:
        self._worker = event.worker

    def _tell_ready(self, server: HealthServer | None) -> None:
        output, options = self._job.output, self._job.options
        pipelines, store = [each.name for each in self._engine.pipelines], shown(self._job.store())
        url = None if server is None else server.url
        slots = f"{options.slots} slot{'' if options.slots == 1 else 's'}"
        health = "" if url is None else f"; health at {url}/health/ready"
        try:
            if options.json or not output.terminal:
                facts = {"worker": self._worker, "pipelines": pipelines, "slots": options.slots, "store": store}
                output.json({"type": "worker.ready", **facts, "health": url})
            else:
                output.show(f"worker {self._worker} is ready: {', '.join(pipelines)} on {store}, {slots}{health}")
        except (OutputError, ReaderGone) as error:
            _logger.warning("ready, but nobody could be told: %s", str(error) or "standard output is closed")

    async def _until_asked(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._look, name="look whether the engine goes on")
            await self._stops.asked.wait()
            group.cancel_scope.cancel()

    async def _look(self) -> None:
        """End the worker if its engine gets no lease for ten times as long as one lasts, although the store answers."""
        every = min(_LONGEST_LOOK, self._given.lease / _LOOKS)
        lacking = 0.0
        while lacking <= _LEASES * self._given.lease:
            await anyio.sleep(every)
            if len(self._at_work.runs) > self._job.options.slots:
                await self._forget_ended()
            parts = (await self._engine.health()).parts
            lacks = parts["workers"].state == "error" and parts["store"].state == "ok"
            lacking = lacking + every if lacks else 0.0
        self._broken = LeaseLost(
            f"the engine has had no lease for {lacking:.0f} s, although the store answers",
            hint="Start the worker again.",
        )
        self._stops.asked.set()

    async def _forget_ended(self) -> None:
        """Forget runs that were ended from elsewhere, unless the store takes long to tell."""
        with anyio.move_on_after(_PATIENCE), suppress(FlowstoneError):
            found = await self._engine.runs(state="running", limit=_PAGE)
            self._at_work.keep({each.id for each in found if each.worker == self._worker})

    @asynccontextmanager
    async def _leaving(self, probes: Probes) -> AsyncGenerator[None]:
        """Say, ahead of the engine's end, what it waits for."""
        try:
            yield
        finally:
            probes.unready = "the worker is being stopped"
            why, grace = self._stops.first, self._job.options.grace or "30s"
            if why is not None:
                await self._forget_ended()
                work = self._at_work.describe()
                waits = f"waiting up to {grace} for {work}; {why} again does not wait" if work else "nothing is at work"
                _logger.info("%s: no more runs are claimed; %s", why, waits)


def shown(store: str) -> str:
    """Return a store for people: an address without password and options."""
    try:
        parts = urlsplit(store)
        user = parts.username
    except ValueError:
        return store.partition(":")[0]
    if "://" not in store:
        return store
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place if user is None else f"{user}@{place}", parts.path, "", ""))
