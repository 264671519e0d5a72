"""Code that does not fit what a body has on record (STEP-10, fault 16): the asset waits, and is told how to go on."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from flowstone_async import (
    AlreadySignalled,
    AssetNotFound,
    ConfigError,
    Context,
    DependencyFailed,
    Engine,
    GateClosed,
    GateEvent,
    GateNotFound,
    Pipeline,
    ReplayMismatch,
    Retry,
    RunNotFound,
    StoreUnavailable,
)
from flowstone_async.io import Memory
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import Gate, soon
from tests.support.waits import in_state

SECRET: Any = {"secret": b"s" * 32, "park_after": 0, "poll": "50ms"}
pytestmark = pytest.mark.not_in("evict", reason="counts the calls of bodies")


class Shop:
    """Steps that count their calls, and tokens of the gates that bodies made."""

    def __init__(self) -> None:
        self.calls, self.bodies = Counter[str](), Counter[str]()
        self.tokens: list[str] = []

    async def charge(self, amount: int) -> str:
        self.calls[f"charge {amount}"] += 1
        return f"paid {amount}"

    async def refund(self, amount: int) -> str:
        self.calls[f"refund {amount}"] += 1
        return f"refunded {amount}"

    async def pack(self) -> str:
        self.calls["pack"] += 1
        return "packed"

    def version(self, *amounts: int, last: Any = None) -> Pipeline:
        """Return a pipeline whose asset charges some amounts, waits for a signal, and does one step more."""
        pipe, shop = Pipeline("shop"), self

        @pipe.asset(retry=Retry(attempts=3, backoff="none"))
        async def order(ctx: Context) -> str:
            shop.bodies[str(amounts)] += 1
            assert ctx.attempt == 1
            paid = [await ctx.step(shop.charge, amount) for amount in amounts]
            gate = ctx.signal(str)
            shop.tokens.append(gate.token)
            answer = await gate
            more = await ctx.step(last or shop.pack)
            return " ".join([*paid, answer, more])

        @pipe.asset
        async def other(ctx: Context) -> str:
            return await ctx.step(shop.pack)

        @pipe.asset
        async def both(order: str, other: str) -> str:
            return f"{order}, {other}"

        return pipe


async def _leave(engine: Engine) -> None:
    await engine.__aexit__(None, None, None)


async def _mismatched(open_engine: OpenEngine, shop: Shop, *changed: int, target: str = "order") -> tuple[Engine, Any]:
    """Return an engine with other code than that which a suspended run was begun with, and the run's handle."""
    first = await open_engine(shop.version(1, 2, 3), **SECRET)
    run = await first.submit(target)
    await in_state(first, run.id, "waiting")
    await _leave(first)
    second = await open_engine(shop.version(*changed), **SECRET)
    await second.signal(shop.tokens[0], "go")
    await _asked(second, run.id)
    return second, await second.find(run.id)


async def _asked(engine: Engine, run_id: str) -> str:
    """Return the gate of a mismatch, once its run waits for it."""
    while not (gates := [each for each in await engine.gates.waiting(kind="mismatch") if each.run_id == run_id]):
        await engine._live().store.changed(f"run:{run_id}", within=0.01)
    await in_state(engine, run_id, "waiting")
    return gates[0].id


