"""What the benchmarks on the embedded Postgres share: databases, and the statements that the store sends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import asyncpg

from flowstone_async.store.embedded.server import EmbeddedServer
from flowstone_async.store.postgres.connections import Session

Statement: TypeAlias = tuple[str, tuple[object, ...]]


@contextmanager
def recorded() -> Generator[list[Statement]]:
    """Record every statement that the store sends."""
    sent: list[Statement] = []
    send = Session.fetch_text

    async def record(session: Session, text: str, *arguments: object) -> Any:
        sent.append((text, arguments))
        return await send(session, text, *arguments)

    Session.fetch_text = record  # pyright: ignore[reportAttributeAccessIssue] - records, then sends
    try:
        yield sent
    finally:
        Session.fetch_text = send


@asynccontextmanager
async def database(server: EmbeddedServer, name: str) -> AsyncGenerator[str]:
    """Give an empty database of the server."""
    address = await server.open()
    connection = await asyncpg.connect(**address.arguments())
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    yield address.dsn(name)


async def add_workers(connection: Any, workers: Sequence[Any]) -> None:
    """Store rows of workers, as they were in another database."""
    for worker in workers:
        names = ", ".join(worker.keys())
        marks = ", ".join(f"${number}" for number in range(1, len(worker) + 1))
        insert = f"INSERT INTO flowstone.worker ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608 - columns
        await connection.execute(insert, *worker.values())
    await connection.execute("UPDATE flowstone.worker SET lease_until = now() + interval '1 hour'")
