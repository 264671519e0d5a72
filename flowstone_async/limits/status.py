"""What a limit looks like at a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from flowstone_async.limits.book import LimitHolder, LimitState
from flowstone_async.limits.rate import Rate, rate_of

LimitKind: TypeAlias = Literal["rate", "slots"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitStatus:
    """What a limit looks like at a moment.

    Attributes:
        key: Its key or name.
        kind: `"rate"` or `"slots"`; None for a key that nobody has used or declared.
        rate: The rate, if it is one.
        count: Permits that count now, or slots that are held.
        limit: How many may be; None for a key that nobody has used or declared.
        remaining: How many are left.
        utilisation: `count` as a share of `limit`.
        holders: Who holds slots, with run, asset and since when; oldest first.
        waiters: The first of those who wait, likewise; 20 of each process at most.
        waiting: How many wait.
        backed_off: Seconds for which nothing is granted.
        setting: What was set with `limits.set`, which holds over what code says; None if nothing was.
    """

    key: str
    kind: LimitKind | None = None
    rate: Rate | None = None
    count: int = 0
    limit: int | None = None
    remaining: int | None = None
    utilisation: float = 0.0
    holders: Sequence[LimitHolder] = ()
    waiters: Sequence[LimitHolder] = ()
    waiting: int = 0
    backed_off: float = 0.0
    setting: Rate | int | None = None


def status_of(state: LimitState, declared: Rate | int | None) -> LimitStatus:
    """Return what a limit looks like.

    Args:
        state: What is remembered of it.
        declared: What this engine declares it as.
    """
    setting = state.setting
    chosen = setting if setting is not None else declared
    pace = state.pace if declared is None or isinstance(setting, tuple) else getattr(declared, "pace", None)
    by_rate = not isinstance(chosen, int) if chosen is not None else pace is not None
    slots = chosen if isinstance(chosen, int) else state.slots
    limit = (None if pace is None else pace.n) if by_rate else slots
    count = state.used if by_rate else len(state.holders)
    return LimitStatus(
        key=state.key,
        kind=None if limit is None else "rate" if by_rate else "slots",
        rate=rate_of(pace) if by_rate and pace is not None else None,
        count=count,
        limit=limit,
        remaining=None if limit is None else max(0, limit - count),
        utilisation=count / limit if limit else 0.0,
        holders=state.holders,
        waiters=state.waiters,
        waiting=state.waiting,
        backed_off=state.blocked,
        setting=rate_of(setting) if isinstance(setting, tuple) else setting,
    )
