"""Where an embedded server answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypedDict
from urllib.parse import quote, urlencode

from asyncpg.connect_utils import SessionAttribute

ROLE = "flowstone"
DATABASE = "flowstone"


class ConnectArguments(TypedDict):
    """Keyword arguments of `asyncpg.connect` and `asyncpg.create_pool`."""

    host: str
    port: int
    user: str
    password: str
    database: str
    ssl: Literal[False]
    target_session_attrs: SessionAttribute


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """How to reach an embedded server; what it leaves open no `PG*` variable of the environment fills in.

    Attributes:
        host: Folder of the Unix socket, or `127.0.0.1`.
        password: Only over TCP; a Unix socket knows its peer.
    """

    host: str
    port: int
    user: str = ROLE
    database: str = DATABASE
    password: str | None = field(default=None, repr=False)

    def dsn(self, database: str | None = None) -> str:
        """Return a URL for asyncpg, libpq or psql.

        Args:
            database: Another database of the same server.
        """
        login = self.user if self.password is None else f"{self.user}:{quote(self.password, safe='')}"
        query = {"host": self.host, "port": str(self.port), "sslmode": "disable", "target_session_attrs": "any"}
        return f"postgresql://{login}@/{quote(database or self.database, safe='')}?{urlencode(query)}"

    def arguments(self, database: str | None = None) -> ConnectArguments:
        """Return keyword arguments for asyncpg: `await asyncpg.connect(**address.arguments())`.

        Args:
            database: Another database of the same server.
        """
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            # Not None: asyncpg would go looking for one in the environment and in ~/.pgpass.
            "password": self.password or "",
            "database": database or self.database,
            "ssl": False,
            "target_session_attrs": SessionAttribute.any,
        }
