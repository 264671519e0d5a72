"""What a worker gives to others of a chunk that is partly done (SCAT-16)."""

from __future__ import annotations

import pytest

from flowstone_async._engine.scatter.chunks import LocalChunk
from flowstone_async.store.crews import Gift
from flowstone_async.store.scatters import Chunk, Page


def chunk(done: int, size: int = 10, **changes: int) -> LocalChunk:
    """Return a chunk of one page; `done` has a bit for each item that has a result."""
    page = Page(0, 100, 100, size, frozenset(), b"", None)
    bits = done.to_bytes(2, "little")
    kept = Chunk("s", 100, alone=False, page=0, size=size, fence=3, done=bits, succeeded=done.bit_count())
    return LocalChunk(kept._replace(**changes), page, dict(enumerate(range(size))))


def test_the_last_items_are_given() -> None:
    made = chunk(0b0000000111)
    withheld = made.withhold(4)
    assert withheld is not None
    assert (withheld.gift, withheld.size) == (Gift(100, 3, 6), 4)
    assert [each.position for each in made.todo] == [105, 104, 103]


def test_what_has_a_result_is_not_cut_off() -> None:
    """Whoever takes what is cut off begins it anew: the chunk stays whole, as long as some of it is to be run here."""
    assert chunk(0b1000000000).withhold(4) is None
    assert chunk(0b0001000000).withhold(3) is not None, "it is before them"


def test_a_chunk_that_nobody_has_begun_goes_whole() -> None:
    made = chunk(0b1010101010)
    withheld = made.withhold(100)
    assert withheld is not None
    assert (withheld.gift, withheld.size, made.todo) == (Gift(100, 3, 0), 5, [])


@pytest.mark.parametrize("begun", [True, False])
def test_a_chunk_of_which_anything_ended_does_not_go_whole(*, begun: bool) -> None:
    """Its flush would come too late."""
    made = chunk(0b1010101010)
    todo = made.todo.pop()
    if not begun:
        made.succeed(todo.position, 1)
    assert made.withhold(100) is None


def test_bits_behind_the_end_are_none() -> None:
    """A chunk that is cut keeps as many bytes as it had."""
    withheld = chunk(0b1111111100000000, size=8).withhold(3)
    assert withheld is not None
    assert withheld.gift.keep == 5


def test_an_item_on_its_own_goes_whole_until_it_has_begun() -> None:
    """Whoever takes over from a dead worker has a chunk for each item; the others would get nothing of them."""
    made = chunk(0, size=1, alone=True)
    withheld = made.withhold(5)
    assert withheld is not None
    assert (withheld.gift, withheld.size) == (Gift(100, 3, 0, alone=True), 1)
    assert made.withhold(5) is None
