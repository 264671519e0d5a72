"""Values that the store keeps itself: payloads committed with a record, and streams in chunks."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from flowstone_async.errors import ConfigError
from flowstone_async.store.protocol import Store
from tests.contract.builders import completed, identifier, key, materialization
from tests.contract.stores import Engine, Stores


async def read(store: Store, made: str) -> list[bytes]:
    return [chunk async for chunk in store.values.chunks(made)]


async def test_an_unknown_value_is_none_or_empty(store: Store) -> None:
    assert await store.values.payload(identifier()) is None
    assert await read(store, identifier()) == []


async def test_a_large_payload_comes_back_as_it_is(engine: Engine) -> None:
    name = key("numbers")
    drive = await engine.start(name)
    made = materialization(name, drive.id)
    payload = bytes(range(256)) * 8192

    await drive.advance(done=(completed(made, payload=payload),))

    assert await engine.store.values.payload(made.id) == payload


async def test_a_deleted_value_is_gone_and_its_record_stays(engine: Engine) -> None:
    names = [key("numbers", f"i:{no}") for no in range(3)]
    drive = await engine.start(*names)
    made = [materialization(name, drive.id) for name in names]
    await drive.advance(done=tuple(completed(one, payload=b"value") for one in made))

    await engine.store.values.delete([made[0].id, identifier(), made[1].id])
    await engine.store.values.delete([made[0].id])
    await engine.store.values.delete([])

    assert [await engine.store.values.payload(one.id) for one in made] == [None, None, b"value"]
    states = await engine.store.states(names)
    assert all(state.current is not None for state in states.values())


async def test_chunks_are_read_in_order_of_their_numbers(stores: Stores) -> None:
    writer, reader = await stores.engine(), await stores.engine()
    made = identifier()
    chunks = [bytes([no]) * (no * 100) for no in range(25)]
    for no in [3, 0, 24, *range(4, 24), 1, 2]:
        await writer.store.values.append_chunk(made, no, chunks[no])

    assert await read(reader.store, made) == chunks


async def test_chunks_may_be_written_at_once(store: Store) -> None:
    made = identifier()

    await asyncio.gather(*(store.values.append_chunk(made, no, str(no).encode()) for no in range(20)))

    assert await read(store, made) == [str(no).encode() for no in range(20)]


async def test_a_chunk_written_again_is_replaced(store: Store) -> None:
    made = identifier()
    await store.values.append_chunk(made, 0, b"first")
    await store.values.append_chunk(made, 1, b"second")

    await store.values.append_chunk(made, 0, b"again")

    assert await read(store, made) == [b"again", b"second"]


async def test_streams_are_kept_apart(store: Store) -> None:
    one, other = identifier(), identifier()
    await store.values.append_chunk(one, 0, b"one")
    await store.values.append_chunk(other, 0, b"other")

    await store.values.delete([one])

    assert (await read(store, one), await read(store, other)) == ([], [b"other"])


async def test_a_reader_may_stop_early(store: Store) -> None:
    made = identifier()
    for no in range(10):
        await store.values.append_chunk(made, no, bytes([no]))

    async with aclosing(store.values.chunks(made)) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            assert chunk == b"\x00"
            break

    assert len(await read(store, made)) == 10


async def test_readers_of_one_stream_do_not_disturb_each_other(store: Store) -> None:
    made = identifier()
    for no in range(10):
        await store.values.append_chunk(made, no, bytes([no]))

    streams = await asyncio.gather(*(read(store, made) for _ in range(5)))

    assert streams == [[bytes([no]) for no in range(10)]] * 5


async def test_tables_are_for_stores_that_have_them(engine: Engine) -> None:
    if engine.store.durable:
        await engine.store.values.prepare_table("figures")
        assert await engine.store.values.table_payload("figures", key("numbers")) is None
    else:
        with pytest.raises(ConfigError):
            await engine.store.values.prepare_table("figures")


async def test_a_table_holds_the_current_payload_of_each_key(engine: Engine) -> None:
    if not engine.store.durable:
        pytest.skip("a memory store has no tables")
    values, names = engine.store.values, [key("numbers", "i:1"), key("numbers", "i:2")]
    await values.prepare_table("analytics.figures")
    await values.prepare_table("analytics.figures")
    drive = await engine.start(*names)
    made = [materialization(name, drive.id) for name in names]
    await drive.advance(done=tuple(completed(one, payload=b"first", table="analytics.figures") for one in made))
    await drive.advance(claims=(names[0],))
    newer = materialization(names[0], drive.id)

    await drive.advance(done=(completed(newer, payload=b"second", table="analytics.figures"),))

    assert await values.table_payload("analytics.figures", names[0]) == (newer.id, b"second")
    assert await values.table_payload("analytics.figures", names[1]) == (made[1].id, b"first")
    await values.delete_from_table("analytics.figures", made[0].id, names[0])
    assert await values.table_payload("analytics.figures", names[0]) == (newer.id, b"second")
    await values.delete_from_table("analytics.figures", newer.id, names[0])
    await values.delete_from_table("analytics.figures", newer.id, names[0])
    assert await values.table_payload("analytics.figures", names[0]) is None


async def test_a_table_is_not_touched_by_a_stale_step(engine: Engine) -> None:
    if not engine.store.durable:
        pytest.skip("a memory store has no tables")
    name = key("numbers")
    await engine.store.values.prepare_table("figures")
    drive = await engine.start(name)
    made = materialization(name, drive.id)
    await drive.advance(done=(completed(made, payload=b"first", table="figures"),), claims=(name,))
    await engine.store.cancel(drive.id, (), ())

    await drive.advance(done=(completed(materialization(name, drive.id), payload=b"late", table="figures"),))

    assert await engine.store.values.table_payload("figures", name) == (made.id, b"first")
