"""One run, from its first step to its last.

A run is a task in its host's group; inside it a group with elastic workers. A worker takes the next ready unit,
makes one attempt, and commits its outcome together with the claims of what became ready; then it goes on with that.
So a chain runs in one task, without a switch. Before a worker enters user code while more is ready, it starts one
spare worker, up to the run's concurrency.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Container, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup
from typing_extensions import override

from flowstone_async._engine import stopped
from flowstone_async._engine.ahead import AheadBoard
from flowstone_async._engine.asking import ask_conditions, ask_key
from flowstone_async._engine.attempt import Attempt
from flowstone_async._engine.board import Next
from flowstone_async._engine.catalog import Catalog
from flowstone_async._engine.hooks import Hooks
from flowstone_async._engine.interruption import RunningState, Still, Stop
from flowstone_async._engine.journal import Journal
from flowstone_async._engine.observing import Observer
from flowstone_async._engine.outcome import Blocked, Computed, Evicted, Failing, Interrupted, Outcome, Settled, Tried
from flowstone_async._engine.record import asset_done, note_outcome, note_retry, note_settled, note_started
from flowstone_async._engine.request import Request
from flowstone_async._engine.run_params import Prints, as_wanted
from flowstone_async._engine.services import Services
from flowstone_async._engine.told import Told
from flowstone_async._engine.waits.driving import RunSuspending
from flowstone_async._engine.waits.run_limit import RunLimit
from flowstone_async._engine.waits.run_waits import RunWaits
from flowstone_async._engine.waits.seats import Seats
from flowstone_async._engine.waits.wait_journal import WaitJournal
from flowstone_async.clock import Timer
from flowstone_async.errors import FlowstoneError, StoreUnavailable
from flowstone_async.events import OBSERVATIONS
from flowstone_async.failures import ENDINGS, without_endings
from flowstone_async.planning.units import Unit, Units
from flowstone_async.planning.verdicts import Verdicts
from flowstone_async.store.records import Advanced, AssetDone, Claimed, RunRecord
from flowstone_async.types import AssetKey, Materialization


class RunDriver(RunSuspending):
    """Drives one run to its end."""

    def __init__(
        self,
        services: Services,
        catalog: Catalog,
        request: Request,
        record: RunRecord,
        *,
        units: Units,
        verdicts: Verdicts,
        current: Mapping[AssetKey, Materialization],
        prints: Prints,
        hooks: Hooks,
        new: bool = True,
        last_event: int = 0,
        told: Told | None = None,
        started_at: datetime | None = None,
        history: Mapping[int, Settled] | None = None,
        tried: Mapping[int, Tried] | None = None,
        started: Container[AssetKey] = (),
        paused: float = 0.0,
    ) -> None:
        now = services.store.now()
        self.id, self.record, self.request, self.services = record.id, record, request, services
        self.catalog, self.prints, self.units = catalog, prints, units
        self.board = AheadBoard(
            units,
            verdicts,
            current,
            lambda node: catalog.facts(node, prints, services.store.now()),
            request.asked,
            catalog.tolerates,
        )
        self.journal = Journal(request.pipeline, record.id, hooks, last=last_event, told=told)
        self.hooks, self.observed = hooks, hooks.wanted(OBSERVATIONS)
        self._observer = self.observe()
        self.resources = services.resources.inner("run", self._observer, params=partial(as_wanted, request.params))
        self.started_at, self._announced = started_at or now, started_at is not None
        self.created, self.done = asyncio.Event(), asyncio.Event()
        self.state: RunningState = "running"
        self.error: FlowstoneError | None = None
        self.ends_with: FlowstoneError | None = None
        self._ending: BaseException | None = None
        self.stopping: Stop | None = None
        self.interrupted = False
        self.cache_keys, self.held = dict[int, str](), list[object]()
        self.begun = services.clock.monotonic() - max(0.0, (now - self.started_at).total_seconds())
        self._new, self.resumed, self.history = new, not new, dict(history or {})
        self.tried: dict[int, Tried] = dict(tried or {})
        self._claims: dict[int, Claimed] = {}
        self._begun = started
        self.cut_off: dict[int, Interrupted] = {}
        self.running: dict[int, tuple[int, float]] = {}
        self._rank, self._ready = catalog.rank, list[tuple[int, int]]()
        self._asking: set[int] = set()
        self.workers = self._idle = self.ahead = 0
        self._flush, self.telling = None, False
        self.wait_journal = WaitJournal(self.journal, services.redactor, services.store.now, self.commit_within)
        self.group: TaskGroup | None = None
        self.bodies: dict[int, asyncio.Task[Any]] = {}
        self.waiting, self.still = set[asyncio.Task[Any]](), dict[int, Still]()
        self.waits, self.seats = RunWaits(self), Seats(self._has_room, self._staff, self._count)
        self.hurried = self.helped = self._suspending = False
        self.changed: Mapping[tuple[str, str], FlowstoneError] = {}
        self._asked: int | None = None
        self.limit: RunLimit | None = None
        self._paused = paused
        self._parking: Timer | None = None

    # -- the way of a run ---------------------------------------------------------------------------------------

    async def drive(self) -> None:
        """Drive the run to its end. Raises nothing but the cancellation of its host: `state` and `error` tell."""
        limit = self.request.timeout
        left = None if limit is None else limit - self.seconds + self._paused
        self.limit = RunLimit(self.services.clock, left, lambda: self.stop("timed_out"))
        try:
            await self._work_through()
            if self.state == "running":
                await self._conclude()
        except FlowstoneError as error:
            self.break_off(error)
        except (asyncio.CancelledError, *ENDINGS):
            raise
        except BaseException as error:
            self.break_off(stopped.bug(self.id, error))
        finally:
            for each in (self.limit, self._flush, self._parking):
                if each is not None:
                    each.cancel()
            self.limit = self._flush = self._parking = None
            self._count()
            self.waits.close()
            self.wait_journal.close()
            self.seats.close()  # with what the run holds, it is let go of as soon as nobody asks for it
            with anyio.CancelScope(shield=True):
                await self.resources.close()
                if self._observer is not None:
                    await self._observer.heard()
            if self.state == "running" and self.error is None:
                self.error = stopped.closed(self.id)
            self.created.set()
            self.done.set()
        if self._ending is not None:
            raise self._ending

    async def _work_through(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                self.group = group
                await self._begin()
        except FlowstoneError as error:
            self.break_off(error)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            left = without_endings(error)  # the event loop has had those, from the task that they ended
            if left is not None:
                self.break_off(stopped.bug(self.id, left))

    async def _begin(self) -> None:
        try:
            first = self.board.begin(self.history)
            if not self._announced:
                self.note_start(self.started_at)
            await self._step(first, create=self.record if self._new else None)
            self.created.set()
            self._staff()
        except FlowstoneError as error:
            self.break_off(error)
        except (SystemExit, KeyboardInterrupt) as ending:  # of a hook
            self._ending = ending

    async def _conclude(self) -> None:
        match self.stopping:
            case "timed_out":
                self.error = stopped.timed_out(self.id, self.request)
                await self._step(Next([], [], []), done=self.cut_short(), finish=True)
            case "shutdown":
                await self.services.store.hand_back(self.id, self.record.fence)
                self.error = stopped.closed(self.id)
            case "suspended":
                self.state = "waiting"
            case "cancelled":
                self.state = "cancelled"
                await self.tell_cancelled()
            case "lease_lost":
                await self.conclude_lost()
            case "broken" | None:
                self.error = self.error or stopped.closed(self.id)
                if self.created.is_set() and not isinstance(self.error, StoreUnavailable):
                    await self._step(Next([], [], []), finish=True)

    # -- workers ------------------------------------------------------------------------------------------------

    @override
    def _staff(self) -> None:
        """Start one more worker if work is ready, none is idle and the run may have more."""
        self.seats.offer()
        if self._ready and not self._idle and self._has_room() and self.group is not None:
            self.workers += 1
            self._idle += 1
            self.group.start_soon(self._work, name=f"run {self.id} worker {self.workers}")

    def _has_room(self) -> bool:
        return self.workers - self.ahead - self.seats.away < self.request.concurrency

    async def _work(self) -> None:
        self._idle -= 1
        try:
            while self._ready and self.stopping is None and not self.seats.wanted:
                _, index = heapq.heappop(self._ready)
                self._staff()
                await self._turn(index)
        except FlowstoneError as error:
            self.break_off(error)
        finally:
            self.workers -= 1
            self.seats.offer()
            if self.stopping is None:
                self._staff()
            self.consider()

    @override
    async def _turn(self, index: int) -> None:
        try:
            await self._process(index)
        except (SystemExit, KeyboardInterrupt) as ending:
            await self._end_program(index, ending)
            raise

    async def _end_program(self, index: int, ending: BaseException) -> None:
        """User code ends the program: end the run first, or it would do the same to whoever continues it."""
        self.break_off(stopped.program_ended(self.id, self.units.all[index], ending))
        if self.state == "running":
            with suppress(FlowstoneError):
                await self._step(Next([], [], []), done=self.ended(index) if index in self._claims else (), finish=True)

    async def _process(self, index: int) -> None:
        if index in self._asking:
            self._asking.discard(index)
            await self._ask(index)
        elif self._has_lost_what_it_follows(index):
            await self._block(index, None)
        elif self.board.followed(index) is not None or not await self._settled_by_another(index):
            await self._attempt(index)

    async def _attempt(self, index: int) -> None:
        unit = self.units.all[index]
        lost = self._claims[index].lost if index in self._claims else 0
        number = self.tried.get(index, Tried()).attempts + 1
        runnable = self.catalog.runnable(unit.node)
        observer: Observer | None = None
        if lost > stopped.patience(unit, self.services.settings.max_lost):
            error = stopped.worker_lost(unit, lost)
            outcome: Outcome = Failing(error=error, started_at=self.services.store.now(), seconds=0.0)
        else:
            attempt = Attempt(self, unit, runnable, number)
            if number == 1 and index not in self.running and unit.key not in self._begun:
                note_started(self.journal, unit, attempt.started_at)
                await self._tell_started()
            outcome, observer = await attempt.make(), attempt.observer
        match outcome:
            case Interrupted():
                self.cut_off[index] = outcome
                if observer is not None:
                    await observer.heard()
            case Blocked():
                await self._block(index, observer)
            case Evicted():
                if observer is not None:
                    await observer.heard()
                self.evicted(index, outcome.waits)
            case Failing(wait=float() as wait):
                await self._retry(index, number, outcome, wait, observer)
            case _:
                await self._settle(index, outcome, number, observer)

    async def _retry(self, index: int, number: int, failing: Failing, wait: float, observer: Observer | None) -> None:
        self.tried.setdefault(index, Tried()).add(number, failing.error)
        note_retry(self.journal, self.units.all[index], number, failing, wait, self.services.store.now())
        await self._step(Next([], [], []), observer=observer)
        if wait <= 0:
            await self.services.clock.sleep(0)  # others have their turn; the run is at work, it waits for no time
            self._push(index)
        elif self.group is not None and self.stopping is None:
            self.group.start_soon(self._later, index, wait, name=f"run {self.id} retry {index}")

    async def _settle(self, index: int, outcome: Computed | Failing, attempts: int, observer: Observer | None) -> None:
        unit = self.units.all[index]
        self.running.pop(index, None)
        settled = note_outcome(self.journal, unit, outcome, attempts, self.services.store.now(), self.id)
        following = self.board.settle(index, settled)
        done = asset_done(unit, outcome, settled)
        if isinstance(outcome, Computed):
            self.hold(self.manager(self.catalog.runnable(unit.node)), outcome.materialization)
        advanced = await self._step(following, done=(done,), observer=observer)
        if isinstance(outcome, Computed):
            await self._stored(unit, outcome, advanced)

    async def _stored(self, unit: Unit, outcome: Computed, advanced: Advanced | None) -> None:
        """Show what is current now where a manager publishes, and let go of what was before or was refused."""
        manager = self.manager(self.catalog.runnable(unit.node))
        if advanced is None:
            await self.discard(manager, unit, outcome.materialization)
        else:
            await self.after_commit(manager, unit, outcome.materialization, advanced.superseded)

    # -- conditions, cache keys, claims -------------------------------------------------------------------------

    async def _ask(self, index: int) -> None:
        unit = self.units.all[index]
        if unit.node.conditions and index not in self.cache_keys and not self.board.has_agreed(index):
            # A body that has begun was agreed to: whoever goes on with it does not ask anew.
            answer = None if unit.key in self._begun else await ask_conditions(self, unit)
            if self.interrupted:
                return
            await self._step(self.board.agree(index) if answer is None else self.board.settle(index, answer, note=True))
            return
        keyed = await ask_key(self, unit)
        if self.interrupted:
            return
        if isinstance(keyed, Settled):
            await self._step(self.board.settle(index, keyed, note=True))
            return
        self.cache_keys[index] = keyed
        await self._step(self.board.answered(index, keyed))

    async def _settled_by_another(self, index: int) -> bool:
        """Judge a claimed unit again if another run has stored its key since this one was planned."""
        claim = self._claims.get(index)
        unit = self.units.all[index]
        planned = self.board.current.get(unit.key)
        if claim is None or claim.current == (None if planned is None else planned.id):
            return False
        states = await self.services.store.states([unit.key])
        current = states[unit.key].current if unit.key in states else None
        judgement = self.board.judge_again(index, current)
        if judgement.verdict != "fresh" or current is None:
            return False
        settled = Settled("cached", current, reason="another run computed it meanwhile")
        self.hold(self.manager(self.catalog.runnable(unit.node)), current)
        following = self.board.settle(index, settled)
        note_settled(self.journal, unit, settled, self.services.store.now(), self.id)
        await self._step(following, releases=(unit.key,))
        return True

    # -- commits ------------------------------------------------------------------------------------------------

    @override
    async def _step(
        self,
        following: Next,
        *,
        create: RunRecord | None = None,
        done: tuple[AssetDone, ...] = (),
        releases: tuple[AssetKey, ...] = (),
        finish: bool = False,
        observer: Observer | None = None,
    ) -> Advanced | None:
        """Commit one step, wait until hooks have heard of it, start what follows; None if the run is not ours now."""
        step, events = self.make_step(following, create, done, releases, finish=finish)
        advanced = await self.services.store.advance(step)
        if not advanced.accepted:
            self.lose()
            return None
        if step.finish is not None:
            self.state, self.error = step.finish.state, self.ends_with
        if observer is not None:
            await observer.heard()
        if events:
            await self.hooks.emit_all(events)
        self._asking.update(following.ask)
        for index in following.ask:
            self._push(index)
        self._tell_followers(step, following)
        for index in following.run:
            self._granted(index, advanced.claims[self.units.all[index].key])
        return advanced
