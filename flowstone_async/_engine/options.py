"""Checking what an engine is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from flowstone_async._engine.services import Settings
from flowstone_async._engine.upkeep import Retention
from flowstone_async.config import seconds, switch, whole
from flowstone_async.definition.collection import Collection
from flowstone_async.definition.policy import Duration
from flowstone_async.errors import ConfigError

Limit: TypeAlias = Duration | Literal[False]
SECRET_BYTES = 32
"""The length of the hash that signs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The checked options of an engine."""

    settings: Settings
    lease: float
    retention: Retention
    secrets: tuple[bytes, ...]
    threads: int
    processes: int | None


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
        if value is not None:
            whole(value, what=name)


def check_switches(**switches: object) -> None:
    """Refuse switches that are neither True nor False."""
    for name, value in switches.items():
        switch(value, what=name)


def limit(value: Limit, what: str) -> float | None:
    """Return a limit in seconds; None for no limit."""
    return None if value is False else seconds(value, what=what)


def secrets(given: object) -> tuple[bytes, ...]:
    """Return the secrets: the first signs, all verify."""
    several = [*cast("list[object]", given)] if isinstance(given, list | tuple) else [given]
    keys: list[object] = [] if given is None else several
    if given is not None and not keys:
        raise ConfigError("secret=[] holds no secret", hint="Give 32 random bytes or more, or leave it out.")
    found = tuple(each for each in keys if isinstance(each, bytes) and len(each) >= SECRET_BYTES)
    if len(found) < len(keys):
        raise ConfigError(
            f"secret= takes bytes, {SECRET_BYTES} or more", hint="Make them with secrets.token_bytes(32), once."
        )
    return found


def names(given: object, what: str) -> tuple[str, ...]:
    """Return a list of names."""
    found = [*cast("list[object]", given)] if isinstance(given, list | tuple | set | frozenset) else [None]
    named = tuple(each for each in found if isinstance(each, str))
    if len(named) < len(found):
        raise ConfigError(f"{what}={given!r}", hint="Give a list of names.")
    return named


def mapping(given: object, what: str, *, by_name: bool) -> dict[Any, object]:
    """Return a mapping; with `by_name` its keys are names."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{what}={given!r}", hint="Give a mapping.")
    known = cast("Mapping[Any, object]", given)
    if by_name and not all(isinstance(key, str) for key in known):
        raise ConfigError(f"{what}={given!r}", hint=f"Give a mapping from {'names' if by_name else 'types or names'}.")
    return dict(known)


def retention_of(given: object) -> Retention:
    """Return how long what is over is kept."""
    if given is None:
        return Retention()
    if given is False:
        return Retention.off()
    if not isinstance(given, Retention):
        raise ConfigError(f"retention={given!r}", hint='Give Retention(runs="30d", values="7d"), or False.')
    given.limits()
    return given
