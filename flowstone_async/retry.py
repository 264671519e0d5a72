"""How often something that fails is tried again, and how long to wait in between."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from flowstone_async.config import Duration, seconds
from flowstone_async.errors import ConfigError, FlowstoneError

Backoff: TypeAlias = Literal["none", "fixed", "linear", "exponential"]
_BACKOFFS = ("none", "fixed", "linear", "exponential")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failing body is called, and how long to wait in between.

    The wait after attempt n is 0 (`"none"`), `initial` (`"fixed"`), `initial * n` (`"linear"`) or
    `initial * 2**(n-1)` (`"exponential"`), at most `maximum`. With jitter it lies between half of that and all of
    it ("equal jitter", M. Brooker, Exponential Backoff And Jitter, 2015).

    Attributes:
        attempts: Calls in all, the first included; at least 1.
        backoff: How the wait grows.
        initial: The first wait.
        maximum: The longest wait.
        jitter: Whether waits are spread.
        on: Exception types that are tried again.
        when: Asked with the exception; false ends the attempts.
    """

    attempts: int
    backoff: Backoff = "exponential"
    initial: Duration = "1s"
    maximum: Duration = "1m"
    jitter: bool = True
    on: tuple[type[BaseException], ...] | type[BaseException] = (Exception,)
    when: Callable[[BaseException], bool] | None = None

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values, one sentence each."""
        attempts: object = self.attempts
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            yield f"Retry({self.attempts!r}): attempts must be a whole number of 1 or more (1 is: no second attempt)"
        if self.backoff not in _BACKOFFS:
            yield f"Retry(backoff={self.backoff!r}): allowed are {', '.join(map(repr, _BACKOFFS))}"
        for name in ("initial", "maximum"):
            yield from duration_problem("Retry", name, getattr(self, name))
        yield from _order_problem(self.initial, self.maximum)
        if not isinstance(self.jitter, bool):
            yield f"Retry(jitter={self.jitter!r}): allowed are True, False"
        kinds: object = self.on if isinstance(self.on, tuple) else (self.on,)
        if not all(isinstance(each, type) and issubclass(each, BaseException) for each in kinds):
            yield f"Retry(on={self.on!r}): give an exception type, or a tuple of them"
        if self.when is not None and (not callable(self.when) or inspect.iscoroutinefunction(self.when)):
            yield f"Retry(when={self.when!r}): give a plain function that is asked with the exception"

    def wait(self, attempt: int, *, spread: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait after attempt `attempt` (from 1) failed.

        Args:
            attempt: The attempt that failed.
            spread: Source of numbers from 0 to 1, for the jitter.
        """
        initial = seconds(self.initial, what="initial")
        match self.backoff:
            case "none":
                return 0.0
            case "fixed":
                full = initial
            case "linear":
                full = initial * attempt
            case "exponential":
                full = initial * 2.0 ** min(attempt - 1, 1000)
        full = min(full, seconds(self.maximum, what="maximum"))
        return full / 2 + full / 2 * spread() if self.jitter else full

    def again(self, error: BaseException, attempt: int) -> bool:
        """Tell whether `error` of attempt `attempt` is followed by another attempt."""
        if attempt >= self.attempts:
            return False
        if isinstance(error, FlowstoneError) and not error.retryable:
            return False
        return isinstance(error, self.on) and (self.when is None or bool(self.when(error)))


def duration_problem(owner: str, name: str, value: Duration) -> Iterator[str]:
    """Yield what is wrong with a duration that a policy was given."""
    try:
        seconds(value)
    except ConfigError as error:
        yield f"{owner}({name}={value!r}): {str(error.hint).rstrip('.')}"


def _order_problem(initial: Duration, maximum: Duration) -> Iterator[str]:
    try:
        ordered = seconds(initial) <= seconds(maximum)
    except ConfigError:  # told of each by itself
        return
    if not ordered:
        yield f"Retry(initial={initial!r}, maximum={maximum!r}): the first wait is longer than the longest"
