"""Two streams: data on one, messages on the other, secrets on neither."""

import io
import json
import os
from pathlib import Path

import pytest

from flowstone_async.cli.output import Output, OutputError, ReaderGone
from flowstone_async.redaction import Redactor


def _output(messages: io.StringIO | None = None) -> Output:
    data = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    return Output(data, messages or io.StringIO(), terminal=False)


def _written(output: Output) -> str:
    output.data.seek(0)
    return output.data.read()


def test_what_is_shown_is_redacted_and_escaped() -> None:
    messages = io.StringIO()
    output = _output(messages)
    output.show("\x1b[31mred\u202e token=abc postgresql://u:pw@h/db")
    output.fail("no \x07 bell for password: hunter2", "api_key=k\nsecond")
    assert _written(output) == "\\x1b[31mred\\u202e token=*** postgresql://u:***@h/db\n"
    assert messages.getvalue() == "error: no \\x07 bell for password: ***\n  api_key=***\n  second\n"


def test_json_is_redacted_ascii_on_one_line() -> None:
    output = _output()
    output.json({"password": "pw", "text": "línea\n\x9b token=x", "tokens": 7})
    line = _written(output)
    assert line.isascii()
    assert line.count("\n") == 1
    assert json.loads(line) == {"password": "***", "text": "línea\n\x9b token=***", "tokens": 7}


def test_secrets_stay_hidden_with_the_redactor_of_an_engine() -> None:
    output = _output()
    output.hide(["correct-horse"])
    engines = Redactor()
    engines.learn("battery-staple")
    output.share(engines)
    output.show("correct-horse battery-staple")
    assert _written(output) == "*** ***\n"


def test_messages_go_above_a_view_that_is_redrawn() -> None:
    messages, above = io.StringIO(), []
    output = _output(messages)
    output.above = above.append
    output.say("token=x")
    assert (above, messages.getvalue()) == (["token=***"], "")


def test_a_reader_that_has_gone_is_told_from_a_full_disk() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, pytest.raises(ReaderGone):
        Output(pipe, io.StringIO(), terminal=False).write("x")
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full, pytest.raises(OutputError, match="No space left"):
            Output(full, io.StringIO(), terminal=False).write("x")


def test_messages_that_nobody_can_read_are_no_failure() -> None:
    messages = io.StringIO()
    messages.close()
    _output(messages).say("x")
