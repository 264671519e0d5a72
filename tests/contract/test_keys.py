"""What the store knows of asset keys: states in bulk, listings, durations, renaming."""

from __future__ import annotations

import pytest

from flowstone_async.store.protocol import Store
from flowstone_async.store.records import AssetState
from flowstone_async.types import AssetKey, Input
from tests.contract.builders import Drive, completed, done, failure, key, materialization, replace, state_of
from tests.contract.stores import Engine, Stores

NUMBERS, TOTAL = key("numbers"), key("total")


async def make_known(drive: Drive, *names: AssetKey) -> None:
    """Let the store hear of keys."""
    await drive.advance(done=tuple(done(name, "skipped", claimed=False, reason="no data") for name in names))


async def listed(store: Store, asset: str, io: str = "", *, limit: int = 1000) -> list[str]:
    """Read the partitions of an asset page by page."""
    read: list[str] = []
    while page := await store.keys("sales", asset, io, limit=limit, after=read[-1] if read else None):
        assert len(page) <= limit
        read.extend(state.key.partition for state in page)
    return read


async def test_states_of_a_thousand_keys_come_at_once(engine: Engine) -> None:
    names = [key("numbers", f"i:{no}") for no in range(1000)]
    drive = await engine.start(*names[:200])
    await make_known(drive, *names[200:600])

    states = await engine.store.states(names)

    assert set(states) == set(names[:600])
    assert all(state.key == name for name, state in states.items())
    assert {states[name].state for name in names[:200]} == {"running"}
    assert {states[name].state for name in names[200:600]} == {"skipped"}


async def test_states_of_unknown_keys_are_left_out(store: Store) -> None:
    assert await store.states([]) == {}
    assert await store.states([NUMBERS, key("numbers", "i:1")]) == {}


async def test_states_tell_keys_apart_that_differ_in_any_part(engine: Engine) -> None:
    names = [
        key("numbers"),
        key("numbers", "i:1"),
        key("numbers", io="lake"),
        key("numbers", "i:1", io="lake"),
        key("Numbers"),
        key("numbers", pipeline="Sales"),
    ]
    drive = await engine.start()
    made = [await drive.compute(name) for name in names]

    states = await engine.store.states(names)

    assert [states[name].current for name in names] == made


async def test_states_may_be_asked_for_twice_over(engine: Engine) -> None:
    made = await (await engine.start()).compute(NUMBERS)

    states = await engine.store.states([NUMBERS, NUMBERS])

    assert [state.current for state in states.values()] == [made]


async def test_partitions_are_listed_in_order_of_their_encoded_key(engine: Engine) -> None:
    partitions = ["d:2025-01-15", "i:10", "i:9", "Zebra", "apple", "s:YTo", "ärger", "zoo", "日本", "😀", "\uffff", ""]
    drive = await engine.start()
    await make_known(drive, *(key("numbers", partition) for partition in partitions))

    for limit in (1, 5, 1000):
        assert await listed(engine.store, "numbers", limit=limit) == sorted(partitions)


async def test_partitions_are_listed_for_one_asset_and_one_manager(engine: Engine) -> None:
    drive = await engine.start()
    await make_known(
        drive,
        key("numbers", "i:1"),
        key("numbers", "i:2", io="lake"),
        key("number", "i:3"),
        key("numbers2", "i:4"),
        key("numbers", "i:5", pipeline="other"),
    )

    assert await listed(engine.store, "numbers") == ["i:1"]
    assert await listed(engine.store, "numbers", "lake") == ["i:2"]
    assert await listed(engine.store, "nothing") == []


async def test_a_listing_shows_states(engine: Engine) -> None:
    drive = await engine.start(key("numbers", "i:2"))
    made = await drive.compute(key("numbers", "i:1"))

    first, second = await engine.store.keys("sales", "numbers", "")

    assert first == await state_of(engine.store, made.key)
    assert first.current == made
    assert (second.key.partition, second.state, second.claimed_by) == ("i:2", "running", drive.id)


async def test_a_listing_goes_on_behind_a_key_that_is_not_there(engine: Engine) -> None:
    drive = await engine.start()
    await make_known(drive, key("numbers", "a"), key("numbers", "c"))
    await listed(engine.store, "numbers")
    await make_known(drive, key("numbers", "d"))

    page = await engine.store.keys("sales", "numbers", "", after="b")

    assert [state.key.partition for state in page] == ["c", "d"]


async def test_stored_assets_are_counted_by_their_current_values(stores: Stores) -> None:
    engine = await stores.engine("sales", "other")
    drive = await engine.start()
    for name in (key("numbers", "i:1"), key("numbers", "i:2"), key("numbers", "i:1", io="lake"), TOTAL, key("gone")):
        await drive.compute(name)
    await drive.compute(key("numbers", "i:1"))
    await drive.compute(key("elsewhere", pipeline="other"))
    await make_known(drive, key("skipped"))
    await engine.store.invalidate([key("gone")], cascade=False)

    assert await engine.store.stored_assets("sales") == {"numbers": 3, "total": 1, "gone": 0, "skipped": 0}
    assert await engine.store.stored_assets("other") == {"elsewhere": 1}
    assert await engine.store.stored_assets("nothing") == {}


