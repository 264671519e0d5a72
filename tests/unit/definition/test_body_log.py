"""What bodies log: FLOW-03, SEC-04."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest

from flowstone_async.definition.body_log import BodyLog
from flowstone_async.redaction import Redactor

_logger = logging.getLogger("flowstone")


class _Unreadable:
    def __init__(self) -> None:
        self.asked = 0

    def __str__(self) -> str:
        self.asked += 1
        raise ValueError("no text")


def _log(*, partition: object = None) -> BodyLog:
    redactor = Redactor(["iban"])
    redactor.learn("known-secret")
    return BodyLog(_logger, {"run_id": "r", "asset": "a", "partition": partition}, redactor)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="flowstone")
    return caplog


@pytest.mark.parametrize(
    ("message", "args", "shown"),
    [
        ("password=hunter2 %s", ({"password": "hunter2"},), "password=*** {'password': '***'}"),
        ("password=%s", ("hunter2",), "password=***"),
        ("%s=%s", ("token", "hunter2"), "token=***"),
        ("%(user)s %(password)s", ({"user": "ada", "password": "hunter2"},), "ada ***"),
        ("%s", ({"passwords": ["hunter2", "hunter2 b"]},), "{'passwords': '***'}"),
        ("iban=%s", ("hunter2",), "iban=***"),
        ("see %s", ("known-secret",), "see ***"),
        ({"password": "hunter2"}, (), "{'password': '***'}"),
        ("%d%% of %s", (50, "rows"), "50% of rows"),
        ("100% done", (), "100% done"),
        ("two\nlines \x1b[1m", (), "two\nlines \\x1b[1m"),
    ],
    ids=range(11),
)
def test_a_message_shows_no_secret(
    logged: pytest.LogCaptureFixture, message: object, args: tuple[object, ...], shown: str
) -> None:
    """SEC-04: neither in the record nor in what a handler makes of it."""
    _log().info(message, *args)
    (record,) = logged.records
    assert record.getMessage() == f"[a] {shown}"
    assert "hunter2" not in logged.text + repr(vars(record))


def test_extra_fields_show_no_secret(logged: pytest.LogCaptureFixture) -> None:
    """SEC-04: handlers that write JSON show them all; run, asset and partition are there."""
    given = {"token": "hunter2", "table": "orders", "request": {"headers": {"Cookie": "hunter2"}}}
    _log(partition=("known-secret", 1)).warning("read", extra=given)
    (record,) = logged.records
    facts: dict[str, Any] = vars(record)
    assert (facts["token"], facts["table"], facts["request"]) == ("***", "orders", {"headers": {"Cookie": "***"}})
    assert (facts["run_id"], facts["asset"], facts["partition"]) == ("r", "a", ("known-secret", 1))
    assert record.getMessage() == "[a ('***', 1)] read"
    assert given["token"] == "hunter2"


def test_a_traceback_shows_no_secret(logged: pytest.LogCaptureFixture) -> None:
    """SEC-04: its text takes the place of the exception; one without secrets is handed on as it is."""
    for text in ("known-secret is wrong", "all is wrong"):
        try:
            raise ValueError(text)
        except ValueError as error:
            _log().exception("failed")
            _log().error("failed", exc_info=error)
            _log().error("failed", exc_info=sys.exc_info())
    _log().error("failed", exc_info=True)  # nothing is being handled
    hidden, plain = logged.records[:3], logged.records[3:6]
    assert "known-secret" not in logged.text
    assert logged.text.count("ValueError: *** is wrong") == logged.text.count("ValueError: all is wrong") == 3
    assert all(record.exc_info is None for record in hidden)
    assert all(record.exc_info and record.exc_info[0] is ValueError for record in plain)
    assert logged.records[6].exc_info is None


def test_a_record_says_where_it_was_logged(logged: pytest.LogCaptureFixture) -> None:
    """FLOW-03: the line of the body, by whichever method, and its stack where that is asked for."""
    log = _log()
    log.info("one")
    log.log(logging.WARNING, "two", stack_info=True)
    _further_out(log)
    here = [(record.filename, record.funcName) for record in logged.records]
    assert here == [("test_body_log.py", "test_a_record_says_where_it_was_logged")] * 3
    assert "test_body_log" in str(logged.records[1].stack_info)


def _further_out(log: BodyLog) -> None:
    log.info("three", stacklevel=2)


def test_nothing_is_done_for_a_level_that_is_off(caplog: pytest.LogCaptureFixture) -> None:
    """SEC-04: not even formatting."""
    caplog.set_level(logging.WARNING, logger="flowstone")
    value = _Unreadable()
    _log().info("see %s", value)
    assert (value.asked, caplog.records) == (0, [])


@pytest.mark.parametrize(("message", "args"), [("%s", (_Unreadable(),)), ("%d", ("x",)), ("%s %s", ("x",))])
def test_a_message_that_cannot_be_formatted_ends_no_body(
    logged: pytest.LogCaptureFixture, message: str, args: tuple[object, ...]
) -> None:
    """FLOW-03: as with any other logger; it is said."""
    _log().info(message, *args)
    assert [each.getMessage() for each in logged.records] == [f"[a] {message} (its arguments do not fit)"]


def test_without_an_engine_names_still_count(logged: pytest.LogCaptureFixture) -> None:
    """SEC-04: a context made by hand has no redactor of an engine."""
    BodyLog(_logger, {"run_id": "r", "asset": "a", "partition": None}).info("token=%s", "hunter2")
    assert logged.messages == ["[a] token=***"]
