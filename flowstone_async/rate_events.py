"""Events of limits: observations, told to hooks only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flowstone_async.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class RateEvent(Event):
    """Something that happened at a limit. Told to hooks only.

    Attributes:
        key: The limit's key or name.
        asset: Whose body asked; empty outside of one.
    """

    key: str
    asset: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateChecked(RateEvent):
    """A permit was asked for, and `granted`, or else would be in `wait` seconds."""

    type: ClassVar[str] = "rate.checked"
    granted: bool = True
    wait: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateWaited(RateEvent):
    """Somebody stood in line for a permit for `seconds`, and got it, or did not (`granted`)."""

    type: ClassVar[str] = "rate.waited"
    granted: bool = True
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSlotAcquired(RateEvent):
    """A slot was taken, after `seconds` in line."""

    type: ClassVar[str] = "rate.slot_acquired"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSlotReleased(RateEvent):
    """A slot was let go that had been held for `seconds`."""

    type: ClassVar[str] = "rate.slot_released"
    seconds: float = 0.0