async def test_the_asset_waits_and_says_what_was_expected_and_found(open_engine: OpenEngine):
    """STEP-10: no retry, no attempt; listed, told by status and report, raised by whoever runs it, on record."""
    shop = Shop()
    engine, run = await soon(_mismatched(open_engine, shop, 1, 20, 3, target="both"))
    with pytest.raises(ReplayMismatch, match="other arguments") as raised:
        await soon(engine.run("both"))
    assert (raised.value.run_id, raised.value.asset) == (run.id, "order")
    assert raised.value.details["expected"][1].endswith("Shop.charge")
    assert shop.bodies["(1, 20, 3)"] == 1

    status = await engine.status("order")
    assert (status.state, status.run_id) == ("waiting", run.id)
    assert "resolve a ReplayMismatch" in (status.waiting_for or "")
    assert isinstance(status.error, ReplayMismatch)
    assert "other arguments" in (await engine.why("order")).because
    report = await soon(engine.report("both"))
    assert (report["order"].state, report["other"].state) == ("waiting", "ok")
    assert isinstance(report["order"].error, ReplayMismatch)
    assert isinstance(report.error, ReplayMismatch)
    assert report["order"].error.details["expected"] == raised.value.details["expected"]

    await _leave(engine)  # and after a restart
    third = await open_engine(shop.version(1, 20, 3), **SECRET)
    assert (await third.status("order")).state == "waiting"
    with pytest.raises(ReplayMismatch):
        await soon(third.run("both"))


async def test_resume_at_keeps_what_is_before(open_engine: OpenEngine):
    """STEP-10: and makes the call that does not fit, and all behind it, anew."""
    shop = Shop()
    engine, run = await soon(_mismatched(open_engine, shop, 1, 20, 3))
    await engine.resolve(run, "order", how="resume_at", by="alice")
    await engine.resolve(run.id, "order", how="resume_at")  # a repetition
    with pytest.raises(AlreadySignalled, match="'resume_at'"):
        await engine.resolve(run, "order", how="restart")
    await soon(_more(shop.tokens, 2))
    with pytest.raises(AlreadySignalled):
        await engine.signal(shop.tokens[0], "late")
    await engine.signal(shop.tokens[-1], "again")  # what came for the first gate was an answer to other work
    assert await soon(run.result()) == "paid 1 paid 20 paid 3 again packed"
    assert shop.calls == {"charge 1": 1, "charge 2": 1, "charge 20": 1, "charge 3": 2, "pack": 1}
    assert await engine.gates.waiting(kind="mismatch") == ()
    told = [(each.type, each.kind) async for each in run.events() if isinstance(each, GateEvent)]
    assert [each for each in told if each[1] != "sleep"] == [
        ("gate.opened", "signal"),
        ("gate.opened", "mismatch"),
        ("gate.signalled", "mismatch"),
        ("gate.cancelled", "signal"),
        ("gate.opened", "signal"),
        ("gate.signalled", "signal"),
    ]
    with pytest.raises(GateNotFound, match="no mismatch to resolve"):
        await engine.resolve(run, "other", how="resume_at")


async def test_a_gate_before_it_stays_the_same(open_engine: OpenEngine):
    """STEP-10: whoever was given its token may still use it; what came first counts."""
    shop = Shop()

    def version(step: Any) -> Pipeline:
        pipe = Pipeline("shop")

        @pipe.asset
        async def order(ctx: Context) -> str:
            gate = ctx.signal(str)
            shop.tokens.append(gate.token)
            return f"{await ctx.step(step, 1)} {await gate} {await ctx.signal(str, token='second')}"

        return pipe

    first = await open_engine(version(shop.charge), **SECRET)
    run = await first.submit("order")
    await in_state(first, run.id, "waiting")
    await _leave(first)
    engine = await open_engine(version(shop.refund), **SECRET)
    await engine.signal(shop.tokens[0], "first")
    gate = await soon(_asked(engine, run.id))
    assert "ctx.step(Shop.charge) is on record as 'charge#0'" in (await engine.status("order")).waiting_for
    await engine.resolve(run.id, "order", how="resume_at")
    await in_state(engine, run.id, "waiting")
    await engine.signal("second", "last")
    assert await soon((await engine.find(run.id)).result()) == "refunded 1 first last"
    assert set(shop.tokens) == {shop.tokens[0]}
    assert (await engine.gates.get(gate)).state == "signalled"


