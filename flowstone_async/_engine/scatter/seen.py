"""Which results of a scatter were given to the one that follows it: a bit for each, and next to nothing once stored."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from flowstone_async.store.batches import SPLIT
from flowstone_async.store.scatters import Page, ScatterRecord


class Seen:
    """Positions, a bit for each: an eighth of a byte for an item, and next to nothing when it is stored.

    Args:
        base: All positions before it are in; a multiple of 8.
        bits: Those from there on.
    """

    def __init__(self, base: int = 0, bits: bytes = b"") -> None:
        self._base, self._bits = base, bytearray(bits)

    def __contains__(self, position: int) -> bool:
        byte, bit = divmod(position - self._base, 8)
        return byte < 0 or (byte < len(self._bits) and bool(self._bits[byte] >> bit & 1))

    def add(self, position: int) -> None:
        """Let a position be in."""
        byte, bit = divmod(position - self._base, 8)
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte + 1 - len(self._bits)))
        if byte >= 0:
            self._bits[byte] |= 1 << bit

    def update(self, positions: Iterable[int]) -> None:
        """Let positions be in."""
        for position in positions:
            self.add(position)

    def first_missing(self) -> int:
        """Return the first position that is not in."""
        self._trim()
        first = self._bits[0] if self._bits else 0
        return self._base + next(bit for bit in range(8) if not first >> bit & 1)

    def _trim(self) -> None:
        full = len(self._bits) - len(self._bits.lstrip(b"\xff"))
        if full:
            del self._bits[:full]
            self._base += 8 * full

    def stored(self) -> dict[str, object]:
        """Return them as JSON-compatible values."""
        self._trim()
        return {"base": self._base, "seen": base64.b64encode(zlib.compress(bytes(self._bits), 1)).decode()}

    @classmethod
    def restored(cls, facts: Mapping[str, Any]) -> Seen:
        """Return what `stored` described."""
        return cls(facts["base"], zlib.decompress(base64.b64decode(facts["seen"])))


class Given:
    """Which results of a scatter need not be given any more.

    Results are known by their positions. That of a batch which left another is far above all others: it is known by its
    number, which is among those of the batches that were read.

    Args:
        stored: What `stored` said; None if there is none yet.
        batches: Whether they are of batches.
    """

    def __init__(self, stored: Mapping[str, Any] | None, *, batches: bool) -> None:
        self._read = Seen() if stored is None else Seen.restored(stored)
        left = None if stored is None else stored.get("left")
        self._numbers = Seen() if left is None else Seen.restored(left)
        self._left: int = 0 if left is None else left["count"]
        self._batches = batches

    def has(self, position: int, number: int | None) -> bool:
        """Tell whether a result is among them.

        Args:
            position: Its position.
            number: Of a batch that left another, its number.
        """
        if position < SPLIT:
            return position in self._read
        assert number is not None  # noqa: S101 - for the type checker: such a batch has one
        return number in self._numbers

    def add(self, position: int, number: int | None) -> None:
        """Let a result be among them; arguments as of `has`."""
        if position < SPLIT:
            self._read.add(position)
        elif not self.has(position, number):
            self._numbers.add(number or 0)
            self._left += 1

    def add_page(self, page: Page) -> None:
        """Hear of a page that items were read into: what of it has no result of its own, and which numbers it has."""
        self._read.update(page.first + place for place in page.duplicates)
        if self._batches and page.before not in self._numbers:
            self._numbers.update(range(page.before, page.before + page.size - len(page.duplicates)))

    def first_missing(self) -> int:
        """Return the first position that is missing among those that were read."""
        return self._read.first_missing()

    def has_all_that_left(self, scatter: ScatterRecord) -> bool:
        """Tell whether no batch is missing that left another, of a scatter that is closed."""
        return self._left >= scatter.total - scatter.read

    def stored(self) -> dict[str, object]:
        """Return them as JSON-compatible values."""
        if not self._batches:
            return self._read.stored()
        return {**self._read.stored(), "left": {"count": self._left, **self._numbers.stored()}}
