"""Which steps share a batch, in what order their keys are locked, and what survives the way to the server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.errors import StorageError
from flowstone_async.store.postgres import batch as batches
from flowstone_async.store.postgres.batch import Batch
from flowstone_async.store.postgres.ledger import DrivenRun
from flowstone_async.store.postgres.step import EVENTS_PER_ROW, PendingStep, event_rows
from flowstone_async.store.records import Advance, RunDone
from flowstone_async.types import AssetKey, new_id
from tests.contract.builders import completed, done, event, key, materialization, run_record, source, state_of
from tests.postgres.conftest import Opened

NUMBERS, TOTAL = key("numbers"), key("total")


def pending(run_id: str | None = None, *, fence: int = 1, held: Iterable[AssetKey] = (), **parts: Any) -> PendingStep:
    run_id = run_id or new_id()
    return PendingStep(
        Advance(run_id=run_id, fence=fence, **parts), DrivenRun("sales", "w", held), asyncio.Future(loop=LOOP)
    )


LOOP = asyncio.new_event_loop()


def added(*steps: PendingStep) -> list[bool]:
    batch = Batch()
    return [batch.add(step) for step in steps]


def columns(*steps: PendingStep) -> dict[str, list[str]]:
    """Return the columns that a batch sends, by name of the parameter."""
    batch = Batch()
    assert all(batch.add(step) for step in steps)
    sent: dict[str, list[str]] = {}
    for _, names, leading, rows in batch_rows(batch):
        sent.update(zip(names, map(list, (*leading, *zip(*rows, strict=True))), strict=True))
    return sent


def batch_rows(batch: Batch) -> list[Any]:
    batch.statement(None)
    return [part for part in batch._rows() if part[3]]


def test_steps_of_different_runs_share_a_batch() -> None:
    assert added(pending(claims=(NUMBERS,)), pending(claims=(TOTAL,))) == [True, True]


def test_steps_of_one_run_that_goes_on_share_a_batch() -> None:
    run = new_id()

    assert added(pending(run, events=(event(1),)), pending(run, events=(event(2),))) == [True, True]


def test_a_run_that_begins_or_ends_is_alone_with_that() -> None:
    run = new_id()
    begins = pending(run, create=run_record("w", id=run), events=(event(1),))
    goes, ends = pending(run, events=(event(2),)), pending(run, finish=RunDone(state="succeeded"))

    assert added(begins, goes) == [True, False]
    assert added(goes, ends) == [True, False]
    assert added(ends, goes) == [True, False]


def test_two_owners_of_one_run_do_not_share_a_batch() -> None:
    run = new_id()

    assert added(pending(run, fence=1), pending(run, fence=2)) == [True, False]


def test_claims_of_one_key_share_its_row() -> None:
    first, second = pending(claims=(NUMBERS, TOTAL)), pending(claims=(NUMBERS,))

    sent = columns(first, second)

    assert sent["key_asset"] == ["numbers", "total"]
    assert sent["key_run"] == ["1", "1"]
    assert sent["key_does"] == ["C", "c"]


def test_a_claim_does_not_share_with_the_release_of_the_key() -> None:
    ended = done(NUMBERS, "failed")
    others: list[dict[str, Any]] = [{"done": (ended,)}, {"releases": (NUMBERS,)}]
    for other in others:
        assert added(pending(**other), pending(claims=(NUMBERS,))) == [True, False]
        assert added(pending(claims=(NUMBERS,)), pending(**other)) == [True, False]


def test_a_run_that_ends_releases_what_it_holds_and_does_not_name() -> None:
    held = [key("numbers", f"i:{no}") for no in range(3)]
    step = pending(held=held, done=(done(held[0], "failed"),), finish=RunDone(state="failed"))

    sent = columns(step)

    assert dict(zip(sent["key_partition"], sent["key_does"], strict=True)) == {"i:0": "o", "i:1": "r", "i:2": "r"}


@pytest.mark.parametrize(
    ("parts", "does"),
    [
        ({"done": (done(NUMBERS, "failed"),)}, "o"),
        ({"done": (done(NUMBERS, "skipped", claimed=False),)}, "u"),
        ({"done": (done(NUMBERS, "failed"),), "claims": (NUMBERS,)}, "O"),
        ({"done": (done(NUMBERS, "skipped", claimed=False),), "claims": (NUMBERS,)}, "U"),
        ({"releases": (NUMBERS,), "claims": (NUMBERS,)}, "R"),
        ({"done": (done(NUMBERS, "failed"),), "releases": (NUMBERS,)}, "o"),
        ({"claims": (NUMBERS, NUMBERS)}, "c"),
    ],
)
def test_a_key_has_one_row_whatever_a_step_does_with_it(parts: dict[str, Any], does: str) -> None:
    assert columns(pending(**parts))["key_does"] == [does]


def test_a_key_cannot_end_twice() -> None:
    with pytest.raises(RuntimeError, match="twice"):
        pending(done=(done(NUMBERS, "failed"), done(NUMBERS, "skipped")))


def test_a_batch_is_full_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 100)
    heavy = Batch()
    heavy.add(pending(done=(completed(materialization(NUMBERS, new_id()), payload=b"x" * 100),)))
    assert heavy.is_full
    many = Batch()
    for no in range(batches.MOST_STEPS):
        assert not many.is_full
        many.add(pending(claims=(key("numbers", f"i:{no}"),)))
    assert many.is_full


def test_steps_that_write_to_tables_are_by_themselves() -> None:
    plain = pending(claims=(TOTAL,))
    table = pending(done=(completed(materialization(NUMBERS, new_id()), payload=b"x", table="figures"),))

    assert added(plain, table) == [True, False]
    assert added(table, plain) == [True, False]


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
KEYS = st.builds(AssetKey, NAMES, NAMES, NAMES, NAMES)


@given(st.lists(st.sets(KEYS, max_size=4), min_size=1, max_size=6))
def test_keys_are_sent_once_each_in_the_order_of_the_primary_key(claims: list[set[AssetKey]]) -> None:
    batch = Batch()
    for wanted in claims:
        batch.add(pending(claims=tuple(wanted)))
    batch.statement(None)
    names = [entry.row.name for entry in batch._sorted]

    assert names == sorted(set(names))
    assert set(names) == {(k.pipeline, k.asset, k.io, k.partition) for wanted in claims for k in wanted}
    # Postgres compares bytes of UTF-8, Python code points: the same order.
    assert names == sorted(names, key=lambda name: tuple(part.encode() for part in name))


@given(st.integers(0, 3000), st.sets(st.integers(1, 3000), max_size=5))
def test_event_rows_hold_every_event_once_without_a_gap_inside(count: int, gaps: set[int]) -> None:
    numbers = [no for no in range(1, count + 1) if no not in gaps]
    rows = list(event_rows([event(no) for no in numbers]))

    assert list(itertools.chain.from_iterable(range(first, first + size) for first, size, _ in rows)) == numbers
    assert all(size <= EVENTS_PER_ROW for _, size, _ in rows)


@given(st.permutations(list(batches._SEPARATORS)))
def test_a_separator_is_one_that_no_value_holds(order: list[str]) -> None:
    batch = Batch()
    batch.add(pending(claims=(key("".join(order[:-1])),)))
    _, arguments = batch.statement(None)

    assert order[-1] in arguments


def test_a_step_that_holds_every_separator_is_refused() -> None:
    batch = Batch()
    batch.add(pending(claims=(key("".join(batches._SEPARATORS)),)))

    with pytest.raises(StorageError):
        batch.statement(None)


MARKS = ["", "=", ",", ";", "\x1e", "\x1f", "\x1d\x1f", "\n", "\t", "\ue000", " "]
STRANGE = [*MARKS, "NULL", "'", '"', "\\", "{}", "é", "😀"]


@pytest.mark.parametrize("text", STRANGE, ids=ascii)
async def test_texts_come_back_as_they_were_alone_and_among_others(opened: Opened, text: str) -> None:
    names = [AssetKey("sales", f"a{text}", text, text), AssetKey("sales", f"a{text}", f"{text}x", text)]
    drives = [await opened.start(name, partition=text) for name in names]
    made = [
        materialization(
            name,
            drive.id,
            fingerprint=text,
            version=text,
            code_hash=text,
            manager=text,
            location=text,
            checksum=text,
            host=text,
            metadata={text: [text]},
            inputs=(source(AssetKey(text, text, text, text), text),),
        )
        for name, drive in zip(names, drives, strict=True)
    ]
    others = [await opened.start() for _ in range(3)]
    first = await drives[0].advance(done=(completed(made[0], payload=text.encode()),))
    second, *_ = await asyncio.gather(
        drives[1].advance(done=(completed(made[1], payload=b""),)),
        *(drive.advance("asset.started") for drive in others),
    )

    assert (await state_of(opened.store, names[0])).current == made[0]._replace(committed_at=first.at)
    assert (await state_of(opened.store, names[1])).current == made[1]._replace(committed_at=second.at)
    assert await opened.store.values.payload(made[0].id) == text.encode()
    assert await opened.store.values.payload(made[1].id) == b""
    for drive in drives:
        run = await opened.store.run(drive.id)
        assert run is not None
        assert run.partition == text


async def test_payloads_that_share_a_batch_are_told_apart(opened: Opened) -> None:
    names = [key("numbers", f"i:{no}") for no in range(40)]
    drives = [await opened.start(name) for name in names]
    payloads: list[bytes | None] = [None if no % 5 == 0 else bytes([no]) * (no % 7) * 100 for no in range(40)]
    made = [materialization(name, drive.id) for name, drive in zip(names, drives, strict=True)]

    await asyncio.gather(
        *(
            drive.advance(done=(completed(one, payload=payload),))
            for drive, one, payload in zip(drives, made, payloads, strict=True)
        )
    )

    assert [await opened.store.values.payload(one.id) for one in made] == payloads
