"""What runs need of the engine they run in."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from flowstone_async._engine.executor import Executor
from flowstone_async._engine.gates.payloads import Payloads
from flowstone_async._engine.run_slots import RunSlots
from flowstone_async._engine.waits.watch import Watch
from flowstone_async.clock import Clock
from flowstone_async.limits.desk import Desk
from flowstone_async.redaction import Redactor
from flowstone_async.resources import ResourceScope
from flowstone_async.store.protocol import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of an engine, in seconds where they are times; None switches a limit off.

    Attributes:
        default_timeout: For `run`.
        cancel_grace: Time that `finally` blocks have after a cancellation.
        poll: How long a lost notification may go unnoticed.
        slots: How many runs of the queue, or of the dead, it executes at once; 0 takes none.
        early_signals: How long a signal is kept for a gate that is not on record yet; None: it is refused.
        base_url: Where whoever sends signals reaches this engine; None if nobody said.
        max_lost: How often a body that a lost worker cut off is called again before its asset fails.
        park_after: How long a body that waits stays in memory; 0 evicts at every wait.
        max_parked: How many waits stay in memory.
    """

    default_timeout: float | None = 300.0
    concurrency: int = 32
    slots: int = 0
    cancel_grace: float = 10.0
    grace: float = 30.0
    poll: float = 1.0
    hook_timeout: float | None = 10.0
    block_warning: float | None = 0.5
    max_lost: int = 3
    strict_metadata: bool = False
    park_after: float | None = 30.0
    max_parked: int = 10_000
    early_signals: float | None = 86_400.0
    base_url: str | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Services:
    """What runs need of the engine they run in.

    Attributes:
        worker: The engine's id in the store, or None if it may own no runs.
        adopt: Takes over a run whose owner is dead; None where nobody does.
        dispatches: Whether runs of the queue are taken on here, as far as slots are free.
        given: Values that tests put in place of stored ones, by the id of their made-up materialization.
        unleft: Scatters that this worker could not leave for want of the store.
        called: Told the asset's name before each call of a body.
        secrets: The first signs tokens of gates, all verify; without any, what needs one is refused.
        payloads: Types of gates' payloads.
        watch: Hears of the ends of gates.
        slots: Which runs were taken on, and count.
        database: Where sources read from that name no other place: an address, or a pool; None where there is none.
    """

    store: Store
    clock: Clock
    settings: Settings
    executor: Executor
    redactor: Redactor
    resources: ResourceScope
    limits: Desk
    spawn: Callable[..., None]
    watch: Watch
    slots: RunSlots = field(default_factory=RunSlots)
    worker: str | None = None
    adopt: Callable[[str], Awaitable[None]] | None = None
    dispatches: bool = False
    host: str = field(default_factory=socket.gethostname)
    given: dict[str, object] = field(default_factory=dict[str, object])
    unleft: set[str] = field(default_factory=set[str])
    called: Callable[[str], None] | None = None
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    payloads: Payloads = field(default_factory=Payloads, repr=False)
    database: object = field(default=None, repr=False)

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: object, name: str) -> None:
        """Start a child task of the engine."""
        self.spawn(function, *args, name=name)
