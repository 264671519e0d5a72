"""Limits over processes, one of which is killed while it uses them (RATE-01, RATE-04, RATE-06, RATE-07)."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import pytest_asyncio

from tests.e2e.commands import Program
from tests.e2e.database import connection, until
from tests.support.engines import TEMPLATE, migrate
from tests.support.postgres import TestServer

_PATIENCE = 60.0


@pytest_asyncio.fixture
async def dsn(server: TestServer) -> AsyncIterator[str]:
    """A database of the test's own."""
    await server.create_template(TEMPLATE, migrate(server))
    dsn = await server.clone(TEMPLATE)
    yield dsn
    await server.drop(dsn)


class Limiters:
    """Processes that use one limit (programs/limiter.py)."""

    def __init__(self, folder: Path, dsn: str, **options: Any) -> None:
        self._folder, self._given = folder, {"store": dsn, **options}
        self._stack = ExitStack()
        self.programs: list[Program] = []

    def start(self, **more: Any) -> Program:
        """Start one more."""
        out = str(self._folder / f"uses-{len(self.programs)}")
        given = json.dumps({**self._given, "out": out, **more})
        program = self._stack.enter_context(Program(self._folder, "tests.e2e.programs.limiter", given))
        self.programs.append(program)
        return program

    def uses(self, program: Program | None = None) -> list[list[str]]:
        """Return the lines of one, or of all; the last of a killed one may be broken off."""
        numbers = range(len(self.programs)) if program is None else [self.programs.index(program)]
        found: list[list[str]] = []
        for number in numbers:
            file = self._folder / f"uses-{number}"
            text = file.read_text() if file.exists() else ""
            found += [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]
        return found

    def all_have_one(self) -> bool:
        """Tell whether each has used something."""
        return all(map(self.uses, self.programs))

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until something can be read of them."""
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "in vain"
            assert all(each.process.poll() in (None, -9) for each in self.programs), self.programs[0].end()
            os.sched_yield()

    def end(self) -> None:
        """Let all end that were not killed."""
        (self._folder / "end").touch()
        for program in self.programs:
            ended = program.end()
            assert ended.code in (0, -9), ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@pytest.mark.parametrize(("n", "burst"), [(40, 40), (150, 150), (30, 3)])
async def test_no_window_of_a_shared_rate_sees_more_than_n(folder: Path, dsn: str, n: int, burst: int) -> None:
    """RATE-01, RATE-06: three processes ask as fast as they can; one is killed and one comes later."""
    per = 1.0
    with Limiters(folder, dsn, rate=[n, per, burst]) as limiters:
        doomed = limiters.start()
        limiters.start()
        await asyncio.to_thread(limiters.wait, limiters.all_have_one)
        limiters.start()
        doomed.kill()
        await asyncio.to_thread(limiters.wait, limiters.all_have_one)
        more = len(limiters.uses()) + 3 * n
        await asyncio.to_thread(limiters.wait, lambda: len(limiters.uses()) > more)
        limiters.end()
        uses = sorted((float(before), float(after)) for before, after in limiters.uses())
    # Each use was between two instants: too many were there for sure if even the widest window is too short.
    spans = [uses[index + n][1] - uses[index][0] for index in range(len(uses) - n)]
    assert min(spans) >= per
    # As a sanity check of the measurement: they did use it up.
    assert min(spans) < 1.5 * per


async def test_at_most_n_hold_a_slot_and_the_dead_hold_theirs_until_their_lease_ends(folder: Path, dsn: str) -> None:
    """RATE-04, RATE-07: three processes; one is killed while it holds one of two slots for good."""
    with Limiters(folder, dsn, slots=2, tasks=4, lease="2s") as limiters:
        doomed = limiters.start(keep=True, tasks=1)
        await asyncio.to_thread(limiters.wait, lambda: any(line[0] == "!" for line in limiters.uses(doomed)))
        limiters.start()
        limiters.start()
        await asyncio.to_thread(limiters.wait, lambda: len(limiters.uses()) > 60)
        before = time.monotonic()
        doomed.kill()
        await asyncio.to_thread(limiters.wait, lambda: _most_at_once(limiters.uses(), since=before) == 2)
        limiters.end()
        lines = limiters.uses()
    assert _most_at_once(lines, dead_at=before) == 2
    async with connection(dsn) as connected:
        assert await connected.fetchval("SELECT count(*) FROM flowstone.limit_holder") == 0


async def test_the_slot_of_a_dead_process_is_free_once_its_lease_has_ended(folder: Path, dsn: str) -> None:
    """RATE-07: neither before, nor much later."""
    with Limiters(folder, dsn, slots=1, tasks=1, lease="2s") as limiters:
        doomed = limiters.start(keep=True)
        await asyncio.to_thread(limiters.wait, lambda: bool(limiters.uses(doomed)))
        heir = limiters.start()
        async with connection(dsn) as connected:
            dead = await connected.fetchval("SELECT worker FROM flowstone.limit_holder")
            doomed.kill()
            lease = await connected.fetchval("SELECT lease_until FROM flowstone.worker WHERE id = $1", dead)
            await until(connected, "SELECT EXISTS (SELECT FROM flowstone.limit_holder WHERE worker <> $1)", dead)
            since = await connected.fetchval("SELECT min(since) FROM flowstone.limit_holder WHERE worker <> $1", dead)
        assert since is None or since >= lease
        await asyncio.to_thread(limiters.wait, lambda: bool(limiters.uses(heir)))
        limiters.end()


def _most_at_once(lines: list[list[str]], *, since: float = 0.0, dead_at: float | None = None) -> int:
    """Return the most slots that were held at one moment for sure; one held for good, until its process was killed."""
    begun = {line[1]: float(line[2]) for line in lines if line[0] == "+"}
    ended = {line[1]: float(line[2]) for line in lines if line[0] == "-"}
    moments: list[tuple[float, int]] = []
    for name, at in begun.items():
        until_ = ended.get(name, dead_at)
        if until_ is not None and at >= since:
            moments += [(at, 1), (until_, -1)]
    held = most = 0
    for _, change in sorted(moments):
        held += change
        most = max(most, held)
    return most
