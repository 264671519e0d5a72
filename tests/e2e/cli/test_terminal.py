"""On a terminal: a view that is redrawn, questions, Ctrl-C (CLI-05, FLOW-16)."""

from __future__ import annotations

import pytest

from tests.e2e.cli.process import Shell, Terminal


def _last_view(shown: str, title: str) -> list[str]:
    return [line.rstrip() for line in shown[shown.rindex(title) :].split("\r\n")]


def test_a_run_is_drawn_with_a_line_for_each_asset(memory: Shell) -> None:
    with Terminal(memory, "run", "flow.py", "weekly", "-p", "2025-01-05", env={"NO_COLOR": "1"}) as terminal:
        done = terminal.end()
    assert done.code == 0
    header, daily, weekly, footer, *rest = _last_view(done.data, "weekly  2025-01-05")
    assert "run " in header
    assert (daily[0], daily.split()[1], "500 rows" in daily) == ("✓", "daily", True)
    assert (weekly[0], weekly.split()[1], "never computed" in weekly) == ("✓", "weekly", True)
    assert footer.startswith("2/2 in ")
    assert "weekly = 35" in "\n".join(rest)
    assert "{" not in done.data, "no JSON for people"
    assert "\x1b[3" not in done.data, "no colour"


def test_what_is_fresh_is_marked_and_a_failure_stands_on_its_line(postgres: Shell) -> None:
    postgres.run("run", "flow.py", "double")
    with Terminal(postgres, "run", "flow.py", "double") as terminal:
        reused = terminal.end()
    with Terminal(postgres, "run", "flow.py", "below") as terminal:
        failed = terminal.end()
    assert (reused.code, failed.code) == (0, 1)
    assert "\x1b[36m↺" in reused.data, "in colour"
    assert "1/1 in " in reused.data
    shown = failed.data
    assert "✗" in shown
    assert "no way with" in shown
    assert "password=***" in shown
    assert "hunter2" not in shown
    assert "error: asset 'below' could not run" in shown


def test_what_bodies_print_stands_above_the_view(memory: Shell) -> None:
    with Terminal(memory, "run", "flow.py", "noisy") as terminal:
        done = terminal.end()
    assert done.code == 0
    assert done.data.index("noise of a body") < done.data.rindex("3/3 in ")


def test_a_backfill_is_a_bar(memory: Shell) -> None:
    words = ("backfill", "flow.py", "weekly", "--parallel", "4")
    with Terminal(memory, *words, env={"NO_COLOR": "1"}) as terminal:
        done = terminal.end()
    view = _last_view(done.data, "weekly  2025-01-01..2025-01-10")
    assert done.code == 1
    assert any(line.startswith("✗  daily") and "9 computed, 1 failed" in line for line in view)
    assert any("10/10 in " in line and "1 failed" in line for line in view)
    assert "1 of 10 partitions failed" in done.data
    assert "2025-01-03: asset " in done.data


def test_json_is_json_on_a_terminal_too(memory: Shell) -> None:
    with Terminal(memory, "run", "flow.py", "base", "--json") as terminal:
        done = terminal.end()
    assert '"type": "run.finished"' in done.data
    assert "1/1 in" not in done.data


def test_ctrl_c_leaves_a_whole_view_and_the_cursor(memory: Shell) -> None:
    with Terminal(memory, "run", "flow.py", "endless", env={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for("BEGUN")
        terminal.press("\x03")
        done = terminal.end()
    assert done.code == 130
    assert "CLEANED UP" in done.data
    assert done.data.rindex("\x1b[?25h") > done.data.rindex("\x1b[?25l"), "the cursor is shown again"
    assert done.data.rindex("interrupted; to go on") > done.data.rindex("–  endless")  # noqa: RUF001


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 2), ("\n", 2)])
def test_invalidate_shows_the_count_and_asks(postgres: Shell, answer: str, left: int) -> None:
    postgres.run("run", "flow.py", "noisy")
    with Terminal(postgres, "invalidate", "flow.py", "double", "--cascade") as terminal:
        terminal.wait_for("This deletes 2 values of double, with what was computed from it. Go on? [y/N]")
        terminal.press(answer)
        done = terminal.end()
    assert done.code == 0
    assert ("nothing was deleted" in done.data) == bool(left)
    stored = [postgres.run("get", "flow.py", asset).code for asset in ("base", "double", "noisy")]
    assert stored == [0, *([0, 0] if left else [1, 1])]


def test_a_question_can_be_interrupted(postgres: Shell) -> None:
    postgres.run("run", "flow.py", "base")
    with Terminal(postgres, "invalidate", "flow.py", "base") as terminal:
        terminal.wait_for("[y/N]")
        terminal.press("\x03")
        done = terminal.end()
    assert done.code == 130
    assert postgres.run("get", "flow.py", "base").code == 0


def test_a_value_is_shown_without_secrets_and_control_characters(postgres: Shell) -> None:
    postgres.run("run", "flow.py", "text")
    postgres.run("run", "flow.py", "raw")
    with Terminal(postgres, "get", "flow.py", "text") as terminal:
        text = terminal.end()
    with Terminal(postgres, "get", "flow.py", "raw") as terminal:
        raw = terminal.end()
    assert "plain \\x1b[31mtext\\x1b[0m token=***" in text.data
    assert (raw.code, "-o FILE" in raw.data) == (2, True)
