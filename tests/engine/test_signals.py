"""Sending signals: who gets in, what stands, and what is on record of it (SIG-01, SIG-08, SIG-10..SIG-14)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import asyncpg
import pytest
import pytest_asyncio
from pydantic import BaseModel

from flowstone_async import (
    AlreadySignalled,
    AssetNotFound,
    ConfigError,
    Engine,
    ForgedToken,
    GateClosed,
    GateExpired,
    GateNotFound,
    GateStatus,
    MalformedToken,
    PayloadInvalid,
    Pipeline,
    Signalled,
    StoreUnavailable,
)
from flowstone_async._engine.gates.payloads import Payloads
from flowstone_async._engine.gates.sender import Sender
from flowstone_async._engine.gates.signalling import Message, deliver
from flowstone_async._engine.session import Session
from flowstone_async._engine.tokens import chosen, token_of
from flowstone_async.store.gates import Delivered, Gate, Signal, StoredGate
from tests.contract.builders import Drive, key, replace, worker
from tests.support.engines import OpenEngine, PostgresEngines, SharedEngines

SECRET, BEFORE, OTHER = b"s" * 32, b"b" * 32, b"o" * 32
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class Done(BaseModel):
    job: int


pipe = Pipeline("sales")


@pipe.asset
async def numbers() -> int:
    return 1


@pipe.asset
async def other() -> int:
    return 2


class Waiting:
    """A run that waits, as far as the sender can tell."""

    def __init__(self, engine: Engine, drive: Drive) -> None:
        self.engine, self.drive = engine, drive
        self.gates = drive.store.gates

    def gate(self, name: str = "sent", model: Any = Done, *, secret: bytes = SECRET, **changes: Any) -> Gate:
        made = Gate(
            id=str(uuid5(NAMESPACE_URL, f"{self.drive.id}/{name}")),
            run_id=self.drive.id,
            body="body",
            key=f"/{name}#0",
            kind="signal",
            asset=key("numbers", "d:2025-01-01"),
            name=name,
            facts=Payloads().gate_facts(model, secret=secret),
        )
        return made._replace(**changes)

    async def opened(self, name: str = "sent", model: Any = Done, **changes: Any) -> str:
        """Record a gate and return its token."""
        return await self.recorded(self.gate(name, model, **changes))

    async def recorded(self, gate: Gate) -> str:
        assert await self.gates.open(self.drive.id, self.drive.run.fence, [gate]) is not None
        return token_of(SECRET, gate.id)

    async def stored(self, name: str = "sent") -> StoredGate:
        gate = self.gate(name).id
        return (await self.gates.read([gate]))[gate]

    async def payload(self, name: str = "sent", model: Any = Done) -> object:
        outcome = (await self.stored(name)).outcome
        assert outcome is not None
        assert outcome.payload is not None
        return Payloads().decode(model, outcome.payload)

    async def states(self, name: str = "sent") -> list[str]:
        """What became of all deliveries, in order."""
        return [each.state for each in reversed(await self.engine.gates.deliveries(self.gate(name).id))]


@pytest_asyncio.fixture
async def engine(open_engine: OpenEngine) -> Engine:
    return await open_engine(pipe, slots=0, poll="60s", secret=[SECRET, BEFORE])


@pytest_asyncio.fixture
async def waiting(engine: Engine) -> Waiting:
    async with engine._session() as session:
        store = session.services.store
        return Waiting(engine, await Drive.start(store, replace(worker(), id=session.services.worker)))


async def test_a_signal_is_taken_once(waiting: Waiting, engine: Engine) -> None:
    """SIG-08, SIG-12: as the gate's type; the same again is a repetition, anything else changes nothing."""
    token = await waiting.opened()

    first = await engine.signal(token, {"job": "7"}, id="a", by="the depot")

    stored = await waiting.stored()
    assert stored.outcome is not None
    assert first == Signalled(
        gate_id=stored.gate.id,
        run_id=waiting.drive.id,
        asset="numbers",
        partition=first.partition,
        duplicate=False,
        at=stored.outcome.at,
    )
    assert str(first.partition) == "2025-01-01"
    assert await waiting.payload() == Done(job=7)
    for again in ({"payload": Done(job=7)}, {"payload": {"job": 8}, "id": "a"}, {"payload": "no job", "id": "a"}):
        repeated = await engine.signal(token, **again)
        assert (repeated.duplicate, repeated.at) == (True, first.at)
    for another in ({"payload": Done(job=8)}, {"payload": {"job": 8}, "id": "b"}, {"payload": "no job"}):
        with pytest.raises(AlreadySignalled) as caught:
            await engine.signal(token, **another)
        assert (caught.value.asset, caught.value.run_id) == ("numbers", waiting.drive.id)
        assert caught.value.details["signal_id"] == "a"
    assert await waiting.payload() == Done(job=7)
    assert await waiting.states() == ["accepted", *["duplicate"] * 3, *["already"] * 3]


