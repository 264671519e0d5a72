"""What a rate is, and what is none (RATE-01)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from flowstone_async import ConfigError, Rate
from tests.unit.definition.reading import untyped


def test_a_rate_is_by_the_second_and_all_at_once_unless_it_says_otherwise() -> None:
    """RATE-01."""
    assert Rate(10).pace == (10, 1.0, 10)
    assert Rate(60, per="1m", burst=5).pace == (60, 60.0, 5)


@pytest.mark.parametrize("per", ["1m", 60, 60.0, timedelta(minutes=1)])
def test_rates_that_permit_the_same_are_equal(per: object) -> None:
    """RATE-09: however they are written, they do not differ."""
    assert Rate(60, per=untyped(per)) == Rate(60, per="60s", burst=60)
    assert hash(Rate(60, per=untyped(per))) == hash(Rate(60, per="60s", burst=60))
    assert Rate(60, per=untyped(per)) != Rate(60, per="61s")
    assert Rate(60, per=untyped(per), burst=59) != Rate(60, per="60s")


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "10", None])
def test_n_below_one_is_refused(n: object) -> None:
    """RATE-01."""
    with pytest.raises(ConfigError, match="n is 1 or more"):
        Rate(untyped(n))


@pytest.mark.parametrize("burst", [0, -1, 11, 2.0, True, "3"])
def test_a_burst_outside_one_to_n_is_refused(burst: object) -> None:
    """RATE-01."""
    with pytest.raises(ConfigError, match="a burst is from 1 to n") as caught:
        Rate(10, burst=untyped(burst))
    assert "from 1 to 10" in str(caught.value.hint)


@pytest.mark.parametrize("per", [0, -1, "soon", None, True])
def test_a_window_is_a_duration(per: object) -> None:
    """RATE-01."""
    with pytest.raises(ConfigError, match="is not a duration"):
        Rate(1, per=untyped(per))


def test_a_key_is_a_function() -> None:
    """RATE-08."""
    assert Rate(1, key=str).key is str
    with pytest.raises(ConfigError, match="key="):
        Rate(1, key=untyped("customer"))


def test_a_rate_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Rate(1).n = 2  # type: ignore[misc]
