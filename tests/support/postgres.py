"""A Postgres server for tests: one for all who test in this checkout, a template per session, a clone per test.

    with TestServer() as server:                        # sync, so that it does not belong to an event loop
        await server.create_template("migrated", migrate)
        dsn = await server.clone("migrated")
        ...
        await server.drop(dsn)

Tests that kill or cut a server take an `EmbeddedServer` of their own, in a `short_folder()`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import asyncpg

from flowstone_async.store.embedded.address import Address
from flowstone_async.store.embedded.locks import FileLock
from flowstone_async.store.embedded.server import EmbeddedServer

# What a test does not need: to survive a power cut.
FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}

_ENOUGH_BYTES = 4 << 30


class TestServer:
    """An embedded server that every process testing in this checkout shares; the last to leave removes it.

    Args:
        session: What the databases of one test session have in common. The workers of pytest-xdist find theirs.
        folder: Where it lives.
        tcp: Whether to listen on 127.0.0.1 too; not together with others who do without.
    """

    __test__ = False

    def __init__(self, *, session: str | None = None, folder: Path | None = None, tcp: bool = False) -> None:
        name = session or os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
        self._session = hashlib.sha256(name.encode()).hexdigest()[:12]
        self._folder = folder or _folder(tcp=tcp)
        self._used = FileLock(self._folder.with_suffix(".lock"))
        self._server = EmbeddedServer(self._folder, settings=FAST, tcp=tcp)
        self._address: Address | None = None

    @property
    def address(self) -> Address:
        """Where the server answers."""
        assert self._address is not None, "the server is not started"
        return self._address

    def start(self) -> Address:
        """Join the server, or start it."""
        self._used.wait(60, shared=True)
        try:
            self._address = address = self._server.start()
        except BaseException:
            self._leave()
            raise
        return address

    def stop(self) -> None:
        """Leave the server; whoever is last removes it with all its databases."""
        if self._address is not None:
            self._address = None
            self._server.stop()
            self._leave()

    async def create_template(self, name: str, prepare: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
        """Make a database to clone, once per session: whoever comes second waits and finds it.

        Args:
            name: Its name within the session.
            prepare: Makes its schema, over a connection that is closed afterwards.
        """
        template = self._template(name)
        async with self._connection() as admin:
            await admin.execute("SELECT pg_advisory_lock(hashtext($1))", template)
            if await admin.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", template):
                return
            fresh = f"{template}_new"
            await admin.execute(f"DROP DATABASE IF EXISTS {fresh} WITH (FORCE)")
            await admin.execute(f"CREATE DATABASE {fresh}")
            async with self._connection(fresh) as connection:
                await prepare(connection)
            await admin.execute(f"ALTER DATABASE {fresh} RENAME TO {template}")

    async def clone(self, template: str) -> str:
        """Make a database like a template of this session.

        Returns:
            Its DSN.
        """
        database = f"test_{self._session}_{uuid.uuid4().hex[:12]}"
        async with self._connection() as admin:
            await admin.execute(f"CREATE DATABASE {database} TEMPLATE {self._template(template)} STRATEGY FILE_COPY")
        return self.address.dsn(database)

    async def drop(self, dsn: str) -> None:
        """Remove a clone, breaking off its connections; harmless when it is gone."""
        database = urlsplit(dsn).path.removeprefix("/")
        assert database.startswith("test_"), f"{database} is no clone"
        async with self._connection() as admin:
            await admin.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def _template(self, name: str) -> str:
        assert name.isidentifier(), f"{name!r} is no identifier"
        return f"template_{self._session}_{name.lower()}"

    @contextlib.asynccontextmanager
    async def _connection(self, database: str | None = None) -> AsyncGenerator[asyncpg.Connection]:
        # One per use: it belongs to an event loop, and every test has its own.
        connection = await asyncpg.connect(**self.address.arguments(database))
        try:
            yield connection
        finally:
            await connection.close()

    def _leave(self) -> None:
        if self._used.acquire():
            shutil.rmtree(self._folder, ignore_errors=True)
            self._used.path.unlink()
        self._used.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def short_folder() -> Generator[Path]:
    """Make a folder with a short path, which root's server can enter too (it could not enter `tmp_path`)."""
    folder = Path(tempfile.mkdtemp(prefix="fs-", dir=_memory_or_disk()))
    try:
        folder.chmod(0o711)
        yield folder
    finally:
        shutil.rmtree(folder)


def _folder(*, tcp: bool) -> Path:
    # The same for every session: what a killed one left behind, the next one finds and removes.
    facts = f"{Path(__file__).resolve()} {os.geteuid()} {tcp}"
    return _memory_or_disk() / f"flowstone-tests-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"


def _memory_or_disk() -> Path:
    # A cluster has 1,300 files. ext4 is slow to make files where many were removed a moment ago: 1 s against 0.1 s.
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ENOUGH_BYTES:
        return memory
    return Path(tempfile.gettempdir())
