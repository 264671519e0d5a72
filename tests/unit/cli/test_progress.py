"""What is counted of a run, and how it is drawn."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from flowstone_async import (
    AssetFailed,
    AssetFinished,
    AssetRetrying,
    AssetReused,
    AssetSkipped,
    AssetStarted,
    AssetSucceeded,
    BackfillReport,
    Event,
    ExecutionError,
    Plan,
    PlanEntry,
    RunFailed,
    RunFinished,
    RunStarted,
    RunSucceeded,
)
from flowstone_async.cli.output import Output
from flowstone_async.cli.progress import Progress
from flowstone_async.cli.screen import Screen

AT = datetime(2025, 1, 15, tzinfo=UTC)


def _event(kind: type[Event], run: str = "r1", **fields: Any) -> Event:
    return kind(pipeline="p", run_id=run, at=AT, **fields)


def _heard(progress: Progress, events: Iterable[Event]) -> Progress:
    for event in events:
        progress.hear(event)
    return progress


def _plan(*entries: tuple[str, str]) -> Plan:
    planned = tuple(PlanEntry(asset=name, partition=None, action="run", reason=why) for name, why in entries)
    return Plan(pipeline="p", targets=(entries[-1][0],), entries=planned)


def _view(progress: Progress, *, encoding: str = "utf-8") -> list[str]:
    data = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    screen = Screen(Output(data, io.StringIO(), terminal=True), progress)
    screen._console.print(screen.view())
    data.seek(0)
    return [line.rstrip() for line in data.read().splitlines()]


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")  # counts for nothing


def _run() -> Progress:
    progress = Progress("report", "2025-01-15")
    progress.expect(
        _plan(
            ("events", "upstream changed"),
            ("rates", "fresh"),
            ("odd", "never computed"),
            ("report", "never computed"),
            ("late", "never computed"),
        )
    )
    return progress


def test_each_asset_has_a_line_with_mark_seconds_rows_and_reason() -> None:
    progress = _heard(
        _run(),
        [
            _event(RunStarted, targets=("report",)),
            _event(AssetReused, asset="rates"),
            _event(AssetStarted, asset="events"),
            _event(AssetSucceeded, asset="events", seconds=0.52, metadata={"rows": 1234}),
            _event(AssetSkipped, asset="odd", reason="when=is_odd was False"),
            _event(AssetStarted, asset="report"),
        ],
    )
    progress.start()
    header, *lines, footer = _view(progress)
    assert header.startswith("report  2025-01-15")
    assert header.endswith("run r1")
    assert lines == [
        "✓  events  0.52s  1,234 rows  upstream changed",
        "↺  rates                      reused",
        "–  odd                        when=is_odd was False",  # noqa: RUF001
        "▸  report                     never computed",
        "…  late                       never computed",
    ]
    assert footer.startswith("3/5 in 0.")


def test_failures_retries_and_secrets_are_shown_on_their_line() -> None:
    progress = _heard(
        _run(),
        [
            _event(RunStarted, targets=("report",)),
            _event(AssetStarted, asset="events"),
            _event(AssetRetrying, asset="events", attempt=1, wait=2.0, error=ExecutionError("boom\nmore")),
            _event(AssetStarted, asset="rates"),
            _event(AssetFailed, asset="rates", seconds=1.0, error=ExecutionError("bad \x1b[31m token=abc")),
        ],
    )
    _, events, rates, *_ = _view(progress)
    assert events.split(maxsplit=2) == ["▸", "events", "attempt 1 failed, again in 2s: boom"]
    assert rates.split(maxsplit=3) == ["✗", "rates", "1.00s", "bad \\x1b[31m token=***"]


def test_a_success_after_a_retry_says_so() -> None:
    retried = _event(AssetRetrying, asset="events", attempt=1, wait=2.0, error=ExecutionError("boom"))
    succeeded = _event(AssetSucceeded, asset="events", attempts=2)
    progress = _heard(_run(), [_event(RunStarted), _event(AssetStarted, asset="events"), retried, succeeded])
    assert progress.lines["events"].note == "after 2 attempts"


def test_a_terminal_without_unicode_gets_plain_marks() -> None:
    progress = _heard(_run(), [_event(RunStarted), _event(AssetReused, asset="rates")])
    lines = _view(progress, encoding="ascii")
    assert lines[1].startswith(".  events")
    assert lines[2].startswith("=  rates")


def test_nothing_else_is_said_while_the_store_is_opened() -> None:
    assert _view(Progress("report"))[-1] == "opening the store"


def test_what_was_not_needed_is_left_out_at_the_end() -> None:
    progress = _heard(_run(), [_event(RunStarted), _event(AssetReused, asset="report")])
    progress.start()
    progress.end(cut_off=False)
    _, *lines, footer = _view(progress)
    assert lines == ["↺  report      reused: never computed"]
    assert footer.startswith("1/1 in ")


def test_what_was_cut_off_is_marked_at_the_end() -> None:
    progress = _heard(_run(), [_event(RunStarted), _event(AssetStarted, asset="events")])
    progress.end(cut_off=True)
    assert {line.state for line in progress.lines.values()} == {"cancelled"}


def test_a_failure_that_the_target_tolerates_is_counted_once_it_succeeds() -> None:
    failed = [_event(RunStarted, run="a"), _event(AssetFailed, run="a", asset="x")]
    assert _heard(Progress("x", partitions=2), failed).tolerated == 0
    assert _heard(Progress("x", partitions=2), [*failed, _event(RunFailed, run="a")]).tolerated == 0
    assert _heard(Progress("x", partitions=2), [*failed, _event(RunSucceeded, run="a")]).tolerated == 1


def test_runs_that_are_not_ours_are_passed_over() -> None:
    progress = Progress("x")
    _heard(progress, [_event(AssetSucceeded, run="orphan", asset="x")])
    assert not progress.lines
    ended = [_event(RunStarted), _event(RunFinished), _event(AssetSucceeded, asset="x")]
    assert not _heard(progress, ended).lines


def _backfill(done: int) -> Progress:
    progress = Progress("report", "2025-01-01..2025-02-19", partitions=50)
    events: list[Event] = []
    for number in range(done):
        run = f"r{number}"
        events += [
            _event(RunStarted, run=run),
            _event(AssetStarted, run=run, asset="events", partition=number),
            _event(AssetSucceeded, run=run, asset="events", partition=number, seconds=0.1),
            _event(AssetReused, run=run, asset="rates", partition=number),
            _event(AssetFinished, run=run, asset="events", partition=number, outcome="succeeded"),
            _event(RunSucceeded, run=run),
            _event(RunFinished, run=run),
        ]
    return _heard(progress, events)


def test_thousands_of_partitions_are_one_line_for_each_asset_and_a_bar() -> None:
    progress = _backfill(20)
    progress.take(BackfillReport(succeeded=20, failed=1))
    progress.start()
    header, events, rates, footer = _view(progress)
    assert header == "report  2025-01-01..2025-02-19"
    assert events == "✓  events  0.10s    20 computed"
    assert rates.split() == ["↺", "rates", "20", "reused"]
    assert "21/50 in " in footer
    assert "1 failed" in footer
    assert "eta" in footer
    assert not progress._runs
    assert all(not line.running for line in progress.lines.values())


def test_more_assets_than_lines_are_cut_to_those_that_matter() -> None:
    progress = Progress("last")
    events: list[Event] = [_event(RunStarted)]
    events += [_event(AssetReused, asset=f"a{number}") for number in range(100)]
    events += [_event(AssetFailed, asset="broken", error=ExecutionError("boom"))]
    _, *lines, more, _ = _view(_heard(progress, events))
    assert any("broken" in line for line in lines)
    assert len(lines) < 30
    assert more.strip() == f"and {101 - len(lines)} more assets"