async def test_restart_begins_anew(open_engine: OpenEngine):
    """STEP-10: nothing is on record, and every gate is another one."""
    shop = Shop()
    engine, run = await soon(_mismatched(open_engine, shop, 1, 20, 3))
    await engine.resolve(run, "order", how="restart")
    await soon(_more(shop.tokens, 2))
    await engine.signal(shop.tokens[-1], "again")
    assert await soon(run.result()) == "paid 1 paid 20 paid 3 again packed"
    assert shop.calls == {"charge 1": 2, "charge 2": 1, "charge 20": 1, "charge 3": 2, "pack": 1}


async def test_discard_fails_the_asset(open_engine: OpenEngine):
    """STEP-10: for good, without another attempt; the run goes on without it."""
    shop = Shop()
    engine, run = await soon(_mismatched(open_engine, shop, 1, 20, 3, target="both"))
    await engine.resolve(run, "order", how="discard")
    with pytest.raises(DependencyFailed):
        await soon(run.result())
    report = await run.report()
    assert (report["order"].state, report["order"].attempts) == ("failed", 1)
    assert isinstance(report["order"].error, ReplayMismatch)
    with pytest.raises(GateNotFound, match=r"no mismatch to resolve .*"):
        await engine.resolve(run, "other", how="restart")


@pytest.mark.parametrize("how", ["resume_at", "restart", "discard"])
async def test_code_that_fits_again_goes_on(open_engine: OpenEngine, how: Any):
    """STEP-10: whatever was said, as long as nobody has done it."""
    shop = Shop()
    engine, run = await soon(_mismatched(open_engine, shop, 1, 20, 3))
    await _leave(engine)
    sending = await open_engine(shop.version(1, 2, 3), **SECRET, slots=0)
    await sending.resolve(run.id, "order", how=how)
    fitting = await open_engine(shop.version(1, 2, 3), **SECRET)
    assert await soon((await fitting.find(run.id)).result()) == "paid 1 paid 2 paid 3 go packed"
    assert shop.calls == {"charge 1": 1, "charge 2": 1, "charge 3": 1, "pack": 1}


async def test_nobody_is_asked_any_more_once_the_code_fits_again(open_engine: OpenEngine):
    """STEP-10: the run was woken for another reason; a later mismatch asks anew."""
    shop = Shop()

    def version(step: Any) -> Pipeline:
        pipe = Pipeline("shop")

        @pipe.asset
        async def order(ctx: Context) -> str:
            paid = await ctx.step(step, 1)
            return f"{paid} {await ctx.signal(str, token='first')} {await ctx.signal(str, token='second')}"

        @pipe.asset
        async def other(ctx: Context) -> str:
            return await ctx.signal(str, token="other")

        @pipe.asset
        async def both(order: str, other: str) -> str:
            return f"{order}, {other}"

        return pipe

    first = await open_engine(version(shop.charge), **SECRET)
    run = await first.submit("both")
    await in_state(first, run.id, "waiting")
    await _leave(first)
    changed = await open_engine(version(shop.refund), **SECRET)
    await changed.signal("first", "one")
    gate = await soon(_asked(changed, run.id))
    await _leave(changed)
    fitting = await open_engine(version(shop.charge), **SECRET)
    await fitting.signal("other", "three")
    await soon(_is(fitting, gate, "cancelled"))
    await in_state(fitting, run.id, "waiting")
    with pytest.raises(GateNotFound, match="no mismatch to resolve"):
        await fitting.resolve(run.id, "order", how="restart")
    await _leave(fitting)
    changed = await open_engine(version(shop.refund), **SECRET)
    await changed.signal("second", "two")
    assert await soon(_asked(changed, run.id)) != gate
    await changed.resolve(run.id, "order", how="discard")
    with pytest.raises(DependencyFailed):
        await soon((await changed.find(run.id)).result())
    assert shop.calls == {"charge 1": 1}


