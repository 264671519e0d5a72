"""How many items may fail (SCAT-09, SCAT-10), and how a scatter is counted (SCAT-23)."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flowstone_async import ScatterCounts, Tolerance
from flowstone_async.definition.tolerance import NO_FAILURE, misuse_of, tolerance_of
from tests.unit.definition.reading import untyped

COUNTS = st.integers(0, 2_000)
PERCENT = st.integers(0, 1_000).map(lambda n: Decimal(n) / 1000)
USABLE: list[Any] = [
    0,
    0.0,
    0.02,
    1.0,
    False,
    Tolerance(count=0),
    Tolerance(fraction=1),
    Tolerance(count=3, fraction=0.5),
]


def test_two_of_a_hundred_pass_two_percent() -> None:
    """SCAT-10: strictly greater, and never before the scatter is sealed."""
    tolerance = Tolerance(fraction=0.02)
    assert not tolerance.exceeded(2, 100, sealed=True)
    assert tolerance.exceeded(3, 100, sealed=True)
    assert not tolerance.exceeded(3, 3, sealed=False)
    assert not tolerance.exceeded(3, None, sealed=False)


@pytest.mark.parametrize("tolerance", [NO_FAILURE, Tolerance(fraction=0.0), Tolerance()], ids=repr)
def test_nothing_is_tolerated_at_once(tolerance: Tolerance) -> None:
    """SCAT-09, SCAT-10: with 0 the first item that fails for good fails the asset."""
    assert not tolerance.exceeded(0, None, sealed=False)
    assert not tolerance.exceeded(0, 0, sealed=True)
    assert tolerance.exceeded(1, None, sealed=False)


@given(failed=COUNTS, more=COUNTS, share=PERCENT, sealed=st.booleans())
def test_a_fraction_is_judged_exactly_and_only_when_sealed(
    failed: int, more: int, share: Decimal, sealed: bool
) -> None:
    """SCAT-10: as if it were calculated in decimal numbers, whatever a float makes of 0.07 * 100."""
    total = failed + more
    assume(total > 0)
    expected = failed > 0 if not share else sealed and Fraction(failed, total) > Fraction(share)
    assert Tolerance(fraction=float(share)).exceeded(failed, total, sealed=sealed) is expected


@given(failed=COUNTS, more=COUNTS, count=COUNTS, sealed=st.booleans())
def test_a_count_is_judged_at_once(failed: int, more: int, count: int, sealed: bool) -> None:
    """SCAT-10: also before anybody knows how many items there are."""
    for total in (failed + more, None):
        assert Tolerance(count=count).exceeded(failed, total, sealed=sealed) is (failed > count)


@given(failed=COUNTS, more=COUNTS, count=COUNTS, share=PERCENT, sealed=st.booleans())
def test_exceeding_either_part_is_too_much(failed: int, more: int, count: int, share: Decimal, sealed: bool) -> None:
    """SCAT-09."""
    both = Tolerance(count=count, fraction=float(share))
    parts = (Tolerance(count=count), Tolerance(fraction=float(share)))
    total = failed + more
    assert both.exceeded(failed, total, sealed=sealed) is any(
        each.exceeded(failed, total, sealed=sealed) for each in parts
    )


@given(failed=COUNTS, extra=COUNTS, more=COUNTS, count=st.none() | COUNTS, share=st.none() | PERCENT)
def test_more_failures_are_never_less_than_too_much(
    failed: int, extra: int, more: int, count: int | None, share: Decimal | None
) -> None:
    """SCAT-11: among equally many items it never flips back."""
    tolerance = Tolerance(count=count, fraction=None if share is None else float(share))
    total = failed + extra + more
    if tolerance.exceeded(failed, total, sealed=True):
        assert tolerance.exceeded(failed + extra, total, sealed=True)


@pytest.mark.parametrize("value", USABLE, ids=repr)
def test_what_can_be_tolerated(value: Any) -> None:
    """SCAT-09."""
    assert list(misuse_of(value)) == []
    assert isinstance(tolerance_of(value), Tolerance)


@pytest.mark.parametrize("value", [0, 0.0, False])
def test_zero_tolerates_nothing(value: float) -> None:
    """SCAT-09: 0 is no fraction that is judged later."""
    assert tolerance_of(value) == NO_FAILURE


@pytest.mark.parametrize("value", [1, 3, True, 10**30])
def test_a_whole_number_could_be_either(value: int) -> None:
    """SCAT-09: it asks for a count or a fraction."""
    (message,) = misuse_of(value)
    assert message == (
        f"tolerate={value!r}: for a number of items say Tolerance(count={int(value)}), for a share of all of them give"
        " a fraction such as 0.02"
    )


@pytest.mark.parametrize("value", [-1, -0.1, 1.5, math.nan, math.inf, "2%", Decimal("0.1"), [0.1]], ids=repr)
def test_what_is_no_tolerance(value: object) -> None:
    """SCAT-09."""
    (message,) = misuse_of(value)
    assert message.endswith("give a fraction from 0 to 1, or Tolerance(count=..., fraction=...)")


@pytest.mark.parametrize(
    ("tolerance", "expected"),
    [
        (Tolerance(), ["Tolerance() does not say how much: give count= or fraction="]),
        (Tolerance(count=-1), ["Tolerance(count=-1): give a whole number of 0 or more"]),
        (Tolerance(count=untyped(True)), ["Tolerance(count=True): give a whole number of 0 or more"]),
        (Tolerance(count=untyped(1.0)), ["Tolerance(count=1.0): give a whole number of 0 or more"]),
        (
            Tolerance(count=untyped("1"), fraction=2),
            [
                "Tolerance(count='1'): give a whole number of 0 or more",
                "Tolerance(fraction=2): give a number from 0 to 1",
            ],
        ),
        (Tolerance(fraction=math.nan), ["Tolerance(fraction=nan): give a number from 0 to 1"]),
    ],
    ids=repr,
)
def test_what_is_wrong_with_a_tolerance(tolerance: Tolerance, expected: list[str]) -> None:
    """SCAT-09: all of it at once."""
    assert list(tolerance.problems()) == expected
    assert list(misuse_of(tolerance)) == expected


def test_a_tolerance_is_a_value() -> None:
    """SCAT-09."""
    assert {Tolerance(count=1), Tolerance(count=1)} == {Tolerance(count=1)}
    with pytest.raises(FrozenInstanceError):
        untyped(Tolerance(count=1)).count = 2
    with pytest.raises(TypeError):
        untyped(Tolerance)(1)


def test_progress() -> None:
    """SCAT-23: done and failed, of all; 0 when there are none."""
    counts = ScatterCounts(total=1000, done=450, failed=50, pending=480, running=20, rate=41.2)
    assert counts.progress == 50.0
    assert ScatterCounts().progress == 0.0
    assert ScatterCounts(total=3, done=1, skipped=2, sealed=True).progress == pytest.approx(100 / 3)
    assert not counts.sealed
    assert counts.eta is None


@given(parts=st.lists(st.integers(0, 50), min_size=7, max_size=7), off=st.integers(-5, 5))
def test_the_parts_add_up(parts: list[int], off: int) -> None:
    """SCAT-23."""
    names = ("done", "failed", "pending", "running", "waiting", "skipped", "cancelled")
    given_: dict[str, Any] = dict(zip(names, parts, strict=True))
    total = sum(parts) + off
    if off:
        with pytest.raises(ValueError, match=f"the parts of {total} items are"):
            ScatterCounts(total=total, **given_)
    else:
        assert 0 <= ScatterCounts(total=total, **given_).progress <= 100


def test_no_part_is_negative() -> None:
    """SCAT-23."""
    with pytest.raises(ValueError, match="the parts of 0 items are 1, -1"):
        ScatterCounts(total=0, done=1, failed=-1)
