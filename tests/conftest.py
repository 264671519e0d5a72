"""Fixtures for tests that run pipelines: every way of running them that a row of BEHAVIOUR.md speaks of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from hypothesis import settings

from tests.support.engines import (
    TEMPLATE,
    MemoryEngines,
    OpenEngine,
    OpenVerbs,
    PostgresEngines,
    SharedEngines,
    migrate,
)
from tests.support.modes import MODES, choose
from tests.support.postgres import TestServer

settings.register_profile("unhurried", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mode", choices=MODES, default=MODES[0], help="how stores learn of changes: tests/support/modes")


def pytest_configure(config: pytest.Config) -> None:
    choose(config.getoption("--mode"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("not_in"):
        if item.config.getoption("--mode") in marker.args:
            pytest.skip(f"not in mode {item.config.getoption('--mode')}: {marker.kwargs['reason']}")


@pytest.fixture(scope="session")
def server() -> Iterator[TestServer]:
    """The Postgres server of the session; started when the first test wants it."""
    with TestServer() as started:
        yield started


async def _opened(request: pytest.FixtureRequest, kind: str) -> AsyncIterator[SharedEngines]:
    if kind == "memory":
        async with MemoryEngines() as engines:
            yield engines
        return
    server: TestServer = request.getfixturevalue("server")
    await server.create_template(TEMPLATE, migrate(server))
    dsn = await server.clone(TEMPLATE)
    try:
        async with PostgresEngines(dsn) as engines:
            yield engines
    finally:
        await server.drop(dsn)


@pytest_asyncio.fixture(params=["memory", "postgres"])
async def engines(request: pytest.FixtureRequest) -> AsyncIterator[SharedEngines]:
    """A store, memory and Postgres in turn, that any number of engines may open."""
    async for each in _opened(request, request.param):
        yield each


@pytest.fixture
def open_engine(engines: SharedEngines) -> OpenEngine:
    """Open an engine: `await open_engine(pipe, **options)`. All of a test share one store; each is closed after it."""
    return engines.open


@pytest_asyncio.fixture(params=["pipe", "memory", "postgres"])
async def open_verbs(request: pytest.FixtureRequest) -> AsyncIterator[OpenVerbs]:
    """The verbs of a pipeline: `await open_verbs(pipe)` is the pipeline itself, or an engine on memory or Postgres."""
    if request.param == "pipe":
        yield _itself
        return
    async for each in _opened(request, request.param):
        yield each.open


async def _itself(pipe: object) -> object:
    return pipe
