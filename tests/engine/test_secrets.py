"""Secrets of params in what is shown of a run: SEC-04, FLOW-02."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from flowstone_async import ConfigError, Context, Event, ExecutionError, Pipeline
from tests.support.engines import OpenEngine, OpenVerbs


class Login(BaseModel):
    pin: SecretStr = SecretStr("")
    password: str = "default"
    user: str = "ada-lovelace"


@dataclass
class PlainLogin:
    pin: SecretStr
    password: str
    user: str = "ada-lovelace"


def _pipeline(kind: type = Login) -> Pipeline:
    pipe = Pipeline("login", params=kind)

    @pipe.asset
    async def fails(params: kind) -> int:  # type: ignore[valid-type]
        given: Any = params
        raise ValueError(f"pin {given.pin.get_secret_value()}, pass {given.password}, user {given.user}")

    @pipe.asset
    async def logs(ctx: Context) -> int:
        ctx.log.info("pin %s", ctx.params.pin.get_secret_value(), extra={"sent": f"pass {ctx.params.password}"})
        return 1

    return pipe


GIVEN = {"pin": "pin-of-ada", "password": "pass-of-ada"}


def _of_error(error: ExecutionError) -> str:
    return f"{error}{error.hint}{error.details}{error.traceback_text}{error.cause_text}"


@pytest.mark.parametrize("kind", [Login, PlainLogin])
async def test_an_error_shows_no_secret_of_the_params(
    open_verbs: OpenVerbs, caplog: pytest.LogCaptureFixture, kind: type
):
    """SEC-04: neither raised, logged nor read back; other params are shown."""
    verbs = await open_verbs(_pipeline(kind))
    with pytest.raises(ExecutionError) as caught:
        await verbs.run("fails", params=GIVEN)
    stored = (await verbs.status("fails")).error
    assert isinstance(stored, ExecutionError)
    for told in (_of_error(caught.value), _of_error(stored), caplog.text):
        assert "of-ada" not in told
        assert "pin ***, pass ***, user ada-lovelace" in told


async def test_events_show_no_secret_of_the_params(open_engine: OpenEngine):
    """SEC-04: those that hooks hear."""
    engine, heard = await open_engine(_pipeline()), list[Event]()
    engine.on(Event)(heard.append)
    await engine.report("fails", params=GIVEN)
    assert [event for event in heard if event.type == "asset.failed"]
    for event in heard:
        assert "of-ada" not in repr(event)
        assert "of-ada" not in str(getattr(event, "error", ""))


async def test_a_body_logs_no_secret_of_the_params(open_verbs: OpenVerbs, caplog: pytest.LogCaptureFixture):
    """SEC-04: nor its extra fields; with hooks and without."""
    caplog.set_level(logging.INFO, logger="flowstone")
    pipe = _pipeline()
    verbs = await open_verbs(pipe)
    await verbs.run("logs", params=GIVEN)
    pipe.on(Event)(lambda event: None)
    await verbs.run("logs", params=GIVEN, force=True)
    records = [record for record in caplog.records if "pin" in record.getMessage()]
    assert [record.getMessage() for record in records] == ["[logs] pin ***"] * 2
    assert [vars(record)["sent"] for record in records] == ["pass ***"] * 2
    assert not any("of-ada" in repr(vars(record)) for record in caplog.records)


async def test_a_field_named_like_a_secret_is_stored_and_not_shown(open_engine: OpenEngine):
    """SEC-04, FLOW-02: a run needs it to be continued; what is shown of the run has it not."""
    engine = await open_engine(_pipeline())
    run = await engine.submit("logs", params={"password": "pass-of-ada"})
    await run
    (record,) = await engine.runs()
    assert "pass-of-ada" in record.params
    assert "of-ada" not in repr(record) + repr(run.ref)
    request = engine._live().request(["logs"], params=GIVEN)
    assert "of-ada" not in repr(request)


async def test_a_default_is_no_secret_and_hides_no_word(open_verbs: OpenVerbs):
    """SEC-04: it is in the code, and may be a word that stands anywhere."""
    verbs = await open_verbs(_pipeline())
    with pytest.raises(ExecutionError, match="pin , pass default, user ada-lovelace"):
        await verbs.run("fails")


async def test_params_that_cannot_be_stored_are_refused_without_showing_a_secret(open_verbs: OpenVerbs):
    """SEC-04, FLOW-02."""

    class Odd(BaseModel):
        password: object = None

    pipe = Pipeline("odd", params=Odd)
    pipe.constant("one", 1)
    verbs = await open_verbs(pipe)
    with pytest.raises(ConfigError, match="field 'password' of params cannot be stored") as caught:
        await verbs.run("one", params={"password": ("of-ada",)})
    assert "of-ada" not in str(caught.value)
