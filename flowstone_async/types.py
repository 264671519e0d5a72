"""Small values that every layer speaks of: asset keys, materializations, absent values, identifiers."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple, final

from typing_extensions import override


class AssetKey(NamedTuple):
    """What a value is stored under: one asset of one pipeline, for one partition, through one I/O manager.

    Attributes:
        pipeline: Name of the pipeline.
        asset: Name of the asset.
        partition: Encoded partition key; the empty string for an asset with one value.
        io: Identity of the manager given with `io=` to the call; the empty string without one.
    """

    pipeline: str
    asset: str
    partition: str = ""
    io: str = ""

    @override
    def __str__(self) -> str:
        where = f"[{self.partition}]" if self.partition else ""
        return f"{self.pipeline}.{self.asset}{where}"


class Input(NamedTuple):
    """One input that a materialization was computed from.

    Attributes:
        kind: `"asset"`, `"param"` (a params field, `name` is its name, `"*"` for all) or `"key"` (a cache key).
        name: Parameter of the body, or params field.
        fingerprint: Fingerprint of the value, or `"absent:<why>"` for an outcome received as absent.
        key: The upstream, for `kind="asset"`.
        materialization: The upstream's materialization that was consumed, or None where there was none.
    """

    kind: Literal["asset", "param", "key"]
    name: str
    fingerprint: str
    key: AssetKey | None = None
    materialization: str | None = None


NOTHING: Final[Mapping[str, object]] = {}


class Materialization(NamedTuple):
    """The record of one committed computation of an asset for a partition.

    Attributes:
        id: Opaque UUID, made by the process that computed it.
        fingerprint: Hash of the encoded value, or `id` where the value has no stable hash.
        version: The asset's declared version, or None.
        code_hash: Hash of the body and its helpers; reported, and judged only on request.
        inputs: What it was computed from, in the order of the body's parameters.
        manager: Name of the I/O manager that holds the value.
        location: Where the manager keeps it, in the manager's own words.
        size: Bytes of the encoded value.
        checksum: Hash of the stored bytes, or None if the manager keeps none.
        started_at: Start of the last attempt, on the store's clock.
        committed_at: Instant of the commit on the store's clock; the store fills it in.
        seconds: Duration of the last attempt.
        attempts: Number of attempts made.
        host: Host that computed it.
        metadata: What the body noted with `ctx.metadata`, JSON-compatible.
    """

    id: str
    key: AssetKey
    run_id: str
    fingerprint: str
    version: str | None
    code_hash: str
    inputs: tuple[Input, ...]
    manager: str
    location: str
    size: int
    checksum: str | None
    started_at: datetime
    committed_at: datetime
    seconds: float
    attempts: int
    host: str
    metadata: Mapping[str, object] = NOTHING


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """An upstream's failure, received as a value by a parameter annotated `T | Failed`."""

    asset: str
    partition: object
    error_type: str
    message: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An upstream's skip, received as a value by a parameter annotated `T | Skipped`."""

    asset: str
    partition: object
    reason: str


@final
class All:
    """The type of `ALL`: every partition."""

    @override
    def __repr__(self) -> str:
        return "ALL"


ALL: Final = All()


_random = random.Random(os.urandom(32))  # noqa: S311 - ids are unique, not secret
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def new_id() -> str:
    """Return a new UUID (version 7: ordered by the millisecond it was made in), as text.

    Unique, not secret: 74 bits of each come from a generator that is seeded by the system, anew after a fork.
    """
    stamp = time.time_ns() // 1_000_000
    noise = _random.getrandbits(74)
    text = f"{stamp:012x}{0x7000 | noise >> 62:04x}{0x8000_0000_0000_0000 | noise & 0x3FFF_FFFF_FFFF_FFFF:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
