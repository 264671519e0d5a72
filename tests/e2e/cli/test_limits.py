"""`flowstone limits`: what operators see of limits, and do to them (RATE-09, RATE-10)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flowstone_async import Engine, Limits, Pipeline, Rate
from flowstone_async.cli import exit_code
from tests.e2e.cli.process import Shell


def using(dsn: str, use: Callable[[Limits], Awaitable[Any]]) -> Any:
    """Use the limits of an engine on a store."""

    async def used() -> Any:
        async with Engine(Pipeline("app"), store=dsn, slots=0) as engine:
            return await use(engine.limits)

    return asyncio.run(used())


def test_limits_are_listed(postgres: Shell, dsn: str) -> None:
    """RATE-10: one on a line, by key; with --json with all that is known."""
    nothing = postgres.run("limits", "ls")
    assert (nothing.code, nothing.data) == (exit_code.OK, "")
    assert "no limits" in nothing.messages

    async def use(limits: Limits) -> None:
        await limits.check("openai", Rate(60, per="1h", burst=10))
        await limits.set("gpu", 4)
        await limits.back_off("mail", "1h")

    using(dsn, use)
    listed = postgres.run("limits", "ls")
    assert listed.code == exit_code.OK
    lines = [" ".join(line.split()) for line in listed.data.splitlines()]
    assert lines[0] == "limit is used left backed off note"
    assert lines[1] == "gpu 4 slots 0 4 set"
    assert lines[2].startswith("mail 3")
    assert lines[3] == "openai 60 in 3600 s, 10 at once 1 59"
    found = {each["key"]: each for each in map(json.loads, postgres.run("limits", "ls", "--json").data.splitlines())}
    assert (found["gpu"]["kind"], found["gpu"]["limit"], found["gpu"]["setting"]) == ("slots", 4, 4)
    assert (found["openai"]["count"], found["openai"]["per"], found["openai"]["burst"]) == (1, 3600.0, 10)
    assert found["openai"]["utilisation"] == pytest.approx(1 / 60)
    assert 3500 < found["mail"]["backed_off"] <= 3600


def test_one_limit_is_shown_with_those_who_hold_it(postgres: Shell, dsn: str) -> None:
    """RATE-10: while an application uses it."""

    async def use(limits: Limits) -> tuple[str, str]:
        async with limits.slots("gpu", 2):
            text = await asyncio.to_thread(postgres.run, "limits", "ls", "gpu")
            data = await asyncio.to_thread(postgres.run, "limits", "ls", "gpu", "--json")
        return text.data, data.data

    text, data = using(dsn, use)
    assert "2 slots" in text
    assert "holds  outside of runs" in text
    assert len(json.loads(data)["holders"]) == 1


def test_a_limit_is_set_for_everybody(postgres: Shell, dsn: str) -> None:
    """RATE-09."""
    done = postgres.run("limits", "set", "openai", "2/1h")
    assert (done.code, done.data) == (exit_code.OK, "")
    assert "limit 'openai' is 2 in 3600 s from now on" in done.messages

    async def use(limits: Limits) -> list[bool]:
        return [await limits.check("openai", Rate(99)) == 0.0 for _ in range(3)]

    assert using(dsn, use) == [True, True, False]
    assert json.loads(postgres.run("limits", "set", "openai", "9/1h", "--burst", "3", "--json").data)["burst"] == 3
    assert "is 1 slot from" in postgres.run("limits", "set", "gpu", "1").messages
    assert "what code says holds again" in postgres.run("limits", "set", "openai", "none").messages
    assert json.loads(postgres.run("limits", "ls", "openai", "--json").data)["setting"] is None


def test_a_limit_is_emptied_and_backed_off(postgres: Shell, dsn: str) -> None:
    """RATE-10."""
    rate = Rate(1, per="1h")

    async def use(limits: Limits) -> float:
        return await limits.check("k", rate)

    assert using(dsn, use) == 0.0
    assert "is empty" in postgres.run("limits", "reset", "k").messages
    assert using(dsn, use) == 0.0
    done = postgres.run("limits", "back-off", "new", "2h", "--json")
    assert json.loads(done.data)["backed_off"] == pytest.approx(7200, abs=60)
    assert "grants nothing for" in postgres.run("limits", "back-off", "new", "90s").messages

    async def wait(limits: Limits) -> float:
        return await limits.check("new", rate)

    assert using(dsn, wait) > 3600


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["set", "openai"], "LIMIT is missing", "flowstone limits set KEY LIMIT"),
        (["set"], "KEY is missing", "KEY LIMIT"),
        (["set", "a", "1", "2"], "'2' is one word too many", "--help"),
        (["set", "a", "fast"], "'fast' is no limit", "60/1m"),
        (["set", "a", "0"], "'0' is no limit", "60/1m"),
        (["set", "a", "0/1m"], "n is 1 or more", "60 in each minute"),
        (["set", "a", "5/soon"], "is not a duration", "15m"),
        (["set", "a", "5/1s", "--burst", "9"], "a burst is from 1 to n", "from 1 to 5"),
        (["set", "a", "5", "--burst", "2"], "--burst is for a rate", "60/1m"),
        (["back-off", "a", "soon"], "DURATION='soon' is not a duration", "30s"),
        (["reset"], "KEY is missing", "limits reset KEY"),
        (["release", "a"], "there is no command 'limits release'", "Did you mean 'limits reset'"),
        (["ls", "--store", "memory"], "a memory store ends with this command", "postgresql://"),
    ],
)
def test_wrong_usage_shows_the_way_out(memory: Shell, words: list[str], message: str, hint: str) -> None:
    """G-05."""
    done = memory.run("limits", *words)
    assert (done.code, done.data) == (exit_code.USAGE, "")
    assert message in done.messages
    assert hint in done.messages
