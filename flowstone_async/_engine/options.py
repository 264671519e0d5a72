"""Checking what an engine is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from flowstone_async.config import seconds
from flowstone_async.definition.collection import Collection
from flowstone_async.definition.policy import Duration
from flowstone_async.errors import ConfigError

Limit: TypeAlias = Duration | Literal[False]


def check_pipelines(pipelines: Sequence[object]) -> None:
    """Refuse what is no pipeline, none at all, or two of one name."""
    names: list[str] = []
    for each in pipelines:
        if not isinstance(each, Collection):
            raise ConfigError(f"{each!r} is not a pipeline", hint="Pass Pipeline objects: Engine(pipe).")
        names.append(each.name)
    if not names:
        raise ConfigError("an engine needs at least one pipeline", hint="Say Engine(pipe).")
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise ConfigError(f"two pipelines are called {double!r}", hint="Their names are their identity: rename one.")


def check_counts(*, processes: int | None, **counts: int) -> None:
    """Refuse counts below 1."""
    for name, value in {**counts, "processes": processes}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name}={value!r}", hint="Give a whole number of 1 or more.")


def check_switches(**switches: object) -> None:
    """Refuse switches that are neither True nor False."""
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name}={value!r}", hint="Allowed are True and False.")


def limit(value: Limit, what: str) -> float | None:
    """Return a limit in seconds; None for no limit."""
    return None if value is False else seconds(value, what=what)


def first_secret(given: bytes | Sequence[bytes] | None) -> bytes | None:
    """Return the secret that signs."""
    first = given if isinstance(given, bytes | None) else given[0] if given else None
    if first is not None and len(first) < 32:  # noqa: PLR2004 - the length of the hash that signs
        raise ConfigError("secret= is too short", hint="Give 32 random bytes or more.")
    return first