async def test_a_payload_without_any_form_comes_too_late_as_others_do(waiting: Waiting, engine: Engine) -> None:
    """SIG-08, SIG-10: of a gate that has ended nobody is told that it is not on record yet."""
    token = await waiting.opened()
    with pytest.raises(PayloadInvalid, match="the payload is no Done"):
        await engine.signal(token, {"job": object()})
    await engine.signal(token, {"job": 7}, id="a")
    for payload in (object(), {"job": object()}, "\ud800", {"job": "\ud800"}):
        with pytest.raises(AlreadySignalled, match="has had a signal, with another payload"):
            await engine.signal(token, payload)
        assert (await engine.signal(token, payload, id="a")).duplicate
    late = await waiting.opened("late", due=timedelta(0))
    with pytest.raises(GateExpired):
        await engine.signal(late, object())
    with pytest.raises(PayloadInvalid, match="not on record yet"):
        await engine.signal("early", object())
    assert await waiting.payload() == Done(job=7)


async def test_of_many_at_once_one_counts(waiting: Waiting, engine: Engine) -> None:
    token = await waiting.opened()

    found = await asyncio.gather(*(engine.signal(token, Done(job=no % 4)) for no in range(20)), return_exceptions=True)

    taken = [each for each in found if isinstance(each, Signalled)]
    assert len(taken) == 5
    assert sum(not each.duplicate for each in taken) == 1
    assert all(isinstance(each, AlreadySignalled) for each in found if each not in taken)


async def test_a_payload_that_does_not_fit_leaves_the_gate_open(waiting: Waiting, engine: Engine) -> None:
    """SIG-12: refused with its fields, and kept to be looked at."""
    token = await waiting.opened()

    with pytest.raises(PayloadInvalid) as caught:
        await engine.signal(token, {"job": "x", "at": object()}, id="a")

    assert set(caught.value.details) == {"type", "fields", "gate"}
    assert caught.value.run_id == waiting.drive.id
    assert (await waiting.stored()).state == "open"
    [kept] = await engine.gates.deliveries(waiting.gate().id)
    assert (kept.state, kept.signal_id) == ("invalid", "a")
    assert kept.payload is not None
    assert kept.payload.startswith('{"job":"x","at":"<')
    assert not (await engine.signal(token, {"job": 1}, id="a")).duplicate


async def test_none_is_a_payload_where_the_type_admits_it(waiting: Waiting, engine: Engine) -> None:
    with pytest.raises(PayloadInvalid):
        await engine.signal(await waiting.opened("needs one"))
    for name, model in (("may", Done | None), ("none", None), ("any", object)):
        assert not (await engine.signal(await waiting.opened(name, model))).duplicate
        assert await waiting.payload(name, model) is None


