"""What a run was asked for, and how that is stored with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, TypeAlias, cast
from uuid import UUID

from flowstone_async.planning.verdicts import Asked, Force
from flowstone_async.types import AssetKey, Materialization

OnWait: TypeAlias = Literal["raise", "wait"]
CONCURRENCY = 32
BACKFILL = "backfill"
"""The stored option that makes a run a backfill: what it was asked for."""
RESUMES = "resumes"
"""The stored option that names the run whose committed values are taken as they are."""
PARENT = "parent"
"""The stored option that names the backfill that a run is a partition of, with which it is cancelled."""
REDRIVES = "redrives"
"""The stored option that says which scatters a run goes on with: `asset`, `partitions`, `of`, `only`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of one run, checked.

    Attributes:
        targets: Names of assets, in the order asked for.
        partition: The run's key, as a real object.
        encoded: The same, encoded.
        params: Params, of the pipeline's params type (None where it has none).
        params_json: The same, as stored.
        params_known: False where somebody only asks how things stand, and the params have fields without defaults.
        secrets: Fields of the params that hold secrets; those are not stored, so that nobody else continues the run,
            and no other call joins it.
        io: The manager given to the call, or None.
        io_name: Its identity, part of every asset key of the run; empty without one.
        continuable: Whether the run can be continued by another process: all of its options can be stored.
        timeout: Seconds for the whole run, or None.
        concurrency: Bodies at once.
        submitted: Whether nobody need await it.
        on_wait: Whether whoever awaits it is told that it waits for somebody else, or waits as well.
        parent: The backfill that it is a partition of, or None.
        given: Made-up materializations that stand for assets, in tests.
        again: Keys of the scatters that it redrives: they are computed, and what depends on them; the rest is taken as
            it is stored.
    """

    pipeline: str
    targets: tuple[str, ...]
    partition: Any = None
    encoded: str = ""
    params: Any = field(default=None, repr=False)
    params_json: str = field(default="{}", repr=False)
    params_known: bool = True
    secrets: tuple[str, ...] = ()
    force: Force = False
    with_deps: bool = True
    io: Any = None
    io_name: str = ""
    continuable: bool = True
    timeout: float | None = None
    concurrency: int = CONCURRENCY
    run_id: str | None = None
    submitted: bool = False
    on_wait: OnWait = "wait"
    parent: str | None = None
    given: Mapping[str, Materialization] = field(default_factory=dict[str, Materialization])
    again: frozenset[AssetKey] = frozenset()

    @property
    def asked(self) -> Asked:
        """The options that decide what is computed."""
        return Asked(force=self.force, with_deps=self.with_deps, given=frozenset(self.given), again=self.again)

    @property
    def joinable(self) -> bool:
        """Whether an equal request that is running is joined; `force`, a redrive, `run_id` and secrets never join."""
        return not self.force and not self.again and self.run_id is None and not self.secrets

    def identity(self) -> tuple[object, ...]:
        """Return what two requests must share to be one run."""
        return (self.pipeline, self.targets, self.encoded, self.params_json, self.io_name, self.with_deps)

    def subject(self) -> str:
        """Return a hash of what is to be computed with what: targets, partition and params."""
        return digest(self.targets, self.encoded, self.params_json)

    def joins(self) -> str:
        """Return a hash of what two requests must share to be one run, within their pipeline."""
        return digest(self.targets, self.encoded, self.params_json, self.io_name, self.with_deps)

    def options(self) -> dict[str, object]:
        """Return the options as they are stored with the run."""
        return {
            "force": self.force,
            "with_deps": self.with_deps,
            "io": self.io_name,
            "timeout": self.timeout,
            "concurrency": self.concurrency,
            **({} if self.parent is None else {PARENT: self.parent}),
        }


def digest(*parts: object) -> str:
    """Return a hash of JSON-compatible values."""
    return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def stored_again(pipeline: str, options: Mapping[str, Any]) -> frozenset[AssetKey]:
    """Read back which keys a run redrives."""
    found = options.get(REDRIVES)
    if not isinstance(found, Mapping):
        return frozenset()
    named = cast("Mapping[str, Any]", found)
    io = str(options.get("io") or "")
    return frozenset(AssetKey(pipeline, str(named["asset"]), str(each), io) for each in named["partitions"])


def stored_force(options: Mapping[str, object]) -> Force:
    """Read `force` back from stored options."""
    value = options.get("force")
    return _ALL if value == "all" else value is True


_ALL: Literal["all"] = "all"


def is_uuid(text: object) -> bool:
    """Tell whether something is the text of a UUID, as `str` writes it: ids are compared as text."""
    try:
        return isinstance(text, str) and str(UUID(text)) == text
    except ValueError:
        return False