async def test_a_body_that_catches_it_goes_nowhere(open_engine: OpenEngine):
    """STEP-10: it records nothing, and what it returns is dropped; a gate that it had opened is given up with a restart."""
    shop, pipes = Shop(), list[Pipeline]()
    for step in (shop.charge, shop.refund):
        pipe = Pipeline("shop")

        def asset(pipe: Pipeline, step: Any) -> None:
            @pipe.asset
            async def order(ctx: Context) -> str:
                try:
                    paid = await ctx.step(step, 1)
                except Exception:
                    try:
                        await ctx.step(shop.pack)
                    except ReplayMismatch:
                        return "caught"
                    raise
                gate = ctx.signal(str)
                shop.tokens.append(gate.token)
                first = ctx.signal(str, token="first")
                number, answer = await ctx.first(first, gate)
                return f"{paid} {number} {answer} {await ctx.signal(str, token='second')}"

        asset(pipe, step)
        pipes.append(pipe)
    engine = await open_engine(pipes[0], **SECRET)
    run = await engine.submit("order")
    await in_state(engine, run.id, "waiting")
    await engine.signal("first", "one")
    await soon(_second(engine, run.id))
    await in_state(engine, run.id, "waiting")
    await _leave(engine)
    engine = await open_engine(pipes[1], **SECRET)
    await engine.signal("second", "two")
    gate = await soon(_asked(engine, run.id))
    assert (await engine.gates.get(gate)).asset == "order"
    await engine.resolve(run.id, "order", how="restart")
    await soon(_is_open(engine, run.id, 2))
    with pytest.raises(GateClosed):
        await engine.signal(shop.tokens[0], "late")  # the first one, that nobody had answered
    assert len(set(shop.tokens)) == 2
    await engine.signal("first", "three")
    await soon(_second(engine, run.id))
    await engine.signal("second", "four")
    assert await soon((await engine.find(run.id)).result()) == "refunded 1 0 three four"
    assert shop.calls == {"charge 1": 1, "refund 1": 1}


async def test_what_is_refused(open_engine: OpenEngine):
    """STEP-10: with what was meant, perhaps."""
    shop = Shop()
    engine, run = await soon(_mismatched(open_engine, shop, 1, 20, 3, target="both"))
    for how, told in (("resume-at", "Did you mean 'resume_at'"), ("retry", "Allowed are"), (None, "Allowed are")):
        with pytest.raises(ConfigError, match="how=") as raised:
            await engine.resolve(run, "order", how=how)
        assert told in (raised.value.hint or "")
    with pytest.raises(RunNotFound):
        await engine.resolve("0" * 32, "order", how="restart")
    with pytest.raises(AssetNotFound, match="ordre"):
        await engine.resolve(run, "ordre", how="restart")
    with pytest.raises(GateNotFound, match="asset 'other' has no mismatch") as raised:
        await engine.resolve(run, "other", how="restart")
    assert "Did you mean 'order'" in (raised.value.hint or "")
    with pytest.raises(ConfigError, match="by="):
        await engine.resolve(run, "order", how="restart", by="")
    with pytest.raises(GateNotFound) as raised:
        await engine.resolve(run, "order", how="restart", partition="x")
    assert raised.value.hint == "These wait for it in that run: order."
    await run.cancel()
    with pytest.raises(GateNotFound) as raised:
        await engine.resolve(run, "order", how="restart")
    assert "cancelled" in (raised.value.hint or "")