async def test_durations_are_medians_of_the_last_twenty_computations(engine: Engine) -> None:
    drive = await engine.start()
    for seconds in range(1, 26):
        await drive.compute(key("numbers", f"i:{seconds % 7}"), seconds=float(seconds))
    for seconds in (1.0, 10.0, 2.0):
        await drive.compute(TOTAL, seconds=seconds)
    await drive.advance(claims=(TOTAL, key("failing")))
    await drive.advance(
        done=tuple(done(name, "failed", seconds=99.0, error=failure()) for name in (TOTAL, key("failing")))
    )

    durations = await engine.store.durations("sales", ["numbers", "total", "failing", "nothing"])

    assert durations == pytest.approx({"numbers": 15.5, "total": 2.0})
    assert await engine.store.durations("other", ["numbers"]) == {}
    assert await engine.store.durations("sales", []) == {}


async def test_a_renamed_asset_keeps_values_and_history(engine: Engine) -> None:
    drive = await engine.start()
    names = [key("numbers"), key("numbers", "i:1"), key("numbers", "i:1", io="lake")]
    for name in names:
        await drive.compute(name, seconds=4.0)
    await drive.advance(claims=(names[1],))
    await drive.advance(done=(done(names[1], "failed", error=failure()),))
    await make_known(drive, key("numbers", "i:2"))
    before = await engine.store.states([*names, key("numbers", "i:2")])

    assert await engine.store.rename("sales", "numbers", "figures") == 4

    assert await engine.store.states(before) == {}
    for name, state in before.items():
        renamed = name._replace(asset="figures")
        current = None if state.current is None else replace(state.current, key=renamed)
        assert await state_of(engine.store, renamed) == replace(state, key=renamed, current=current)
    assert await engine.store.durations("sales", ["numbers", "figures"]) == {"figures": 4.0}
    assert await engine.store.stored_assets("sales") == {"figures": 3}
    assert await listed(engine.store, "figures") == ["", "i:1", "i:2"]
    assert await engine.store.rename("sales", "numbers", "figures") == 0


async def test_payloads_of_a_renamed_asset_stay_readable(engine: Engine) -> None:
    drive = await engine.start(NUMBERS)
    made = materialization(NUMBERS, drive.id)
    await drive.advance(done=(completed(made, payload=b"value"),))

    await engine.store.rename("sales", "numbers", "figures")

    current = (await state_of(engine.store, key("figures"))).current
    assert current is not None
    assert current.id == made.id
    assert await engine.store.values.payload(current.id) == b"value"


async def test_keys_that_the_new_name_has_already_stay(engine: Engine) -> None:
    drive = await engine.start()
    old, moving = await drive.compute(key("numbers", "i:1")), await drive.compute(key("numbers", "i:2"))
    new = await drive.compute(key("figures", "i:1"))

    assert await engine.store.rename("sales", "numbers", "figures") == 1

    assert (await state_of(engine.store, new.key)).current == new
    assert (await state_of(engine.store, old.key)).current == old
    moved = key("figures", "i:2")
    assert (await state_of(engine.store, moved)).current == replace(moving, key=moved)


async def test_only_the_one_asset_of_the_one_pipeline_is_renamed(stores: Stores) -> None:
    engine = await stores.engine("sales", "other")
    drive = await engine.start()
    others = [await drive.compute(name) for name in (key("numbers2"), key("Numbers"), key("numbers", pipeline="other"))]

    assert await engine.store.rename("sales", "numbers", "figures") == 0

    for made in others:
        assert (await state_of(engine.store, made.key)).current == made


async def test_inputs_and_lineage_of_dependants_follow_a_new_name(engine: Engine) -> None:
    drive = await engine.start()
    numbers = await drive.compute(NUMBERS)
    other = await drive.compute(key("other"))
    inputs = (
        Input("asset", "xs", numbers.fingerprint, NUMBERS, numbers.id),
        Input("asset", "ys", other.fingerprint, other.key, other.id),
        Input("param", "numbers", "abc"),
    )
    total = await drive.compute(TOTAL, inputs=inputs)

    await engine.store.rename("sales", "numbers", "figures")

    figures = key("figures")
    assert await state_of(engine.store, TOTAL) == AssetState(
        key=TOTAL,
        current=replace(total, inputs=(inputs[0]._replace(key=figures), *inputs[1:])),
        state="completed",
        run_id=drive.id,
        started_at=total.started_at,
        completed_at=total.committed_at,
        seconds=total.seconds,
        attempts=1,
    )
    assert set(await engine.store.upstream(total.id)) == {(figures, numbers.id), (other.key, other.id)}
    removed = await engine.store.invalidate([figures], cascade=True)
    assert {one.key for one in removed} == {figures, TOTAL}
