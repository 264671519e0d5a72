"""How many items of a scatter may fail for good before the asset fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How many items of a scatter may fail for good; exceeding either part fails the asset.

    Attributes:
        count: The most items, judged whenever one fails for good.
        fraction: The largest share of all items, from 0 to 1. It is judged once all items are read, since only then is
            it known of how many; 0 is judged at once.

    Example:
        >>> @pipe.scatter(image_urls, tolerate=Tolerance(count=10, fraction=0.02))
        ... async def images(url: str) -> Image: ...
    """

    count: int | None = None
    fraction: float | None = None

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values, one sentence each."""
        count, fraction = self.count, self.fraction
        if count is None and fraction is None:
            yield "Tolerance() does not say how much: give count= or fraction="
        if count is not None and not _is_count(count):
            yield f"Tolerance(count={count!r}): give a whole number of 0 or more"
        if fraction is not None and not _is_fraction(fraction):
            yield f"Tolerance(fraction={fraction!r}): give a number from 0 to 1"

    def exceeded(self, failed: int, total: int | None, *, sealed: bool) -> bool:
        """Tell whether too many items failed; once true it stays so while `failed` grows.

        Args:
            failed: Items that failed for good.
            total: Distinct items, as far as they are read; None where that is not known.
            sealed: Whether all items are read, so that `total` is final.
        """
        if not failed:
            return False
        count, fraction = self.count, self.fraction
        if (count is None and fraction is None) or (count is not None and failed > count) or fraction == 0:
            return True
        # A quotient and a literal are both the floats nearest to what they mean; a product would not be.
        return fraction is not None and sealed and bool(total) and failed / (total or 1) > fraction


ToleranceOption: TypeAlias = float | Tolerance
NO_FAILURE = Tolerance(count=0)


def misuse_of(value: object) -> Iterator[str]:
    """Yield what is wrong with the option `tolerate`, one sentence each, without its full stop."""
    if isinstance(value, Tolerance):
        yield from value.problems()
    elif isinstance(value, int) and value >= 1:
        count = f"for a number of items say Tolerance(count={int(value)})"
        yield f"tolerate={value!r}: {count}, for a share of all of them give a fraction such as 0.02"
    elif not _is_fraction(value):
        yield f"tolerate={value!r}: give a fraction from 0 to 1, or Tolerance(count=..., fraction=...)"


def tolerance_of(value: ToleranceOption) -> Tolerance:
    """Return a usable option as the tolerance that it stands for."""
    if isinstance(value, Tolerance):
        return value
    return Tolerance(fraction=float(value)) if value else NO_FAILURE


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1
