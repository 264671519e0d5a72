"""What the library and the user's bodies log, among the messages of a command."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Generator
from contextlib import contextmanager

from typing_extensions import override

from flowstone_async.cli.output import Output


@contextmanager
def logged_to(output: Output, *, verbose: bool) -> Generator[None]:
    """Show what is logged as a warning or worse, with `verbose` everything from INFO, until the end of the block."""
    logger = logging.getLogger("flowstone")
    handler, level = _Handler(output, verbose=verbose), logger.level
    logger.addHandler(handler)
    if verbose:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Handler(logging.Handler):
    def __init__(self, output: Output, *, verbose: bool) -> None:
        super().__init__()
        self._output, self._verbose = output, verbose
        self._last = ""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "outcome"):
            return  # the line of a finished asset: the reporter has told it
        text = record.getMessage()
        if text == self._last and not hasattr(record, "asset"):
            return  # the engine tries again what failed, again and again
        self._last = text
        if self._verbose and record.exc_info is not None:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        self._output.say(text)