@pytest.mark.parametrize("at", ["record", "open", "resolved", "drop"])
async def test_whoever_loses_the_store_while_it_is_done_leaves_it_to_the_next(open_engine: OpenEngine, at: str):
    """STEP-10: before the mismatch or its gate, what was said, or what that cuts off, is on record, and after it."""
    shop = Shop()
    first = await open_engine(shop.version(1, 2, 3), **SECRET)
    run = await first.submit("order")
    await in_state(first, run.id, "waiting")
    await _leave(first)
    engine = await open_engine(shop.version(1, 20, 3), **SECRET)
    store: Any = engine._live().store
    port = store.gates if at == "open" else store.steps
    name = "record" if at == "resolved" else at
    plain, left, kinds = getattr(port, name), [True, False], {"record": "mismatch", "resolved": "resolved"}

    async def away(*given: Any) -> Any:
        mine = (at not in kinds or given[3][0].kind == kinds[at]) and (at != "open" or given[2][0].kind == "mismatch")
        if mine and left:
            if left.pop():
                await plain(*given)
            raise StoreUnavailable("it is away")
        return await plain(*given)

    setattr(port, name, away)
    await engine.signal(shop.tokens[0], "go")
    await soon(_asked(engine, run.id))
    await engine.resolve(run.id, "order", how="resume_at")
    await soon(_more(shop.tokens, 2))
    await engine.signal(shop.tokens[-1], "again")
    assert await soon((await engine.find(run.id)).result()) == "paid 1 paid 20 paid 3 again packed"
    assert shop.calls == {"charge 1": 1, "charge 2": 1, "charge 20": 1, "charge 3": 2, "pack": 1}
    assert not left


async def test_a_run_that_only_this_process_drives_fails(open_engine: OpenEngine):
    """STEP-10: its code cannot have changed, and nobody would hear of it; nor is it tried again."""
    shop, pipe = Shop(), Pipeline("shop")

    @pipe.asset(retry=Retry(attempts=3, backoff="none"))
    async def order(ctx: Context) -> str:
        paid = await ctx.step(shop.charge, ctx.attempt)
        if ctx.attempt == 1:
            raise ConnectionError
        return paid

    engine = await open_engine(pipe, **SECRET)
    with pytest.raises(ReplayMismatch, match="other arguments"):
        await soon(engine.run("order", io=Memory(name="mine")))
    assert shop.calls == {"charge 1": 1}
    with pytest.raises(ReplayMismatch):
        await soon(engine.run("order"))
    assert (await engine.status("order")).state == "waiting"


async def test_an_item_fails(open_engine: OpenEngine):
    """STEP-10, SCAT-17: of a scatter, by itself and at once; the others go on."""
    shop, hold = Shop(), Gate()

    def version(step: Any) -> Pipeline:
        pipe = Pipeline("shop")

        @pipe.scatter([1, 2], tolerate=1.0, retry=Retry(attempts=3, backoff="none"))
        async def orders(number: int, ctx: Context) -> str:
            shop.bodies[f"item {number}"] += 1
            paid = await ctx.step(step if number == 1 else shop.charge, number)
            await hold()
            return paid

        return pipe

    dying = await open_engine(version(shop.charge), lease="1s")
    run = await dying.submit("orders")
    await soon(hold.reached(2))
    await kill(dying)
    hold.open()
    living = await open_engine(version(shop.refund))
    await look_for_orphans(living)
    found = await soon((await living.find(run.id)).result())
    assert [each async for each in found] == ["paid 2"]
    [failed] = await (await living.find(run.id)).items("orders")
    assert isinstance(failed.error, ReplayMismatch)
    assert shop.bodies == {"item 1": 2, "item 2": 2}
    assert shop.calls == {"charge 1": 1, "charge 2": 1}


async def _more(of: list[str], number: int) -> None:
    while len(set(of)) < 2 or len(of) < number:
        await asyncio.sleep(0)


async def _is(engine: Engine, gate: str, state: str) -> None:
    while (await engine.gates.get(gate)).state != state:
        await asyncio.sleep(0)


async def _second(engine: Engine, run_id: str) -> None:
    """Return once a run waits for the second of its signals."""
    while not any(each.run_id == run_id for each in await _open(engine, run_id) if each.key == "str#2"):
        await asyncio.sleep(0)


async def _is_open(engine: Engine, run_id: str, number: int) -> None:
    while len(await _open(engine, run_id)) < number:
        await asyncio.sleep(0)


async def _open(engine: Engine, run_id: str) -> list[Any]:
    found = await engine._live().store.gates.of_run(run_id)
    return [each.gate for each in found if each.state == "open"]
