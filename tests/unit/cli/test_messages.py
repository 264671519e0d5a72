"""What is logged, among the messages of a command."""

import io
import logging
import re

from flowstone_async.cli.messages import logged_to
from flowstone_async.cli.output import Output

LOGGER = logging.getLogger("flowstone")


def _messages(*, verbose: bool = False) -> str:
    messages = io.StringIO()
    output = Output(io.TextIOWrapper(io.BytesIO()), messages, terminal=False)
    with logged_to(output, verbose=verbose):
        LOGGER.info("continuing a run")
        LOGGER.warning("careful with token=abc")
        LOGGER.error("asset a failed", extra={"outcome": "failed"})
        try:
            raise ValueError("boom")
        except ValueError:
            LOGGER.exception("hook failed")
    return messages.getvalue()


def test_warnings_are_shown_redacted_and_the_line_of_an_asset_is_left_to_the_reporter() -> None:
    assert _messages() == "careful with token=***\nhook failed\n"


def test_verbose_shows_everything_with_tracebacks() -> None:
    shown = _messages(verbose=True)
    assert shown.startswith("continuing a run\ncareful")
    assert "ValueError: boom" in shown


def test_nothing_is_left_behind() -> None:
    before = (list(LOGGER.handlers), LOGGER.level)
    _messages(verbose=True)
    assert (LOGGER.handlers, LOGGER.level) == before


def test_what_the_engine_says_again_and_again_is_said_once_and_what_bodies_say_each_time() -> None:
    messages = io.StringIO()
    output = Output(io.TextIOWrapper(io.BytesIO()), messages, terminal=False)
    with logged_to(output, verbose=False):
        for _ in range(3):
            LOGGER.warning("upkeep: the store is down")
        for _ in range(2):
            LOGGER.warning("[a] look", extra={"asset": "a"})
    assert messages.getvalue() == "upkeep: the store is down\n[a] look\n[a] look\n"


def test_a_service_tells_everything_with_time_and_level() -> None:
    messages = io.StringIO()
    output = Output(io.TextIOWrapper(io.BytesIO()), messages, terminal=False)
    with logged_to(output, verbose=False, service=True):
        LOGGER.info("asset a succeeded, token=abc", extra={"outcome": "succeeded"})
        LOGGER.info("asset a succeeded", extra={"outcome": "succeeded"})
        LOGGER.warning("the store is down")
        LOGGER.debug("no")
    first, *rest = messages.getvalue().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO asset a succeeded, token=\*\*\*", first)
    assert [line.partition(" ")[2] for line in rest] == ["INFO asset a succeeded", "WARNING the store is down"]
