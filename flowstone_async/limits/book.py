"""The port to whatever remembers the grants and holders of limits.

Obligations that hold for all methods: what cannot be reached raises `StoreUnavailable`, and is then neither a grant
nor a refusal; a call that is cancelled takes nothing: what it was given all the same is given back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from flowstone_async.limits.history import Outlook
from flowstone_async.limits.rate import Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitHolder:
    """Somebody who holds a slot, or waits.

    Attributes:
        run_id: The run whose body it is; None outside of one.
        asset: Its asset.
        since: Since when it holds or waits, on the store's clock.
    """

    run_id: str | None
    asset: str | None
    since: datetime


class Waiting(Protocol):
    """Some who wait for one key."""

    key: str

    def shown(self) -> tuple[int, Sequence[LimitHolder]]:
        """Return how many there are, and the first of them; from any thread."""
        ...

    def waited(self) -> float:
        """Return the seconds for which the first has waited."""
        ...


class PermitAsk(NamedTuple):
    """A wish for permits.

    Attributes:
        pace: At which the caller may go; None if it does not know, and what was set for the key decides.
        want: How many; 0 only asks how things stand.
        span: Seconds within which they will have been used, counted from the call.
        line: Who waits for them, to be shown if not all are granted; None if nobody does.
    """

    key: str
    pace: Pace | None
    want: int
    span: float = 0.0
    line: Waiting | None = None


@dataclass(frozen=True, slots=True)
class Permits:
    """What came of a wish for permits.

    Attributes:
        pace: What it was judged by: what was set for the key, or else the ask's; None if there is neither, or it is
            a number of slots.
        slots: The number of slots that was set for the key, if it is that.
        granted: How many may be used.
        at: When, for `give_back`.
        outlook: When more come free, if not all were granted.
    """

    pace: Pace | None
    slots: int | None = None
    granted: int = 0
    at: object = None
    outlook: Outlook | None = None


class SlotAsk(NamedTuple):
    """A wish for a slot.

    Attributes:
        n: How many may be held at once; None if the caller does not know, and what was set for the key decides.
        holder: An id of its own: asking again finds what it holds already.
        line: Who waits, to be shown if it is not given; None if nobody does.
        waited: Seconds for which this one has waited.
    """

    key: str
    n: int | None
    holder: str
    run_id: str = ""
    asset: str = ""
    line: Waiting | None = None
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class SlotAnswer:
    """What came of a wish for a slot.

    Attributes:
        n: What it was judged by: what was set for the key, or else the ask's; None if there is neither, or a rate.
        pace: The rate that was set for the key, if it is that.
        since: Since when the slot is held; None if it is not.
        blocked: Seconds for which none is given.
    """

    n: int | None
    pace: Pace | None = None
    since: datetime | None = None
    blocked: float = 0.0


class HeldSlot(NamedTuple):
    """A slot that is held."""

    key: str
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """What is remembered of a key.

    Attributes:
        setting: What was set for it.
        pace: The rate that it was last asked for with, or that was set.
        slots: The number of slots that it was last asked for with, or that was set.
        used: Permits that count against `pace`, or against the pace that was asked about.
        blocked: Seconds for which nothing is granted.
        holders: Of slots, oldest first.
        waiters: The longest waiting of them.
        waiting: How many wait.
    """

    key: str
    setting: Pace | int | None = None
    pace: Pace | None = None
    slots: int | None = None
    used: int = 0
    blocked: float = 0.0
    holders: Sequence[LimitHolder] = ()
    waiters: Sequence[LimitHolder] = ()
    waiting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitChange:
    """What a person does to a limit.

    Attributes:
        action: `set`: `setting` holds from now on, None for what callers say; `reset`: forget grants, holders and
            `back_off`; `back_off`: grant nothing for `seconds`.
        actor: Who does it.
    """

    action: str
    key: str
    setting: Pace | int | None = None
    seconds: float = 0.0
    actor: str = "process"
    details: dict[str, object] = field(default_factory=dict[str, object])


class LimitBook(Protocol):
    """Remembers grants and holders.

    Attributes:
        remote: Whether asking takes time, so that it is worth asking for all who wait at once.
    """

    remote: bool

    async def take(self, asks: Sequence[PermitAsk]) -> Sequence[Permits]:
        """Grant permits, each ask by its own pace against all that was granted for its key, in their order.

        Permits that are not used within the ask's span are to be given back with `give_back`.
        """
        ...

    def give_back(self, key: str, at: object, count: int) -> None:
        """Take back permits, granted `at`, that were not used; soon, or not at all. Repeated calls are others."""
        ...

    async def hold(self, asks: Sequence[SlotAsk]) -> Sequence[SlotAnswer]:
        """Give slots to those that may have one, in their order, each judged by its own number.

        Raises:
            ConfigError: A slot needs a lease, and this engine has none.
        """
        ...

    async def release(self, slots: Sequence[HeldSlot]) -> None:
        """Free slots, however often it is called and whatever fails: what cannot be told now is told later.

        From the first moment on it is done also if the call is cancelled.
        """
        ...

    async def change(self, change: LimitChange) -> None:
        """Change a limit, with its audit entry, and let those look again who wait."""
        ...

    async def states(
        self, keys: Sequence[str] | None = None, *, pace: Pace | None = None, after: str = "", limit: int = 1000
    ) -> Sequence[LimitState]:
        """Return what is remembered of some keys, unknown ones left out; or a page of all, by key, behind `after`.

        Args:
            keys: Those that are asked about.
            pace: What `used` counts against, where nothing was set.
            after: The last key of the page before.
            limit: Of the page.
        """
        ...

    async def changed(self, key: str, *, within: float) -> None:
        """Return when something about a key may have changed, at the latest after `within` seconds. A hint only."""
        ...

    def enter(self, waiting: Waiting) -> None:
        """Show some who wait, until `withdraw`."""
        ...

    def withdraw(self, waiting: Waiting) -> None:
        """Show them no more."""
        ...
