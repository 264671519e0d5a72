"""Putting items together in batches, as a function of items and instants (BATCH-02 to BATCH-05, BATCH-07)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from flowstone_async._engine.scatter.batching import BatchItems, carried, restored
from flowstone_async._engine.scatter.composing import Composer, Entry, Limits

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
ITEMS = BatchItems(int, None)


class Read(NamedTuple):
    """An item that was read, some seconds after the one before."""

    group: str
    size: int
    after: int


READS = st.lists(st.builds(Read, st.sampled_from("abcd"), st.integers(0, 12), st.integers(0, 5)), max_size=60)
LIMITS = st.builds(
    Limits,
    max_items=st.integers(1, 6),
    max_bytes=st.none() | st.integers(1, 20),
    max_wait=st.none() | st.builds(lambda seconds: timedelta(seconds=seconds), st.integers(1, 12)),
    groups=st.integers(1, 3),
)


def entry(no: int, read: Read) -> Entry:
    return Entry(no, no, f"h{no}", read.size, read.group)


def composed(reads: Sequence[Read], limits: Limits, *, restarts: frozenset[int] = frozenset()) -> list[list[Entry]]:
    """Return the batches of all items; the process ends and another goes on before those at `restarts`."""
    composer, now, closed = Composer(limits), BEGIN, list[list[Entry]]()
    for no, read in enumerate(reads):
        if no in restarts:
            composer = Composer(limits, restored(carried(composer.opened, ITEMS), ITEMS))
        now += timedelta(seconds=read.after)
        closed += map(list, composer.expire(now))
        closed += map(list, composer.add(entry(no, read), now))
        assert len(composer.opened) <= limits.groups
        opened = [each for batch in composer.opened for each in batch.entries]
        assert composer.hashes == {each.hash for each in opened}
        assert sorted(each.item for batch in (*closed, opened) for each in batch) == list(range(no + 1))
    closed += map(list, composer.end())
    assert not composer.opened
    return closed


@settings(deadline=None, max_examples=300)
@given(READS, LIMITS)
def test_every_item_is_in_one_batch_that_keeps_all_limits(reads: list[Read], limits: Limits) -> None:
    """BATCH-02, BATCH-03, BATCH-05: in the order of the source, and of one group; none is empty."""
    closed = composed(reads, limits)
    assert sorted(each.item for batch in closed for each in batch) == list(range(len(reads)))
    for batch in closed:
        assert 1 <= len(batch) <= limits.max_items
        assert [each.item for each in batch] == sorted(each.item for each in batch)
        assert len({each.group for each in batch}) == 1
        total = sum(each.size for each in batch)
        assert limits.max_bytes is None or total <= limits.max_bytes or len(batch) == 1
    for group in "abcd":
        order = [each.item for batch in closed for each in batch if each.group == group]
        assert order == sorted(order), "batches of a group are in the order of the source"


@settings(deadline=None, max_examples=200)
@given(READS, LIMITS, st.frozensets(st.integers(0, 60)))
def test_batches_are_the_same_wherever_a_process_ends(
    reads: list[Read], limits: Limits, restarts: frozenset[int]
) -> None:
    """BATCH-07: what is open goes on as it was, with the instants since which it waits."""
    whole, broken = composed(reads, limits), composed(reads, limits, restarts=restarts)
    assert [[each.item for each in batch] for batch in broken] == [[each.item for each in batch] for batch in whole]


@settings(deadline=None)
@given(READS, st.integers(1, 6))
def test_without_other_limits_all_but_the_last_are_full(reads: list[Read], most: int) -> None:
    """BATCH-02: whatever the pages of the source; fewer items than `max_items` make one batch, and no items none."""
    plain = [Read("", read.size, read.after) for read in reads]
    sizes = [len(batch) for batch in composed(plain, Limits(most))]
    full, rest = divmod(len(reads), most)
    assert sizes == [most] * full + [rest] * bool(rest)


@settings(deadline=None)
@given(READS, st.integers(1, 20))
def test_a_batch_is_closed_for_its_size_only_if_the_next_item_would_not_fit(reads: list[Read], most: int) -> None:
    """BATCH-03."""
    closed = composed([Read("", read.size, 0) for read in reads], Limits(1000, most))
    for batch, following in zip(closed, closed[1:], strict=False):
        total = sum(each.size for each in batch)
        assert total >= most or total + following[0].size > most


def batches(*entries: Entry, limits: Limits) -> list[list[int]]:
    composer = Composer(limits)
    closed = [batch for each in entries for batch in composer.add(each, BEGIN)]
    return [[each.item for each in batch] for batch in (*closed, *composer.end())]


def sized(*sizes: float) -> list[Entry]:
    return [Entry(no, None, None, size) for no, size in enumerate(sizes)]


def test_an_item_that_is_too_large_alone_is_a_batch_by_itself() -> None:
    """BATCH-03."""
    limits = Limits(10, 10)
    assert batches(*sized(3, 3, 50, 0, 4), limits=limits) == [[0, 1], [2], [3, 4]]
    assert batches(*sized(50), limits=limits) == [[0]]
    assert batches(*sized(5, 5, 1), limits=limits) == [[0, 1], [2]]
    assert batches(*sized(4, 6.5), limits=limits) == [[0], [1]]


def test_the_oldest_group_is_closed_for_another_one() -> None:
    """BATCH-05: and a group that comes again is opened anew."""
    groups = [Entry(no, None, None, 0, group) for no, group in enumerate("abacba")]
    assert batches(*groups, limits=Limits(10, groups=2)) == [[0, 2], [1, 4], [3], [5]]
    assert batches(*groups, limits=Limits(1, groups=1)) == [[no] for no in range(6)]


def test_a_batch_waits_from_its_first_item_on() -> None:
    """BATCH-04: not from the last; and the next one is that of the group which came first."""
    composer = Composer(Limits(10, max_wait=timedelta(seconds=10)))
    assert composer.due is None
    at = [BEGIN + timedelta(seconds=seconds) for seconds in range(30)]
    for no, (group, instant) in enumerate((("a", at[0]), ("b", at[3]), ("a", at[9]))):
        assert not list(composer.add(Entry(no, None, None, 0, group), instant))
    assert composer.due == at[10]
    assert not list(composer.expire(at[9]))
    assert [[each.item for each in batch] for batch in composer.expire(at[10])] == [[0, 2]]
    assert composer.due == at[13]
    assert [[each.item for each in batch] for batch in composer.expire(at[29])] == [[1]]
    assert composer.due is None


def test_what_is_open_is_carried_over_with_its_keys() -> None:
    """READ-07: of every kind, tuples too."""
    composer: Composer = Composer(Limits(10, 100))
    keys: list[Any] = ["k", ("a", 1), 7, None]
    for no, key in enumerate(keys):
        assert not list(composer.add(Entry(no, key, f"h{no}", 1.5, f"g{no % 2}"), BEGIN))
    found = restored(carried(composer.opened, ITEMS), ITEMS)
    assert [(batch.group, batch.since, batch.size) for batch in found] == [("g0", BEGIN, 3), ("g1", BEGIN, 3)]
    assert [[each[:3] for each in batch.entries] for batch in found] == [
        [(0, "k", "h0"), (2, 7, "h2")],
        [(1, ("a", 1), "h1"), (3, None, "h3")],
    ]
    assert carried((), ITEMS) is None
    assert restored(None, ITEMS) == []
