"""The `flowstone` command, killed at a chosen point: `python -m tests.e2e.programs.victim POINT run … `.

Points that a test can reach from outside, such as the middle of a body, are not among these.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flowstone_async.cli import main
from flowstone_async.store.postgres import PostgresStore
from flowstone_async.store.postgres.connections import Session
from flowstone_async.store.postgres.lease import Lease
from flowstone_async.store.postgres.scatters import PostgresScatters
from flowstone_async.store.postgres.steps import PostgresSteps
from flowstone_async.store.records import Advance, Advanced
from flowstone_async.store.steps import StepRecord
from tests.support.modes import BEFORE


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _begins(step: Advance) -> bool:
    return step.create is not None


def _ends(step: Advance) -> bool:
    return step.finish is not None


def _completes(asset: str) -> Callable[[Advance], bool]:
    return lambda step: any(done.key.asset == asset for done in step.done)


def _commits(which: Callable[[Advance], bool], *, before: bool) -> None:
    original = PostgresStore.advance

    async def advance(self: PostgresStore, step: Advance) -> Advanced:
        if before and which(step):
            _die()
        answer = await original(self, step)
        if which(step):
            _die()
        return answer

    PostgresStore.advance = advance


def _migrates() -> None:
    original = Session.execute

    async def execute(self: Session, text: str) -> None:
        await original(self, text)
        if "CREATE TABLE flowstone.worker" in text:
            _die()

    Session.execute = execute


def _calls(owner: Any, name: str, *, before: bool) -> None:
    original = getattr(owner, name)

    async def replacement(self: Any, *arguments: Any, **options: Any) -> Any:
        if before:
            _die()
        result = await original(self, *arguments, **options)
        _die()
        return result

    setattr(owner, name, replacement)


def _records(*, before: bool) -> None:
    original = PostgresSteps.record

    async def record(self: PostgresSteps, run_id: str, fence: int, body: str, records: Sequence[StepRecord]) -> bool:
        ours = not all(each.key.startswith(BEFORE) for each in records)
        if ours and before:
            _die()
        kept = await original(self, run_id, fence, body, records)
        if ours:
            _die()
        return kept

    PostgresSteps.record = record


def _scatters(name: str, *, before: bool) -> Callable[[], None]:
    return lambda: _calls(PostgresScatters, name, before=before)


def _blind() -> None:
    """Let the process believe that it holds its lease, whatever the clock and the server say."""
    Lease.holds = lambda self: True
    Lease._end = lambda self: None


POINTS: dict[str, Callable[[], None]] = {
    "nowhere": lambda: None,
    "while the schema is made": _migrates,
    "before the worker is registered": lambda: _calls(Lease, "start", before=True),
    "after the worker was registered": lambda: _calls(Lease, "start", before=False),
    "before the run is begun": lambda: _commits(_begins, before=True),
    "after the run was begun": lambda: _commits(_begins, before=False),
    "before second is committed": lambda: _commits(_completes("second"), before=True),
    "after second was committed": lambda: _commits(_completes("second"), before=False),
    "before the run is ended": lambda: _commits(_ends, before=True),
    "after the run was ended": lambda: _commits(_ends, before=False),
    "after a dead run was taken over": lambda: _calls(PostgresStore, "take_orphans", before=False),
    "before the store is left": lambda: _calls(PostgresStore, "close", before=True),
    "before the lease is given up": lambda: _calls(Lease, "stop", before=True),
    "blind": _blind,
    "before a page is added": _scatters("add_page", before=True),
    "after a page was added": _scatters("add_page", before=False),
    "before results are kept": _scatters("flush", before=True),
    "after results were kept": _scatters("flush", before=False),
    "before the scatter is closed": _scatters("close", before=True),
    "after the scatter was closed": _scatters("close", before=False),
    "before a step is recorded": lambda: _records(before=True),
    "after a step was recorded": lambda: _records(before=False),
    "before plain is committed": lambda: _commits(_completes("plain"), before=True),
    "after plain was committed": lambda: _commits(_completes("plain"), before=False),
    "before total is committed": lambda: _commits(_completes("total"), before=True),
    "after total was committed": lambda: _commits(_completes("total"), before=False),
}

if __name__ == "__main__":
    POINTS[sys.argv.pop(1)]()
    sys.exit(main())
