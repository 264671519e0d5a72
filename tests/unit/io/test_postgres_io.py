"""Values in the store's database: what only this manager does."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pydantic_core import from_json

from flowstone_async.clock import SystemClock
from flowstone_async.errors import ConfigError, StorageError, StoreUnavailable
from flowstone_async.io import chunks
from flowstone_async.io.base import Stored, ValueRef
from flowstone_async.io.codec import codec_for
from flowstone_async.io.postgres import Postgres
from flowstone_async.store.memory import MemoryStore
from flowstone_async.store.protocol import Values
from tests.unit.io.refs import committed, numbers, ref_of

MEGABYTE = 1024 * 1024


@pytest.fixture
def values() -> Values:
    return MemoryStore(SystemClock()).values


@pytest.fixture
def postgres(values: Values) -> Postgres:
    return Postgres().bound(values, durable=True)


def payload_of(stored: Stored) -> bytes:
    assert stored.payload is not None
    return stored.payload


def test_a_memory_store_is_refused(values: Values) -> None:
    with pytest.raises(ConfigError, match="memory store") as caught:
        Postgres().bound(values, durable=False)

    assert "io.Memory" in str(caught.value.hint)


async def test_it_is_of_no_use_without_an_engine() -> None:
    with pytest.raises(ConfigError, match="engine"):
        await Postgres().store(ref_of(int), 1)


@pytest.mark.parametrize(
    "table",
    ["", "a b", "users;drop table x", 'a"b', "a.b.c", ".a", "a.", "é", "a-b", "users\n", "a" * 64, "x\0", "$1"],
)
def test_a_table_name_is_letters_digits_and_underscores_with_one_dot(table: str) -> None:
    with pytest.raises(ConfigError, match="table"):
        Postgres(table)


@pytest.mark.parametrize("table", ["users", "analytics.users", "A_1.b_2"])
def test_a_table_is_part_of_the_name(table: str) -> None:
    assert Postgres(table).name == f"postgres:{table}"


async def test_a_store_without_tables_says_so(values: Values) -> None:
    with pytest.raises(ConfigError, match="tables"):
        await Postgres("users").bound(values, durable=True).store(ref_of(int), 1)


async def test_a_stream_is_refused_by_a_table(values: Values) -> None:
    postgres = Postgres("users").bound(values, durable=True)

    with pytest.raises(StorageError, match="stream"):
        await postgres.store(ref_of(int, stream=True), numbers(3))


async def test_a_small_payload_is_plain_json(postgres: Postgres) -> None:
    stored = await postgres.store(ref_of(dict[str, int]), {"a": 1})

    assert from_json(payload_of(stored)) == {"a": 1}


async def test_a_payload_above_64_kilobytes_is_compressed(postgres: Postgres, values: Values) -> None:
    plain = Postgres(compress=False).bound(values, durable=True)
    text = "x" * 100_000

    packed, unpacked = await postgres.store(ref_of(str), text), await plain.store(ref_of(str), text)

    assert len(payload_of(packed)) < 2_000
    assert len(payload_of(unpacked)) == packed.size == unpacked.size
    assert packed.fingerprint == unpacked.fingerprint
    for manager in (postgres, plain):
        for stored in (packed, unpacked):
            assert await manager.load(committed(ref_of(str), stored), None) == text


async def test_a_payload_at_hand_is_not_read_again(postgres: Postgres) -> None:
    ref = ref_of(int)

    assert await postgres.load(committed(ref, await postgres.store(ref, 7)), None) == 7


async def test_what_fails_its_checksum_is_an_error(postgres: Postgres) -> None:
    ref = ref_of(int)
    stored = await postgres.store(ref, 7)

    with pytest.raises(StorageError, match="checksum") as caught:
        await postgres.load(committed(ref, stored, b" 8"), None)

    assert "force=True" in str(caught.value)
    assert stored.location in caught.value.message


async def test_what_cannot_be_unpacked_is_an_error(postgres: Postgres) -> None:
    with pytest.raises(StorageError, match="damaged") as caught:
        await postgres.load(ref_of(int)._replace(payload=b"Zrubbish"), None)

    assert "force=True" in str(caught.value)


async def test_a_value_over_the_limit_is_refused(values: Values) -> None:
    postgres = Postgres(max_bytes=1000).bound(values, durable=True)
    await postgres.store(ref_of(str), "x" * 900)

    with pytest.raises(StorageError, match="max_bytes=1000") as caught:
        await postgres.store(ref_of(str), "x" * 1000)

    assert "io.Files" in str(caught.value.hint)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_bytes"):
        Postgres(max_bytes=0)


async def test_a_large_value_warns_once_for_each_asset(
    postgres: Postgres, values: Values, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="flowstone"):
        await postgres.store(ref_of(str), "x" * (MEGABYTE - 10))
        assert caplog.messages == []
        for asset in ("orders", "orders", "lines"):
            await postgres.store(ref_of(str, asset=asset), "x" * 2 * MEGABYTE)

    assert len(caplog.messages) == 2
    assert "sales.orders" in caplog.messages[0]
    assert "io.Files" in caplog.messages[0]
    assert "2.0 MiB" in caplog.messages[0]


async def kept(values: Values, ref: ValueRef) -> list[bytes]:
    return [chunk async for chunk in values.chunks(ref.materialization)]


async def test_a_stream_is_one_chunk_for_a_thousand_items(postgres: Postgres, values: Values) -> None:
    ref = ref_of(int, stream=True)

    stored = await postgres.store(ref, numbers(2500))

    assert len(await kept(values, ref)) == 3
    assert stored.payload is None
    assert stored.size == sum(
        len(codec_for(int).encode_chunk(list(range(a, min(a + 1000, 2500))))) for a in (0, 1000, 2000)
    )


async def test_a_stream_of_large_items_is_written_as_they_come(postgres: Postgres, values: Values) -> None:
    ref = ref_of(str, stream=True)
    before: list[int] = []

    async def texts() -> AsyncGenerator[str]:
        for _ in range(20):
            yield os.urandom(50_000).hex()
            before.append(len(await kept(values, ref)))

    await postgres.store(ref, texts())

    assert before[:3] == [0, 0, 1]
    assert before[-1] >= 5
    assert all(len(chunk) < 500_000 for chunk in await kept(values, ref))


@pytest.mark.parametrize("change", ["damaged", "swapped", "missing", "none left"])
async def test_a_changed_stream_is_found_out(postgres: Postgres, values: Values, change: str) -> None:
    ref = ref_of(int, stream=True)
    ref = committed(ref, await postgres.store(ref, numbers(3000)))
    frames = await kept(values, ref)
    await values.delete([ref.materialization])
    match change:
        case "damaged":
            frames[1] = frames[1][:50] + bytes([frames[1][50] ^ 1]) + frames[1][51:]
        case "swapped":
            frames[0], frames[1] = frames[1], frames[0]
        case "missing":
            del frames[2]
        case _:
            frames = []
    for no, frame in enumerate(frames):
        await values.append_chunk(ref.materialization, no, frame)

    with pytest.raises(StorageError, match="stream") as caught:
        [item async for item in await postgres.load(ref, None)]

    assert "force=True" in str(caught.value)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_PAUSES", (0, 0))


@pytest.mark.usefixtures("impatient")
async def test_a_chunk_that_could_not_be_written_is_tried_again(
    postgres: Postgres, values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = ref_of(int, stream=True)
    write = values.append_chunk
    tried: list[int] = []

    async def unsteady(materialization: str, no: int, data: bytes) -> None:
        tried.append(no)
        if tried.count(no) < 3:
            raise StoreUnavailable("gone for a moment")
        await write(materialization, no, data)

    monkeypatch.setattr(values, "append_chunk", unsteady)
    stored = await postgres.store(ref, numbers(1500))

    assert tried == [0, 0, 0, 1, 1, 1]
    assert [item async for item in await postgres.load(committed(ref, stored), None)] == list(range(1500))


@pytest.mark.usefixtures("impatient")
async def test_a_chunk_that_cannot_be_written_ends_the_stream(
    postgres: Postgres, values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = ref_of(int, stream=True)
    write = values.append_chunk
    ended: list[bool] = []

    async def broken(materialization: str, no: int, data: bytes) -> None:
        if no == 1:
            raise StoreUnavailable("gone for good")
        await write(materialization, no, data)

    async def items() -> AsyncGenerator[int]:
        try:
            async for no in numbers(5000):
                yield no
        finally:
            ended.append(True)

    monkeypatch.setattr(values, "append_chunk", broken)
    with pytest.raises(StoreUnavailable):
        await postgres.store(ref, items())

    assert ended == [True]
    assert await kept(values, ref) == []


async def test_a_failure_to_clean_up_does_not_hide_why_the_stream_ended(
    postgres: Postgres, values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> AsyncGenerator[int]:
        yield 1
        monkeypatch.setattr(values, "delete", unavailable)
        raise LookupError("no more pages")

    async def unavailable(_: Any) -> None:
        raise StoreUnavailable("gone")

    with pytest.raises(LookupError):
        await postgres.store(ref_of(int, stream=True), broken())


async def test_a_chunk_over_the_limit_is_refused(values: Values) -> None:
    postgres = Postgres(max_bytes=1000).bound(values, durable=True)
    ref = ref_of(str, stream=True)

    async def items() -> AsyncGenerator[str]:
        yield "x" * 2000

    with pytest.raises(StorageError, match="chunk 0"):
        await postgres.store(ref, items())
    assert await kept(values, ref) == []


def test_pickles_need_a_key(values: Values) -> None:
    for none in (b"", ()):
        with pytest.raises(ConfigError, match="key"):
            Postgres(format="pickle").signed(none)
    with pytest.raises(ConfigError, match="key"):
        Postgres(format="pickle").bound(values, durable=True).supports(int)


def test_json_needs_no_key() -> None:
    assert Postgres().signed(()).supports(int)


async def test_a_pickle_signed_by_somebody_else_is_not_read(values: Values) -> None:
    ours = Postgres(format="pickle").signed(b"ours").bound(values, durable=True)
    theirs = Postgres(format="pickle").signed([b"theirs"]).bound(values, durable=True)
    turned = Postgres(format="pickle").signed([b"new", b"ours"]).bound(values, durable=True)
    ref = ref_of(int)
    ref = committed(ref, await ours.store(ref, 7))

    assert await turned.load(ref, None) == 7
    with pytest.raises(StorageError, match="sign"):
        await theirs.load(ref, None)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="yaml"):
        Postgres(format="yaml")  # type: ignore[arg-type]
