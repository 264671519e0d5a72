"""The reporter of machines holds nothing up."""

import io
import json
import os
import threading
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from flowstone_async import AssetFailed, AssetSucceeded, ExecutionError
from flowstone_async.cli import json_lines
from flowstone_async.cli.json_lines import JsonLines
from flowstone_async.cli.output import Output

AT = datetime(2025, 1, 15, tzinfo=UTC)


def _succeeded(no: int = 1) -> AssetSucceeded:
    return AssetSucceeded(
        pipeline="p",
        run_id="r",
        at=AT,
        no=no,
        asset="a",
        partition=date(2025, 1, 1),
        metadata={"token": "x", "rows": 1},
    )


def test_an_event_is_a_line_with_its_fields() -> None:
    data = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    lines = JsonLines(Output(data, io.StringIO(), terminal=False))
    error = ExecutionError("boom", asset="a", details={"error_type": "ValueError"}, traceback_text="Traceback")
    with lines.writing():
        lines.hear(_succeeded())
        lines.hear(AssetFailed(pipeline="p", run_id="r", at=AT, asset="a", error=error))
        lines.add({"type": "ours"})
    data.seek(0)
    succeeded, failed, ours = map(json.loads, data.readlines())
    assert succeeded["type"] == "asset.succeeded"
    assert succeeded["partition"] == "2025-01-01"
    assert succeeded["at"] == "2025-01-15T00:00:00+00:00"
    assert succeeded["metadata"] == {"token": "***", "rows": 1}
    assert failed["partition"] is None
    assert failed["error"]["code"] == "EXECUTION"
    assert failed["error"]["details"] == {"error_type": "ValueError"}
    assert ours == {"type": "ours"}


def test_a_reader_that_has_gone_is_passed_over() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    messages = io.StringIO()
    with os.fdopen(writing, "w") as pipe:
        lines = JsonLines(Output(pipe, messages, terminal=False))
        with lines.writing():
            for no in range(3):
                lines.hear(_succeeded(no))
    assert messages.getvalue() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_once() -> None:
    messages = io.StringIO()
    with Path("/dev/full").open("w") as full:
        lines = JsonLines(Output(full, messages, terminal=False))
        with lines.writing():
            for no in range(3):
                lines.hear(_succeeded(no))
    assert messages.getvalue() == "events were not written: standard output: No space left on device\n"


class _Stuck(io.StringIO):
    """A pipe that is full until somebody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.emptied = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.emptied.wait()
        return super().write(text)


def test_a_reader_that_stops_costs_events_but_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "_MOST_WAITING", 2)
    stuck, messages = _Stuck(), io.StringIO()
    lines = JsonLines(Output(stuck, messages, terminal=False))
    with lines.writing():
        lines.add(0)
        stuck.entered.wait()
        for number in range(1, 6):
            lines.add(number)
        stuck.emptied.set()
    assert stuck.getvalue() == "0\n1\n2\n"
    assert messages.getvalue() == "3 events were left out: standard output was not read\n"
