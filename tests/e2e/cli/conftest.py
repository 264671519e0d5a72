"""Shells: folders in which commands are given, with a store for each."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.postgres_stores import TEMPLATE, migrated
from tests.e2e.cli.process import Shell
from tests.support.postgres import TestServer


@pytest.fixture
def memory(tmp_path: Path) -> Shell:
    """Commands that keep nothing."""
    return Shell(tmp_path, "memory")


@pytest.fixture
def dsn(server: TestServer) -> Iterator[str]:
    """A migrated database of a test's own."""

    async def clone() -> str:
        await server.create_template(TEMPLATE, migrated(server))
        return await server.clone(TEMPLATE)

    found = asyncio.run(clone())
    yield found
    asyncio.run(server.drop(found))


@pytest.fixture
def postgres(tmp_path: Path, dsn: str) -> Shell:
    """Commands on a Postgres of their own."""
    return Shell(tmp_path, dsn)


@pytest.fixture
def embedded(folder: Path, made: Path) -> Shell:
    """Commands on an embedded server of their own, in `store`."""
    subprocess.run(["cp", "-a", made, folder / "store"], check=True)
    return Shell(folder, "embedded:store")
