"""Statements on a connection of the caller's (`conn=`), in whose transaction they are done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from flowstone_async.errors import ConfigError
from flowstone_async.store.postgres.connections import DRIVER_ERRORS, Connections
from flowstone_async.store.postgres.errors import translate_lent
from flowstone_async.store.postgres.queries import QUERIES


async def fetch_lent(
    connections: Connections, connection: object, name: str, *arguments: object
) -> Sequence[asyncpg.Record]:
    """Run a named query on a connection of the caller's.

    Raises:
        ConfigError: It is no connection that the store can use.
        FlowstoneError: As `translate_lent` says.
    """
    lent = _connection(connection)
    try:
        return await lent.fetch(QUERIES[name], *arguments, timeout=connections.patience)
    except DRIVER_ERRORS as error:
        raise translate_lent(error, where=connections.where) from error


def _connection(given: object) -> asyncpg.Connection[Any]:
    """Return a caller's connection.

    Raises:
        ConfigError: It is none of asyncpg.
    """
    if isinstance(given, asyncpg.Connection | PoolConnectionProxy):
        return cast("asyncpg.Connection[Any]", given)
    raise ConfigError(
        f"conn={type(given).__name__} is no connection of asyncpg",
        hint="Give the connection whose transaction this is to be part of, of asyncpg.connect() or a pool.",
    )
