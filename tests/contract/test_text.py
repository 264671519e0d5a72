"""Text that stores like to trip over comes back as it was, wherever it may occur."""

from __future__ import annotations

import asyncio
import json

from flowstone_async.definition.keys import encode_key
from flowstone_async.store.records import Advance, EventRecord, RunDone
from flowstone_async.types import Input
from tests.contract.builders import (
    LONG_AGO,
    act,
    completed,
    done,
    failure,
    key,
    materialization,
    run_record,
    state_of,
)
from tests.contract.stores import Engine

# Text that no column of a database holds as it is.
UNSTORABLE = {"nul", "only nul", "lone surrogate"}
TEXTS = {
    "nul": "before\x00after",
    "only nul": "\x00",
    "lone quote": '"',
    "quotes": "'\"'\"",
    "backslash": "C:\\new\\u0000\\",
    "escaped nul": "\\u0000 and \\x00",
    "control": "\x01\x07\x1b[31m\x7f\t\r\n",
    "json": '{"a": [1, "\\""]}',
    "array literal": '{NULL,"x",}',
    "percent and dollar": "%s $1 :name ? {}",
    "accents": "Žluťoučký kůň, e\u0301",
    "emoji": "👩‍👩‍👧 😀",
    "right to left": "שלום \u202e",
    "lone surrogate": "caf\udce9",
    "non-characters": "\ufffe\uffff\ufeff",
    "empty": "",
    "spaces": "  ",
    "long": "x" * 20_000,
}

STORABLE = {name: text for name, text in TEXTS.items() if name not in UNSTORABLE}
NUMBERS = key("numbers")
SLICES = {name: key("numbers", f"i:{no}") for no, name in enumerate(TEXTS)}


async def test_errors(engine: Engine) -> None:
    drive = await engine.start(*SLICES.values())
    errors = {
        name: failure(text, traceback_text=text, hint=text, cause=text, details={"text": text, text: [text]})
        for name, text in TEXTS.items()
    }

    await drive.advance(done=tuple(done(SLICES[name], "failed", error=error) for name, error in errors.items()))

    states = await engine.store.states(list(SLICES.values()))
    assert {name: states[of].error for name, of in SLICES.items()} == errors


async def test_reasons(engine: Engine) -> None:
    drive = await engine.start()

    await drive.advance(
        done=tuple(done(SLICES[name], "skipped", claimed=False, reason=text) for name, text in TEXTS.items())
    )

    states = await engine.store.states(list(SLICES.values()))
    assert {name: states[of].reason for name, of in SLICES.items()} == TEXTS


async def test_errors_of_runs(engine: Engine) -> None:
    for text in TEXTS.values():
        drive = await engine.start()
        error = failure(text, details={text: text})

        await drive.advance("run.finished", finish=RunDone(state="failed", error=error))

        run = await engine.store.run(drive.id)
        assert run is not None
        assert run.error == error


async def test_params_and_options(engine: Engine) -> None:
    for text in TEXTS.values():
        options = {"text": text, text: {text: [text, None]}}
        record = run_record(engine.worker.id, params=json.dumps({"text": text, text: [text]}), options=options)

        await engine.store.advance(Advance(run_id=record.id, fence=1, create=record))

        run = await engine.store.run(record.id)
        assert run is not None
        assert json.loads(run.params) == {"text": text, text: [text]}
        assert run.options == options


async def test_events(engine: Engine) -> None:
    drive = await engine.start()
    told = tuple(
        EventRecord(no, "asset.failed", LONG_AGO, {"text": text, text: [{"deep": text}]})
        for no, text in enumerate(TEXTS.values(), 2)
    )

    await engine.store.advance(Advance(run_id=drive.id, fence=1, events=told))

    assert await engine.store.events(drive.id, after=1) == told
    assert tuple(stored.event for stored in await engine.store.all_events(pipelines=["sales"]))[1:] == told


async def test_acts(engine: Engine) -> None:
    drive = await engine.start()
    entries = [
        act("asset.failed", text, actor=text, actor_kind="person", details={"text": text, text: text})
        for text in STORABLE.values()
    ]

    await drive.advance(audit=tuple(entries))

    assert [entry for _, _, entry in await engine.store.audit()] == entries[::-1]


async def test_an_act_is_kept_whose_subject_no_column_can_hold(engine: Engine) -> None:
    """It may be shown in another way, but neither the act nor the step is lost."""
    for name in UNSTORABLE:
        text = TEXTS[name]
        drive = await engine.start()

        answer = await drive.advance(audit=(act("asset.failed", text, actor=text, details={"text": text, text: text}),))

        [(_, _, read), *_] = await engine.store.audit()
        assert answer.accepted
        assert (read.action, read.details) == ("asset.failed", {"text": text, text: text})


async def test_partitions(engine: Engine) -> None:
    """Keys arrive encoded, which leaves them quotes, backslashes and all of Unicode."""
    names = [key("numbers", encode_key(text)) for name, text in TEXTS.items() if name != "long"]
    holder, other = await engine.start(*names), await engine.start()

    refused = await other.advance(claims=tuple(names))
    made = [materialization(name, holder.id) for name in names]
    await holder.advance(done=tuple(map(completed, made)))
    total = await holder.compute(key("total"), *made)

    assert {name: claimed.holder for name, claimed in refused.claims.items()} == dict.fromkeys(names, holder.id)
    assert [state.key for state in await engine.store.keys("sales", "numbers", "")] == sorted(names)
    assert set(await engine.store.upstream(total.id)) == {(one.key, one.id) for one in made}
    removed = await engine.store.invalidate(names, cascade=True)
    assert {one.key for one in removed} == {*names, key("total")}


async def test_metadata(engine: Engine) -> None:
    drive = await engine.start()
    for text in TEXTS.values():
        made = await drive.compute(NUMBERS, metadata={"text": text, text: [text]})

        assert (await state_of(engine.store, NUMBERS)).current == made


async def test_materializations(engine: Engine) -> None:
    drive = await engine.start()
    for text in STORABLE.values():
        made = await drive.compute(
            NUMBERS,
            location=text,
            manager=text,
            checksum=text,
            version=text,
            host=text,
            fingerprint=text,
            code_hash=text,
            inputs=(Input("param", text, text),),
        )

        assert (await state_of(engine.store, NUMBERS)).current == made


async def test_names_of_assets_and_pipelines(engine: Engine) -> None:
    for asset in ["Zahlen", "números", "数字", "_1", "a" * 200, "select"]:
        name = key(asset, pipeline=asset, io=asset)
        drive = await engine.start(pipeline=asset, targets=(asset,))

        made = await drive.compute(name)

        assert (await state_of(engine.store, name)).current == made
        assert await engine.store.stored_assets(asset) == {asset: 1}
        assert [run.targets for run in await engine.store.runs(pipelines=[asset], asset=asset)] == [(asset,)]


async def test_steps_of_odd_text_leave_each_other_alone(engine: Engine) -> None:
    """What a store groups into one transaction must not fail because of one of its members."""
    drives = {name: await engine.start(SLICES[name]) for name in TEXTS}

    answers = await asyncio.gather(
        *(
            drive.advance("asset.failed", done=(done(SLICES[name], "failed", error=failure(TEXTS[name])),))
            for name, drive in drives.items()
        )
    )

    assert all(answer.accepted for answer in answers)
    states = await engine.store.states(list(SLICES.values()))
    errors = {name: states[of].error for name, of in SLICES.items()}
    assert {name: error.message for name, error in errors.items() if error} == TEXTS
