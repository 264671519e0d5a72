"""How often each address may call (WEB-06)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.web import addresses
from flowstone_async.web.addresses import Addresses


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_so_many_at_once_and_then_as_they_come_back():
    clock = _Clock()
    found = Addresses(10, clock)
    assert [found.wait("10.0.0.1") for _ in range(10)] == [0.0] * 10
    wait = found.wait("10.0.0.1")
    assert wait == pytest.approx(0.1)
    clock.now += wait
    assert found.wait("10.0.0.1") == 0
    assert found.wait("10.0.0.1") > 0
    assert found.wait("10.0.0.2") == 0


@given(st.lists(st.floats(0, 1), max_size=200))
def test_no_second_has_more_than_twice_as_many(pauses: list[float]):
    """What had come back before, and what comes back meanwhile; refused calls take nothing."""
    clock = _Clock()
    found = Addresses(10, clock)
    granted: list[float] = []
    for pause in pauses:
        clock.now += pause
        granted += [clock.now for _ in range(5) if not found.wait("10.0.0.1")]
    assert all(len([each for each in granted if begin <= each < begin + 1]) <= 20 for begin in granted)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        (None, "", True),
        ("testclient", "unix", False),
    ],
)
def test_a_network_of_ipv6_counts_as_one(one: str | None, other: str | None, same: bool):
    found = Addresses(1, _Clock())
    assert found.wait(one) == 0
    assert (found.wait(other) > 0) is same


def test_memory_does_not_grow(monkeypatch: pytest.MonkeyPatch):
    """The address that has not called for longest makes room."""
    monkeypatch.setattr(addresses, "_MOST_KNOWN", 100)
    found = Addresses(1, _Clock())
    for number in range(1000):
        assert found.wait(f"10.0.{number // 256}.{number % 256}") == 0
    assert len(found._buckets) == 100
    assert found.wait("10.0.3.231") > 0
    assert found.wait("10.0.0.0") == 0
