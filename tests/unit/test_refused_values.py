"""Values that cannot be kept are refused where they are given."""

from __future__ import annotations

from datetime import timedelta

import pytest

from flowstone_async import ApprovalGate, ConfigError
from flowstone_async.config import seconds


@pytest.mark.parametrize("value", ["9999999d", 1e12, timedelta.max])
def test_a_duration_that_ends_after_the_last_year(value: object):
    with pytest.raises(ConfigError, match="ends after the year 9999"):
        seconds(value, what="timeout")  # pyright: ignore[reportArgumentType]


def test_the_longest_duration():
    assert seconds("2900000d") == timedelta(days=2_900_000).total_seconds()


def test_a_question_with_half_of_a_surrogate_pair():
    with pytest.raises(ConfigError, match="half of a surrogate pair"):
        ApprovalGate("all of it \ud800?", value=1)
    assert ApprovalGate("grün? 👍", value=1).asking.text == "grün? 👍"
