"""Policies: how often a body is tried, and when a stored value is reused (FLOW-06, FLOW-07, FLOW-08, CACHE-04)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async import Cache, ExecutionError, Pipeline, Retry, StorageError, TimedOut
from flowstone_async.definition.policy import Backoff
from tests.unit.definition.reading import untyped

WAITS: list[tuple[Backoff, list[float]]] = [
    ("none", [0, 0, 0, 0]),
    ("fixed", [2, 2, 2, 2]),
    ("linear", [2, 4, 6, 7]),
    ("exponential", [2, 4, 7, 7]),
]


@pytest.mark.parametrize(("backoff", "waits"), WAITS)
def test_the_wait_after_each_attempt(backoff: Backoff, waits: list[float]) -> None:
    """FLOW-07: never more than `maximum`."""
    retry = Retry(9, backoff=backoff, initial="2s", maximum=timedelta(seconds=7), jitter=False)
    assert [retry.wait(attempt) for attempt in (1, 2, 3, 4)] == waits


def test_waits_of_a_retry_that_says_nothing() -> None:
    """FLOW-07: exponential from one second to one minute, spread."""
    retry = Retry(3)
    assert (retry.backoff, retry.initial, retry.maximum, retry.jitter) == ("exponential", "1s", "1m", True)
    assert [retry.wait(n, spread=lambda: 1.0) for n in (1, 2, 6, 7, 5000)] == [1, 2, 32, 60, 60]
    assert (retry.on, retry.when) == ((Exception,), None)


@given(st.integers(1, 100), st.floats(0, 1), st.sampled_from([each for each, _ in WAITS]))
def test_jitter_picks_between_half_and_all(attempt: int, spread: float, backoff: Backoff) -> None:
    """FLOW-07."""
    full = Retry(200, backoff=backoff, jitter=False).wait(attempt)
    wait = Retry(200, backoff=backoff).wait(attempt, spread=lambda: spread)
    assert full / 2 <= wait <= full


AGAIN: list[tuple[Retry, BaseException, int, bool]] = [
    (Retry(3), ValueError(), 1, True),
    (Retry(3), ValueError(), 2, True),
    (Retry(3), ValueError(), 3, False),  # at most 3 attempts in all
    (Retry(1), ValueError(), 1, False),
    (Retry(3, on=(TimeoutError, KeyError)), KeyError(), 1, True),
    (Retry(3, on=KeyError), KeyError(), 1, True),
    (Retry(3, on=LookupError), KeyError(), 1, True),
    (Retry(3, on=(TimeoutError,)), KeyError(), 1, False),
    (Retry(3, on=(TimeoutError,)), TimedOut("late"), 1, True),
    (Retry(3, when=lambda error: "again" in str(error)), ValueError("again"), 1, True),
    (Retry(3, when=lambda error: "again" in str(error)), ValueError("no"), 1, False),
    (Retry(3), StorageError("gone"), 1, False),  # a library error that is not retryable
    (Retry(3), StorageError("busy", retryable=True), 1, True),
    (Retry(3), KeyboardInterrupt(), 1, False),
]


@pytest.mark.parametrize(("retry", "error", "attempt", "again"), AGAIN, ids=map(str, range(len(AGAIN))))
def test_which_failures_are_tried_again(retry: Retry, error: BaseException, attempt: int, again: bool) -> None:
    """FLOW-06, FLOW-08."""
    assert retry.again(error, attempt) is again


@pytest.mark.parametrize(("retry", "calls"), [(None, 1), (Retry(1), 1), (Retry(3, backoff="none"), 3), (False, 1)])
async def test_attempts_count_the_first_call(retry: Any, calls: int) -> None:
    """FLOW-06: assets default to one attempt."""
    pipe = Pipeline("p")
    called: list[int] = []

    @pipe.asset(retry=retry)
    async def fails() -> int:
        called.append(1)
        raise ValueError("no")

    with pytest.raises(ExecutionError):
        await pipe.run(fails)
    assert len(called) == calls


def test_policies_are_values() -> None:
    """CACHE-04, FLOW-06: equal ones are equal, and none can be changed."""
    assert Retry(3) == Retry(3, backoff="exponential")
    assert Cache(ttl="1h") != Cache(ttl="2h")
    assert list(Retry(3, on=TimeoutError).problems()) == list(Cache(ttl=5, version="1").problems()) == []
    with pytest.raises(AttributeError):
        untyped(Retry(3)).attempts = 4