async def test_refusals_are_told_apart(waiting: Waiting, engine: Engine) -> None:
    """SIG-10: none of them changes a gate."""
    token = await waiting.opened()
    over = await waiting.opened("over", due=LONG_AGO)
    approval = await waiting.opened("approval", kind="approval")
    for wrong, error in (
        (token[:-1], MalformedToken),
        (f" {token}", MalformedToken),
        (token.upper(), MalformedToken),
        ("", MalformedToken),
        ("x" * 513, MalformedToken),
        ("\ud800", MalformedToken),
        (None, MalformedToken),
        (token_of(OTHER, waiting.gate().id), ForgedToken),
        (over, GateExpired),
        (approval, GateNotFound),
    ):
        for payload in (Done(job=1), "unfit"):
            with pytest.raises(error) as caught:
                await engine.signal(wrong, payload)  # type: ignore[arg-type]
            assert token not in repr(caught.value.details) + str(caught.value)
    assert (await waiting.stored()).state == "open"
    assert await waiting.states() == []
    assert await waiting.states("over") == ["expired", "expired"]
    closed = await waiting.opened("closed")
    await waiting.drive.store.cancel(waiting.drive.id, (), ())
    for payload in (Done(job=1), "unfit"):
        with pytest.raises(GateClosed):
            await engine.signal(closed, payload)


async def test_a_secret_that_was_rotated_out_counts_as_long_as_it_is_listed(waiting: Waiting, engine: Engine) -> None:
    gate = waiting.gate()
    await waiting.recorded(gate)

    assert not (await engine.signal(token_of(BEFORE, gate.id), Done(job=1))).duplicate


async def test_arguments_that_are_none_are_refused(waiting: Waiting, engine: Engine) -> None:
    token = await waiting.opened()
    options: list[dict[str, Any]] = [{"id": ""}, {"id": 7}, {"id": "\0"}, {"id": "x" * 1025}, {"id": "\ud800"}]
    for wrong in [*options, {"by": 7}, {"by": ""}, {"conn": object()}]:
        with pytest.raises(ConfigError):
            await engine.signal(token, Done(job=1), **wrong)
    assert (await waiting.stored()).state == "open"


@pytest.mark.parametrize("by", ["own", "chosen"])
async def test_a_signal_may_come_first(waiting: Waiting, engine: Engine, by: str) -> None:
    """SIG-01, SIG-11: it is checked by whoever waits, and repeating it later is a repetition."""
    text = "task/7.späť"
    gate = waiting.gate(token=chosen(text) if by == "chosen" else None)
    token = text if by == "chosen" else token_of(SECRET, gate.id)

    first = await engine.signal(token, Done(job=7))
    assert (first.run_id, first.asset, first.duplicate) == (None, None, False)
    assert first.gate_id == (None if by == "chosen" else gate.id)
    assert (await engine.signal(token, Done(job=7))).duplicate
    with pytest.raises(AlreadySignalled):
        await engine.signal(token, Done(job=8))
    await waiting.recorded(gate)

    assert await waiting.payload() == Done(job=7)
    repeated = await engine.signal(token, {"job": "7"})
    assert (repeated.duplicate, repeated.run_id) == (True, waiting.drive.id)
    with pytest.raises(AlreadySignalled):
        await engine.signal(token, Done(job=8))
    assert await waiting.states() == ["early", "duplicate", "already", "duplicate", "already"]


async def test_a_signal_that_comes_first_can_be_refused(open_engine: OpenEngine) -> None:
    engine = await open_engine(pipe, slots=0, secret=SECRET, early_signals=False)
    for token in ("task 7", token_of(SECRET, str(uuid5(NAMESPACE_URL, "none")))):
        with pytest.raises(GateNotFound):
            await engine.signal(token, 1)


async def test_what_has_no_json_form_cannot_come_first(engine: Engine) -> None:
    with pytest.raises(PayloadInvalid, match="not on record"):
        await engine.signal("task 7", object())


