"""What is on record of a body: found by key, compared by place, handed out in the order in which it was seen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowstone_async import ConfigError, ReplayMismatch
from flowstone_async._engine.replay import script as scripts
from flowstone_async._engine.replay.prints import function_name, print_of
from flowstone_async._engine.replay.scope import Place, Scope
from flowstone_async._engine.replay.script import Called, Script
from flowstone_async.errors import Failure
from flowstone_async.store.steps import StepRecord

NO = Failure(type="ExecutionError", library=True, code="EXECUTION", message="no", retryable=False)


def record(name: str, place: int, seen: int, **changes: Any) -> StepRecord:
    made = StepRecord(f"{name}#0", "", place, seen, 1, "step", f"shop:{name}", "", b" 1")
    return made._replace(**changes)


def called(name: str, arguments: str = "", kind: str = "step") -> Called:
    return Called((kind, f"shop:{name}", arguments))


def test_a_scope_names_its_calls():
    scope = Scope()
    assert [scope.take(name) for name in ("a", "b", "a")] == [
        Place("a#0", "", 0),
        Place("b#0", "", 1),
        Place("a#1", "", 2),
    ]
    assert scope.take("a", "x") == Place("a['x']", "", 3)
    assert scope.take("a", 1) != scope.take("a", "1")
    with pytest.raises(ConfigError):
        scope.take("a", "x")
    assert Scope("a#1").take("a", "x") == Place("a#1/a['x']", "a#1", 0)


async def _order(script: Script, *names: str) -> list[str]:
    """Ask for results, one task each, and return in which order they are handed out."""
    given: list[str] = []

    async def ask(name: str) -> None:
        found = script._records[f"{name}#0"]
        await script.turn(found)
        given.append(name)

    async with asyncio.timeout(20):
        await asyncio.gather(*map(ask, names))
    return given


async def test_results_are_handed_out_as_they_were_seen():
    records = [record("a", 0, 2), record("b", 1, 0), record("c", 2, 1)]
    assert await _order(Script(records), "a", "b", "c") == ["b", "c", "a"]
    assert await _order(Script([each._replace(kind="tx") for each in records]), "c", "b", "a") == ["b", "c", "a"]


async def test_those_of_earlier_attempts_are_there_at_once():
    records = [record("a", 0, 2), record("b", 1, 0), record("c", 2, 3, attempt=2)]
    script = Script(records, attempt=2)
    assert await _order(script, "a") == ["a"]
    assert script.replaying
    assert await _order(script, "c", "b") in (["b", "c"], ["c", "b"])
    assert not script.replaying


async def test_a_result_that_nobody_asks_for_is_passed_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scripts, "_PATIENCE", 0.001)
    script = Script([record("a", 0, 0), record("b", 1, 1), record("c", 2, 2)])
    assert await _order(script, "c") == ["c"]
    assert not script.replaying


async def test_one_that_is_cancelled_while_it_waits_holds_up_nobody():
    script = Script([record("a", 0, 0), record("b", 1, 1), record("c", 2, 2)])
    found = script.find(Place("b#0", "", 1), called("b"))
    assert found is not None
    waiting = asyncio.ensure_future(script.turn(found))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await _order(script, "c", "a") == ["a", "c"]


async def test_one_that_was_passed_over_comes_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scripts, "_PATIENCE", 0.001)
    script = Script([record("a", 0, 0), record("b", 1, 1), record("c", 2, 2)])
    assert await _order(script, "c") == ["c"]
    assert await _order(script, "b", "a") == ["b", "a"]


async def test_what_is_new_comes_behind_what_was_seen():
    script = Script([record("a", 0, 0), record("b", 1, 1)])
    async with asyncio.timeout(20):
        waiting = [asyncio.ensure_future(script.drained()) for _ in range(2)]
        await _order(script, "a")
        assert not any(each.done() for each in waiting)
        await _order(script, "b")
        await asyncio.gather(*waiting)
        await script.drained()


async def test_what_is_new_waits_for_what_nobody_asks_for_only_so_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scripts, "_PATIENCE", 0.001)
    script = Script([record("a", 0, 0), record("b", 1, 1)])
    async with asyncio.timeout(20):
        await script.drained()
    assert not script.replaying


async def test_those_inside_of_a_call_that_has_a_result_are_waited_for_by_nobody():
    inside = [
        record("b", 0, seen, key=f"{path}/b#0", path=path) for seen, path in enumerate(("a#0", "a#0/map#0/c#0", "x#0"))
    ]
    script = Script([*inside, record("a", 0, 3)])
    assert script.missing == "x#0/b#0"
    assert script.below("x#0") == ("x#0/b#0",)
    assert script.below("x") == ()
    script.pass_over(["x#0/b#0"])
    assert await _order(script, "a") == ["a"]


async def test_whoever_may_ask_is_told_that_somebody_must():
    script, told = Script([record("a", 0, 0), record("b", 1, 1), record("c", 2, 2)]), list[str | None]()
    script.watchers.add(lambda: told.append(script.missing))
    assert await _order(script, "a") == ["a"]
    async with asyncio.timeout(20):
        while not told:
            await asyncio.sleep(0)
    assert told == ["b#0"]
    asked = asyncio.ensure_future(_order(script, "c"))
    await asyncio.sleep(0)
    assert script.missing == "b#0"
    script.pass_over(script.below(""))  # not what was asked for
    assert await asked == ["c"]


def test_failures_of_earlier_attempts_are_not_there():
    failed = record("a", 0, 0, value=None, error=NO)
    assert Script([failed]).find(Place("a#0", "", 0), called("a")) is not None
    assert Script([failed], attempt=2).find(Place("a#0", "", 0), called("a")) is None
    # nor is its place taken: the next attempt may do something else there
    assert Script([failed], attempt=2).find(Place("b#0", "", 0), called("b")) is None


@pytest.mark.parametrize(
    ("place", "found", "told"),
    [
        (Place("b#0", "", 0), called("b"), "another call"),
        (Place("a#0", "", 0), called("a", "other"), "other arguments"),
        (Place("a#0", "", 0), called("a", "same", kind="tx"), "another call"),
        (Place("a#0", "", 0), Called(("step", "shop:c", "same")), "another call"),
    ],
)
def test_other_code_is_found_out(place: Place, found: Called, told: str):
    script = Script([record("a", 0, 0, arguments="same")], asset="bill")
    with pytest.raises(ReplayMismatch, match=told) as raised:
        script.find(place, found)
    assert raised.value.details["found"] == list(found)
    assert not raised.value.retryable


@pytest.mark.parametrize(
    ("place", "found"),
    [
        (Place("a#0", "", 0), called("a", "same")),
        (Place("a#0", "", 5), Called(("step", "elsewhere:Moved.a", "same"))),
        (Place("b#0", "", 1), called("b")),
        (Place("b#0", "a#0", 0), called("b")),
    ],
)
def test_what_is_behind_or_was_moved_is_the_same_code(place: Place, found: Called):
    script = Script([record("a", 0, 0, arguments="same")])
    assert (script.find(place, found) is None) is place.key.startswith("b")


async def _charge(number: int, *, note: str = "", client: object = None) -> None: ...


def test_arguments_have_the_same_hash_in_every_process():
    assert print_of(_charge, (1,), {}) == print_of(_charge, (), {"number": 1})
    assert print_of(_charge, (1,), {"client": object()}) == print_of(_charge, (1,), {"client": object()})
    assert len({print_of(_charge, (number,), {"note": note}) for number in (1, 2) for note in ("", "a")}) == 4
    assert print_of(_charge, ({"b", "a", "c"},), {}) == print_of(_charge, ({"c", "a", "b"},), {})
    assert print_of(_charge, (), {}) == ""
    assert function_name(_charge) == f"{__name__}:_charge"
