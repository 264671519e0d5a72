"""How often something may be done: what users write, and what is compared and stored of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Concatenate, NamedTuple

from flowstone_async.config import Duration, seconds
from flowstone_async.errors import ConfigError


class Pace(NamedTuple):
    """A rate in numbers: in no `per` seconds more than `n` permits, and at most `burst` at once."""

    n: int
    per: float
    burst: int

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.n} in {self.per:g} s" + (f", {self.burst} at once" if self.burst < self.n else "")


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something may be done: no window of length `per`, wherever it starts, sees more than `n`.

    Up to 2 % fewer may be permitted (docs/adr/0009-limits.md has the argument). Two rates are equal if they permit the
    same, however their durations are written.

    Attributes:
        n: Permits in each window.
        per: Length of the windows.
        burst: Permits at once, from 1 to `n`; `n` without it. With less, those that follow come `per / n` apart.
        key: Of the rate of a scatter only: takes an item (with `batch=` a `Batch`), and dependencies by name, and
            returns what it is limited by, each by itself: text, a number, or a tuple of them.

    Raises:
        ConfigError: `n` is below 1, `burst` is not from 1 to `n`, or `per` is no duration.

    Example:
        >>> async with ctx.limit("openai", Rate(60, per="1m", burst=10)):
        ...     answer = await client.post(url, json=question)
    """

    n: int
    per: Duration = field(default="1s", compare=False)
    burst: int | None = field(default=None, compare=False)
    key: Callable[Concatenate[Any, ...], object] | None = field(default=None, kw_only=True)
    pace: Pace = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the numbers."""
        count: object = self.n
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"Rate({count!r}): n is 1 or more", hint='Rate(60, per="1m") is 60 in each minute.')
        burst: object = self.n if self.burst is None else self.burst
        if isinstance(burst, bool) or not isinstance(burst, int) or not 1 <= burst <= self.n:
            raise ConfigError(
                f"Rate({self.n}, burst={burst!r}): a burst is from 1 to n",
                hint=f"Give a whole number from 1 to {self.n}, or leave it out for {self.n}.",
            )
        if self.key is not None and not callable(self.key):
            raise ConfigError(
                f"Rate(key={self.key!r})", hint="Give a function that takes an item, or a batch, and returns its key."
            )
        object.__setattr__(self, "pace", Pace(self.n, seconds(self.per, what="Rate per"), burst))


def rate_of(pace: Pace) -> Rate:
    """Return the rate that a pace is of."""
    return Rate(pace.n, per=pace.per, burst=pace.burst)
