"""What the library and the user's bodies log, among the messages of a command."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime

from typing_extensions import override

from flowstone_async.cli.output import Output


@contextmanager
def logged_to(output: Output, *, verbose: bool, service: bool = False) -> Generator[None]:
    """Show what is logged as a warning or worse, with `verbose` everything from INFO, until the end of the block.

    Args:
        output: Where it is shown.
        verbose: Whether tracebacks are shown, too.
        service: Whether everything from INFO is shown, with time and level: also the line of each finished asset.
    """
    logger = logging.getLogger("flowstone")
    kind = _ServiceHandler if service else _Handler
    handler, level = kind(output, verbose=verbose), logger.level
    logger.addHandler(handler)
    if verbose or service:
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
        self._output.say(text + self._trace(record))

    def _trace(self, record: logging.LogRecord) -> str:
        if not self._verbose or record.exc_info is None:
            return ""
        return "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()


class _ServiceHandler(_Handler):
    @override
    def emit(self, record: logging.LogRecord) -> None:
        at = datetime.fromtimestamp(record.created, UTC)
        text = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z {record.levelname} {record.getMessage()}"
        self._output.say(text + self._trace(record))
