"""What Postgres and its driver say, in the library's own errors: the one place that knows SQLSTATEs."""

from __future__ import annotations

import asyncio
import socket

import asyncpg

from flowstone_async.errors import ConfigError, FlowstoneError, StorageError, StoreUnavailable

# Doing the same again may help: connections, shutdown, deadlocks, resources, a server that is read-only for now.
_TRANSIENT_CLASSES = ("08", "40", "53")
_TRANSIENT = frozenset({"25006", "55P03", "57014", "57P01", "57P02", "57P03", "57P05"})
# What was sent cannot be stored: bad data, a broken constraint, the same row twice, a key too long for an index.
_POISON_CLASSES = ("21", "22", "23", "54")

_LOGIN = {
    "28P01": (
        "the password was not accepted",
        "Check user and password of the address, or the server's pg_hba.conf.",
    ),
    "28000": ("the login was refused", "Check user and database of the address, and the server's pg_hba.conf."),
    "3D000": ("the database does not exist", "Create it: CREATE DATABASE …; or name another one in the address."),
    "53300": (
        "it has no connection left to give",
        "Raise max_connections, or put a pooler in front and name the server itself with direct=.",
    ),
    "57P03": ("it is starting up or shutting down", "Try again in a moment."),
    "53100": ("its disk is full", "Free space on the server's volume."),
    "55P03": (
        "another transaction holds what is needed",
        "End the open transaction that submits the same key or run, or signals the same gate, then try again.",
    ),
    "25006": (
        "it is read-only",
        "Name the primary in the address (…?target_session_attrs=read-write); a standby cannot keep runs.",
    ),
}
_REFUSED = {
    "42501": (
        "a right is missing",
        "Grant the user CREATE on the database, or let its owner run `flowstone db migrate`.",
    ),
    "3F000": ("the schema flowstone is missing", "Open the store with migrate=True, or run `flowstone db migrate`."),
    "42P01": ("a table is missing", "Open the store with migrate=True, or run `flowstone db migrate`."),
}
_POOLER = {"26000", "42P05"}
# A transaction of the caller's that failed, or that met another one.
_REPEATED = ("25P02", "40")
_READ_ONLY = "25006"


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of a server's error, or the empty string."""
    found = getattr(error, "sqlstate", None)
    return found if isinstance(found, str) else ""


def is_transient(error: BaseException) -> bool:
    """Tell whether the same statement may succeed later, perhaps on another connection."""
    state = sqlstate(error)
    if state:
        return state.startswith(_TRANSIENT_CLASSES) or state in _TRANSIENT
    if is_poison(error):
        return False
    return isinstance(
        error, OSError | asyncio.IncompleteReadError | asyncpg.InterfaceError | asyncpg.InternalClientError
    )


def is_poison(error: BaseException) -> bool:
    """Tell whether the values sent are to blame, so that one step fails and not the whole batch."""
    state = sqlstate(error)
    if state:
        return state.startswith(_POISON_CLASSES)
    return isinstance(error, ValueError | TypeError) and not isinstance(error, FlowstoneError)


def is_lost(error: BaseException) -> bool:
    """Tell whether the connection that the error came from is of no use any more."""
    state = sqlstate(error)
    return state.startswith(("08", "57P")) if state else not is_poison(error)


def translate(error: BaseException, *, where: str) -> FlowstoneError:
    """Return the library's error for one of the driver's.

    Args:
        error: What the driver raised.
        where: The server, for people: host, port and database, never the password.
    """
    if isinstance(error, FlowstoneError):
        return error
    state = sqlstate(error)
    if is_poison(error):
        return StorageError(
            f"Postgres cannot store what was given: {_said(error)}", details={"sqlstate": state, "store": where}
        )
    if state in _REFUSED:
        reason, hint = _REFUSED[state]
        return ConfigError(f"Postgres at {where}: {reason}: {_said(error)}", hint=hint, details={"sqlstate": state})
    if state in _POOLER:
        return StoreUnavailable(
            f"Postgres at {where} forgets prepared statements: {_said(error)}",
            hint="A transaction pooler seems to be in between: name the server itself with direct=.",
            details={"sqlstate": state},
        )
    reason, hint = _LOGIN.get(state) or _unreachable(error)
    return StoreUnavailable(
        f"Postgres at {where} cannot be used: {reason}: {_said(error)}", hint=hint, details={"sqlstate": state}
    )


def translate_lent(error: BaseException, *, where: str) -> FlowstoneError:
    """Return the library's error for one of the driver's on a connection of the caller's (`conn=`)."""
    state = sqlstate(error)
    if state.startswith(_REPEATED):
        reason, hint = "its transaction cannot go on", "Roll it back, and repeat it as a whole."
    elif state == _READ_ONLY:
        reason, hint = "its transaction, or its server, is read-only", "Begin one that may write, on the primary."
    elif not state and isinstance(error, asyncpg.InterfaceError):
        reason, hint = "the driver refuses it", "Give an open connection that nothing else uses meanwhile."
    else:
        return translate(error, where=where)
    return StoreUnavailable(
        f"conn= cannot be used: {reason}: {_said(error)}", hint=hint, details={"sqlstate": state, "store": where}
    )


def _unreachable(error: BaseException) -> tuple[str, str | None]:
    if isinstance(error, socket.gaierror):
        return "its host is unknown", "Check the host of the address."
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return "nobody listens there", "Start the server, or check host and port of the address."
    if isinstance(error, TimeoutError):
        return "it did not answer in time", "Check network and load of the server."
    return "the connection failed", None


def _said(error: BaseException) -> str:
    """Return the error's first line."""
    return (str(error) or type(error).__name__).partition("\n")[0]


def closed() -> ConfigError:
    """The store was closed, or not opened yet."""
    return ConfigError(
        "the store is not open: its engine has been left", hint="Use the engine inside `async with Engine(...)`."
    )
