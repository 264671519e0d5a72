"""What `flowstone worker` says of itself, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from flowstone_async import events
from flowstone_async.cli.at_work import AtWork
from flowstone_async.cli.worker import shown
from tests.unit.cli.conftest import Invoke

AT = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("embedded", "embedded"),
        ("embedded:/tmp/store", "embedded:/tmp/store"),
        ("postgresql://u:topsecret@host:5432/db?password=other", "postgresql://u@host:5432/db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://u:p%40w@[::1]:5432/db", "postgresql://u@[::1]:5432/db"),
        ("postgresql://u:pw@[::1/db", "postgresql"),
    ],
)
def test_a_store_is_shown_without_its_password(store: str, said: str) -> None:
    assert shown(store) == said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--health-port", "65536"], "there is no such port"),
        (["--grace", "soon"], "--grace='soon' is not a duration"),
        (["--block-limit", "0s"], "--block-limit='0s' is not a duration"),
        (["--lease=-1s"], "--lease='-1s' is not a duration"),
        (["--direct", "$NOWHERE_TO_BE_FOUND"], "--direct needs the variable NOWHERE_TO_BE_FOUND"),
        (["--store", "memory"], "a memory store ends with this command"),
        (["shop.py:pipe", "--store", "postgresql://u:pw@127.0.0.1:1/db"], "two pipelines are called 'shop'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_opened(invoke: Invoke, words: list[str], message: str) -> None:
    done = invoke("worker", "shop.py", *words)
    assert (done.code, done.data) == (2, "")
    assert message in done.messages


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["submit", "shop.py", "reprot"], "no asset 'reprot'"),
        (["submit", "shop.py", "rates", "--timeout", "soon"], "not a duration"),
        (["submit", "shop.py", "report", "-p", "2025-01-01..2025-01-03", "--no-deps"], "a range of keys"),
        (["submit", "shop.py", "rates", "--parallel", "3"], "--parallel is for a range"),
        (["submit", "shop.py", "rates", "--store", "memory"], "a memory store ends with this command"),
        (["watch", "shop.py", "nothing", "--store", "memory"], "no run 'nothing' in this store"),
        (["cancel", "shop.py", "nothing", "--store", "memory"], "no run 'nothing' in this store"),
        (["retry", "shop.py", "nothing", "--store", "memory"], "no run 'nothing' in this store"),
    ],
)
def test_what_cannot_be_done_to_a_run_is_a_usage_error(invoke: Invoke, words: list[str], message: str) -> None:
    done = invoke(*words)
    assert (done.code, done.data) == (2, "")
    assert message in done.messages


async def test_what_is_at_work_is_told_until_it_ends() -> None:
    at_work = AtWork()
    where: dict[str, Any] = {"pipeline": "shop", "run_id": "r1", "at": AT}
    for event in (
        events.RunStarted(**where, targets=("b",)),
        events.AssetStarted(**where, asset="a", partition=None),
        events.AssetStarted(**where, asset="b", partition="k"),
        events.AssetStarted(pipeline="shop", run_id="r2", at=AT, asset="c"),
    ):
        await at_work.hear(event)
    assert at_work.describe() == "a (run r1), b [k] (run r1), c (run r2)"
    await at_work.hear(events.AssetFinished(**where, asset="a", outcome="succeeded"))
    assert at_work.describe() == "b [k] (run r1), c (run r2)"
    at_work.keep({"r1", "r2"})
    assert at_work.describe() == "b [k] (run r1), c (run r2)"
    await at_work.hear(events.RunFinished(**where, state="cancelled"))
    assert (at_work.describe(), list(at_work.runs)) == ("c (run r2)", ["r2"])
    at_work.keep({"r1"})
    assert (at_work.describe(), list(at_work.runs)) == ("", [])
