"""The process of the `flowstone` command: its streams, and its end."""

from __future__ import annotations

import os
import sys
import threading
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO, cast

from flowstone_async.cli import exit_code
from flowstone_async.cli.execute import execute
from flowstone_async.cli.output import Output

_PATIENCE = 2.0


def run_process() -> int:
    """Do what the command line of this process says and return the exit code."""
    messages = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for as long as we live
    data = _reserve_stdout()
    output = Output(data, messages, terminal=data.isatty(), end_within=_end_within)
    try:
        cwd = Path.cwd()
    except FileNotFoundError:
        output.fail("the current directory is not there any more", "Go to one that is.")
        return exit_code.USAGE
    try:
        return execute(sys.argv[1:], output, cwd)
    except Exception as error:  # the last line of defence: whatever is shown is redacted
        import traceback

        trace = "".join(traceback.format_exception(error)).rstrip()
        output.fail(f"flowstone_async made a mistake: {type(error).__name__}: {error}", f"Please report it:\n{trace}")
        return exit_code.FAILED


def _reserve_stdout() -> TextIO:
    """Return a stream for data, and lead whatever else is printed, by bodies and their processes, to standard error."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    kept = _copied(1)
    os.dup2(_copied(2), 1)
    if sys.stdout is not None:
        cast("TextIOWrapper", sys.stdout).reconfigure(line_buffering=True)
    return os.fdopen(kept, "w", encoding=encoding, errors="backslashreplace")


def _copied(descriptor: int) -> int:
    """Return a copy that is none of the three streams, and leads nowhere if whoever started us closed it."""
    try:
        copied = os.dup(descriptor)
    except OSError:
        copied = os.open(os.devnull, os.O_WRONLY)
    return copied if copied > 2 else _copied(copied)  # noqa: PLR2004 - standard error


def _end_within(code: int) -> None:
    """End the process soon, whatever a thread that was left behind (`run_in="thread"`) is still at."""
    timer = threading.Timer(_PATIENCE, os._exit, (code,))
    timer.daemon = True
    timer.start()
