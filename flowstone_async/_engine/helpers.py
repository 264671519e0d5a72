"""Scatters of runs that other workers own, and whose items this engine runs too: where it has slots left.

A helper is a task of the engine's host. It makes for itself what the run's owner has: the run's past, and the values
that bodies take. What it finds must be the same as the owner found, or it leaves the items to others.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Literal, cast

import anyio

from flowstone_async._engine.attempt import Attempt
from flowstone_async._engine.resume import Past
from flowstone_async._engine.run import RunDriver
from flowstone_async._engine.scatter.helping import Helping
from flowstone_async._engine.session import Session
from flowstone_async.errors import FlowstoneError, StoreUnavailable
from flowstone_async.store.records import RunRecord
from flowstone_async.store.scatters import ScatterRecord

AT_ONCE = 16
_MISFITS = 1000
_logger = logging.getLogger("flowstone")


class Help:
    """Help with one scatter, as the session knows it: something that is stopped and waited for as a run is."""

    def __init__(self, session: Session, scatter: ScatterRecord, record: RunRecord) -> None:
        self.scatter, self.record, self.done = scatter, record, asyncio.Event()
        self._session = session
        self._stopped: Literal["drained", "left"] | None = None
        self._helping: Helping | None = None

    def stop(self, reason: Literal["cancelled", "shutdown", "lease_lost", "broken"]) -> None:
        """Begin no further item; unless the engine has time, let go of those that run."""
        if self._stopped is None and reason == "shutdown":
            self._stopped = "drained"
            if self._helping is not None:
                self._session.services.start_soon(self._helping.drain, name=f"drain scatter {self.scatter.id}")
        elif reason != "shutdown":
            self.lose()

    def lose(self) -> None:
        """Let go of all of it."""
        self._stopped = "left"
        if self._helping is not None:
            self._helping.stop()

    async def run(self) -> None:
        """Help until the scatter ends, or until it is stopped."""
        session, catalog = self._session, self._session.catalogs[self.record.pipeline]
        past = await Past.read(session.store, self.record)
        recorded = await past.recorded(session.store, self.record.id)
        prospect = await session.prospect(past.request(self.record, catalog), recorded)
        driver = session.driver(prospect, self.record, past, await session.resumed(self.record))
        driver.board.begin(driver.history)
        scope = driver.resources.inner("asset", None)
        try:
            helping = await self._attempt(driver).help(self.scatter, scope)
            if self._stopped is None:
                self._helping = helping
                async with anyio.create_task_group() as group:  # of what items wait for
                    driver.group, driver.helped = group, True
                    driver.created.set()
                    helping.let_go = driver.waits.drop
                    await helping.run()
                    driver.waits.forget()
        except BaseExceptionGroup as raised:
            raise _single(raised) from None
        finally:
            driver.group = None
            driver.waits.close()
            driver.wait_journal.close()
            with anyio.CancelScope(shield=True):
                await scope.close()
                await driver.resources.close()

    def _attempt(self, driver: RunDriver) -> Attempt:
        unit = next(each for each in driver.units.all if each.key == self.scatter.key)
        return Attempt(driver, unit, driver.catalog.runnable(unit.node), 1)


class Helpers:
    """The scatters that an engine helps with.

    Args:
        session: What it runs in.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._helps: dict[str, Help] = {}
        self._misfits: dict[str, tuple[int, int]] = {}
        self._looked = float("-inf")
        self._stopped = False

    async def look(self, worker: str, pipelines: tuple[str, ...]) -> None:
        """Help with scatters of others that have gone on for a while, once each poll."""
        services = self._session.services
        crews, now = services.store.crews, services.clock.monotonic()
        if crews is None or self._stopped or now - self._looked < services.settings.poll / 2:
            return
        self._looked = now
        for scatter in await crews.joinable(worker, pipelines, limit=AT_ONCE + len(self._misfits)):
            known = scatter.id in self._helps or self._misfits.get(scatter.id) == _as_it_is(scatter)
            if not known and len(self._helps) < AT_ONCE:
                await self._begin(scatter)

    async def leave_rest(self, worker: str) -> None:
        """Leave the scatters that could not be left when work on them ended: then others take what this worker had."""
        services = self._session.services
        for scatter in list(services.unleft):
            if services.store.crews is not None and scatter not in self._helps:
                await services.store.crews.leave(scatter, worker)
                services.unleft.discard(scatter)

    async def _begin(self, scatter: ScatterRecord) -> None:
        session = self._session
        record = await session.store.run(scatter.run_id)
        if record is None or record.state != "running" or self._stopped:
            return
        if (
            record.worker == session.services.worker
            or record.id in session.flights
            or record.id in session.services.slots.taken
        ):
            return
        help_ = Help(session, scatter, record)
        self._helps[scatter.id] = session.jobs[scatter.id] = help_
        session.services.start_soon(self._help, help_, name=f"help scatter {scatter.id}")

    async def _help(self, help_: Help) -> None:
        scatter = help_.scatter
        try:
            _logger.info("helping with scatter %s of run %s", scatter.key, scatter.run_id)
            await help_.run()
        except StoreUnavailable as error:
            _logger.info("no longer helping with scatter %s of run %s: %s", scatter.key, scatter.run_id, error.message)
        except FlowstoneError as error:
            self._avoid(scatter)
            _logger.info("not helping with scatter %s of run %s: %s", scatter.key, scatter.run_id, error.message)
        except Exception:
            self._avoid(scatter)
            _logger.exception("a mistake of flowstone_async: not helping with scatter %s", scatter.key)
        finally:
            self._helps.pop(scatter.id, None)
            self._session.jobs.pop(scatter.id, None)
            help_.done.set()

    def _avoid(self, scatter: ScatterRecord) -> None:
        self._misfits.pop(scatter.id, None)
        self._misfits[scatter.id] = _as_it_is(scatter)
        while len(self._misfits) > _MISFITS:
            del self._misfits[next(iter(self._misfits))]

    async def leave(self, run_id: str) -> None:
        """Let go of what is of a run that this engine drives from now on."""
        for help_ in [each for each in self._helps.values() if each.record.id == run_id]:
            help_.lose()
            await help_.done.wait()

    def stop(self) -> None:
        """Help with nothing more."""
        self._stopped = True
        for help_ in list(self._helps.values()):
            help_.stop("shutdown")


def _single(error: BaseException) -> BaseException:
    """Return what our part of a group has raised; nothing else in it raises."""
    while isinstance(error, BaseExceptionGroup):
        [error, *_] = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return error


def _as_it_is(scatter: ScatterRecord) -> tuple[int, int]:
    """Return what changes when another goes on with a scatter, or when it is called with something else."""
    return scatter.fence, hash(scatter.facts)