async def test_a_token_that_the_other_side_chose_belongs_to_the_gate_that_has_it(
    waiting: Waiting, engine: Engine
) -> None:
    """SIG-11: never by the public URL."""
    await waiting.opened("first", token=chosen("task 7"))
    async with engine._session() as session:
        with pytest.raises(MalformedToken):
            await deliver(session, "task 7", Message(text=b'{"job":1}'), sender=Sender(way="hook"), public=True)
    assert (await engine.signal("task 7", Done(job=1))).gate_id == waiting.gate("first").id
    await waiting.opened("second", int, token=chosen("task 7"))

    assert (await engine.signal("task 7", 5)).gate_id == waiting.gate("second").id
    assert await waiting.payload("first") == Done(job=1)
    assert await waiting.payload("second", int) == 5


async def test_a_token_that_moves_while_a_signal_is_under_way(
    waiting: Waiting, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The payload was made for the type of the gate that had it: it is made again for the one that has."""
    await waiting.opened("first", token=chosen("task 7"))
    gates, holder = waiting.gates, type(waiting.gates).holder

    async def moving(self: Any, token: bytes) -> StoredGate | None:
        found = await holder(self, token)
        if found is not None and found.outcome is None and found.gate.name == "first":
            await gates.deliver(Signal(b" {}", found.gate.id))
            await waiting.opened("second", int, token=chosen("task 7"))
        return found

    monkeypatch.setattr(type(gates), "holder", moving)
    with pytest.raises(PayloadInvalid):
        await engine.signal("task 7", Done(job=5))

    assert (await waiting.stored("second")).state == "open"


async def test_a_gate_that_is_recorded_while_a_signal_is_under_way(
    waiting: Waiting, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent unchecked is told from what is on record checked, and the same is the same."""
    gate, read = waiting.gate(), type(waiting.gates).read
    late = [True]

    async def racing(self: Any, gates: Any) -> Any:
        found = await read(self, gates)
        if late and gate.id in gates:
            late.clear()
            await waiting.recorded(gate)
            await engine.signal(token_of(SECRET, gate.id), Done(job=7))
        return found

    monkeypatch.setattr(type(waiting.gates), "read", racing)
    repeated = await engine.signal(token_of(SECRET, gate.id), {"job": 7})

    assert (repeated.duplicate, repeated.run_id) == (True, waiting.drive.id)


async def test_what_came_first_is_delivered_while_a_signal_is_under_way(
    waiting: Waiting, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands is unchecked then: it is checked to tell a repetition from another signal."""
    token = await waiting.opened()
    read, late = type(waiting.gates).read, [True]

    async def racing(self: Any, gates: Any) -> Any:
        found = await read(self, gates)
        if late:
            late.clear()
            await waiting.gates.deliver(Signal(b'?{"job": 7}', waiting.gate().id))
        return found

    monkeypatch.setattr(type(waiting.gates), "read", racing)
    assert (await engine.signal(token, {"job": 7})).duplicate
    await waiting.opened("other")
    late.append(True)
    with pytest.raises(AlreadySignalled):
        await engine.signal(token, {"job": 8})


async def test_a_type_that_is_not_to_be_found_here_leaves_the_gate_open(waiting: Waiting, engine: Engine) -> None:
    token = await waiting.opened(facts='{"type": "no_such_module:Done", "home": null, "key": ""}')

    with pytest.raises(ConfigError, match="no_such_module"):
        await engine.signal(token, {"job": 1})

    assert (await waiting.stored()).state == "open"
    assert await waiting.states() == ["type unknown"]


async def test_deliveries_are_on_record_without_credentials(waiting: Waiting, engine: Engine) -> None:
    """SIG-13: time, outcome, address, actor and headers, refused ones included."""
    token = await waiting.opened()
    headers = [("Authorization", "Bearer abcdef123456"), ("X-Trace", "1"), ("Referer", f"https://x/hooks/{token}")]
    sender = Sender(way="hook", actor="ada", address="192.0.2.1", headers=headers)
    async with engine._session() as session:
        with pytest.raises(PayloadInvalid, match="Invalid JSON"):
            await deliver(session, token, Message(text=b"{"), sender=sender, signal_id="m", public=True)
        await deliver(session, token, Message(text=b'{"job": 1}'), sender=sender, signal_id="m", public=True)

    found = await engine.gates.deliveries(waiting.gate().id)

    assert [each.state for each in found] == ["accepted", "invalid"]
    for each in found:
        assert (each.way, each.actor, each.address, each.signal_id) == ("hook", "ada", "192.0.2.1", "m")
        assert each.headers == (("Authorization", "***"), ("X-Trace", "1"), ("Referer", "https://x/hooks/***"))
    assert [each.payload for each in found] == [None, "{"]
    assert await engine.gates.deliveries(waiting.gate().id, limit=1) == found[:1]


async def test_an_empty_body_is_null(waiting: Waiting, engine: Engine) -> None:
    token = await waiting.opened("may", Done | None)
    async with engine._session() as session:
        await deliver(session, token, Message(text=b""), sender=Sender(way="hook"), public=True)
    assert await waiting.payload("may", Done | None) is None


class Lossy:
    """Gates that deliver, and lose their reply; as the store does that may send a statement again itself."""

    def __init__(self, session: Session, times: int = 1, *, told: bool = True) -> None:
        self._gates, self._times, self._told = session.services.store.gates, times, told
        self._deliver = self._gates.deliver
        self.sqlstate = ""

    async def __call__(self, signal: Signal, *, connection: object = None) -> Delivered:
        delivered = await self._deliver(signal, connection=connection)
        while self._times:
            self._times -= 1
            if not self._told:
                delivered = await self._deliver(signal, connection=connection)
                continue
            raise StoreUnavailable("the reply is lost", details={"sqlstate": self.sqlstate})
        return delivered


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("early", [False, True])
async def test_a_signal_whose_reply_is_lost_is_sent_again(
    waiting: Waiting, engine: Engine, monkeypatch: pytest.MonkeyPatch, early: bool, told: bool
) -> None:
    """It was this one that was taken, and nobody need know that it went twice."""
    token = token_of(SECRET, waiting.gate().id) if early else await waiting.opened()
    async with engine._session() as session:
        monkeypatch.setattr(session.services.store.gates, "deliver", Lossy(session, 2, told=told))
        sent = await engine.signal(token, Done(job=7))

    assert not sent.duplicate
    assert (await engine.signal(token, Done(job=7))).duplicate


async def test_a_repetition_whose_reply_is_lost_is_one(
    waiting: Waiting, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await waiting.opened()
    await engine.signal(token, Done(job=7))
    async with engine._session() as session:
        monkeypatch.setattr(session.services.store.gates, "deliver", Lossy(session))
        assert (await engine.signal(token, Done(job=7))).duplicate


async def test_a_gate_that_another_transaction_decides_is_not_waited_for_again(
    waiting: Waiting, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await waiting.opened()
    async with engine._session() as session:
        lossy = Lossy(session)
        lossy.sqlstate = "55P03"
        monkeypatch.setattr(session.services.store.gates, "deliver", lossy)
        with pytest.raises(StoreUnavailable):
            await engine.signal(token, Done(job=7))


async def test_in_a_transaction_of_the_caller_s(waiting: Waiting, engine: Engine, engines: SharedEngines) -> None:
    """SIG-08: it takes effect if and only if that commits."""
    token = await waiting.opened()
    if not isinstance(engines, PostgresEngines):
        with pytest.raises(ConfigError, match="conn="):
            await engine.signal(token, Done(job=7), conn=object())
        return
    connection = await asyncpg.connect(engines.dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        assert not (await engine.signal(token, Done(job=7), conn=connection)).duplicate
        assert (await waiting.stored()).state == "open"
        await transaction.rollback()
        assert (await waiting.stored()).state == "open"
        assert await waiting.states() == []
        async with connection.transaction():
            sent = await engine.signal(token, Done(job=8), conn=connection)
            assert (await engine.signal(token, Done(job=8), conn=connection)).duplicate
        assert (sent.duplicate, sent.run_id) == (False, waiting.drive.id)
        assert await waiting.payload() == Done(job=8)
    finally:
        connection.terminate()


async def test_gates_are_listed_without_tokens(waiting: Waiting, engine: Engine) -> None:
    """SIG-14: the nearest deadline first, page by page."""
    hours = [timedelta(hours=no) for no in (3, 1, 2)]
    tokens = [await waiting.opened(f"g{no}", due=due) for no, due in enumerate(hours)]
    tokens += [await waiting.opened("never", asset=key("other")), await waiting.opened("asked", kind="approval")]
    await engine.signal(tokens[2], Done(job=1), id="a")

    found = await engine.gates.waiting(kind="signal")

    assert [each.name for each in found] == ["g1", "g0", "never"]
    assert {each.kind for each in await engine.gates.waiting()} == {"signal", "approval"}
    assert [each.name for each in await engine.gates.waiting(asset=other)] == ["never"]
    assert await engine.gates.waiting(kind="signal", limit=2) == found[:2]
    assert await engine.gates.waiting(kind="signal", limit=2, after=found[1].id) == found[2:]
    assert not any(token in repr(found) for token in tokens)
    ended = await engine.gates.get(waiting.gate("g2").id)
    stored = await waiting.stored("g2")
    assert stored.outcome is not None
    assert ended == GateStatus(
        id=stored.gate.id,
        kind="signal",
        run_id=waiting.drive.id,
        pipeline="sales",
        asset="numbers",
        partition=ended.partition,
        name="g2",
        state="signalled",
        opened_at=stored.opened_at,
        due=stored.due,
        ended_at=stored.outcome.at,
        signal_id="a",
    )
    for wrong in (waiting.gate("unknown").id, "none", tokens[0]):
        with pytest.raises(GateNotFound) as caught:
            await engine.gates.get(wrong)
        assert tokens[0] not in str(caught.value)
        with pytest.raises(GateNotFound):
            await engine.gates.deliveries(wrong)
        with pytest.raises(GateNotFound):
            await engine.gates.waiting(after=wrong)
    options: list[dict[str, Any]] = [{"limit": 0}, {"kind": "other"}, {"after": 7}]
    for option in options:
        with pytest.raises(ConfigError):
            await engine.gates.waiting(**option)
    with pytest.raises(AssetNotFound):
        await engine.gates.waiting(asset="none")


async def test_suspended_runs_are_counted_for_whoever_asks_how_the_queue_is(waiting: Waiting, engine: Engine) -> None:
    """CFG-07."""
    await waiting.opened()
    assert await waiting.gates.suspend(waiting.drive.id, waiting.drive.run.fence, 0) == "suspended"
    assert (await engine.health()).parts["queue"].detail.endswith("0 queued; 0 running, 1 suspended")


async def test_a_pipeline_takes_signals_in_memory() -> None:
    """SIG-08: `pipe.signal` of the runs in its own memory."""
    alone = Pipeline("alone")

    @alone.asset
    async def one() -> int:
        return 1

    sent = await alone.signal("task 7", 1)
    assert (sent.run_id, sent.duplicate) == (None, False)
    assert (await alone.signal("task 7", 1)).duplicate
    assert await alone.gates.waiting() == ()


async def test_engines_on_one_memory_know_each_other_s_tokens(open_engine: OpenEngine, engines: SharedEngines) -> None:
    if isinstance(engines, PostgresEngines):
        pytest.skip("is about memory")
    first, second = await open_engine(pipe), await open_engine(pipe)
    async with first._session() as session:
        token = token_of(session.services.secrets[0], str(uuid5(NAMESPACE_URL, "any")))
    assert not (await second.signal(token, 1)).duplicate


async def test_without_a_secret_no_token_can_be_checked(open_engine: OpenEngine, engines: SharedEngines) -> None:
    if not isinstance(engines, PostgresEngines):
        pytest.skip("a store in memory makes a secret of its own")
    bare = await open_engine(pipe, slots=0)
    with pytest.raises(ConfigError, match="no secret"):
        await bare.signal(token_of(SECRET, str(uuid5(NAMESPACE_URL, "any"))), 1)
    assert not (await bare.signal("task 7", 1)).duplicate
