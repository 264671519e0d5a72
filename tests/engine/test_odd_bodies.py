"""Bodies that do odd things to their task, their thread or their process: none of it reaches the run."""

from __future__ import annotations

import asyncio

import pytest

from flowstone_async import ConfigError, Engine, ExecutionError, Pipeline, Retention
from tests.support.engines import OpenVerbs


def odd() -> Pipeline:
    pipe = Pipeline("odd")

    @pipe.asset
    async def cancels_itself() -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return 1

    @pipe.asset
    async def leaves_a_cancellation() -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return 1

    @pipe.asset
    async def says_nothing() -> int:
        raise ValueError

    return pipe


async def test_a_body_that_cancels_itself_fails_alone(open_verbs: OpenVerbs) -> None:
    """ERR-04, RUN-24: nobody cancelled it, so that it is a failure, on record like any other."""
    verbs = await open_verbs(odd())
    with pytest.raises(ExecutionError, match="although nobody cancelled it") as caught:
        await verbs.run("cancels_itself")
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert (await verbs.status("cancels_itself")).state == "failed"


async def test_a_cancellation_left_behind_hits_nothing_else(open_verbs: OpenVerbs) -> None:
    """G-02: the value is committed and returned; the commit is not what is cancelled."""
    verbs = await open_verbs(odd())
    assert await verbs.run("leaves_a_cancellation") == 1
    assert (await verbs.status("leaves_a_cancellation")).state == "completed"


async def test_an_exception_without_text_is_named_once(open_verbs: OpenVerbs) -> None:
    """ERR-05: the class says it all."""
    verbs = await open_verbs(odd())
    with pytest.raises(ExecutionError, match="failed: ValueError$"):
        await verbs.run("says_nothing")


async def test_run_refuses_what_it_does_not_know(open_verbs: OpenVerbs) -> None:
    """An unknown keyword is a `TypeError` that names the verb; a bad id is refused before anything runs."""
    verbs = await open_verbs(odd())
    with pytest.raises(TypeError, match=r"run\(\) got an unexpected keyword argument 'retries'"):
        await verbs.run("says_nothing", retries=3)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="not a UUID"):
        await verbs.run("says_nothing", run_id="mine")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"retention": "3d"}, "retention="),
        ({"migrate": "no"}, "migrate="),
        ({"notify": 5}, "notify="),
        ({"strict_metadata": None}, "strict_metadata="),
        ({"store": "memory", "direct": "postgresql://h/d"}, "direct="),
    ],
)
def test_an_engine_refuses_options_that_say_nothing(option: dict[str, object], text: str) -> None:
    """CFG-01, G-05: on construction, naming the option."""
    with pytest.raises(ConfigError, match=text):
        Engine(odd(), **option)  # type: ignore[arg-type]


def test_an_engine_takes_every_form_of_retention() -> None:
    """CFG-06: a `Retention`, False, or nothing."""
    for retention in (None, False, Retention(runs="1d")):
        Engine(odd(), store="memory", retention=retention)
