"""What a body logs: bound to its run, asset and partition, with the secrets in it hidden."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any, TypeAlias, cast

from typing_extensions import override

from flowstone_async.redaction import Redactor

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]


class BodyLog(logging.LoggerAdapter[logging.Logger]):
    """A logger bound to a run, an asset and a partition, which every record carries.

    A message is formatted here, since a secret may be recognized by what stands around it. Nothing is done for a
    level that is off.

    Args:
        logger: Where records go.
        facts: `run_id`, `asset` and `partition`.
        redactor: Hides secrets.
    """

    def __init__(self, logger: logging.Logger, facts: Mapping[str, object], redactor: Redactor | None = None) -> None:
        super().__init__(logger, dict(facts))
        self._facts, self._known = dict(facts), redactor

    @property
    def _redactor(self) -> Redactor:
        if self._known is None:
            self._known = Redactor()
        return self._known

    @override
    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        given: Mapping[str, object] = kwargs.get("extra") or {}
        extra = self._facts | self._redactor.value(dict(given))
        partition = extra["partition"]
        where = f"{extra['asset']}" + (f" {self._redactor.line(str(partition))}" if partition is not None else "")
        return f"[{where}] {self._redactor.text(str(msg))}", {**kwargs, "extra": extra}

    @override
    def log(
        self,
        level: int,
        msg: object,
        *args: object,
        exc_info: Any = None,
        stack_info: bool = False,
        stacklevel: int = 1,
        extra: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        """Log a message, as `logging.Logger.log`."""
        if not self.isEnabledFor(level):
            return
        text, options = self.process(self._formatted(msg, args), {**kwargs, "extra": extra})
        place = self.logger.findCaller(stack_info, stacklevel + 1)
        raised = _exc_info(exc_info)
        told = None if raised is None else "".join(traceback.format_exception(*raised)).rstrip("\n")
        hidden = None if told is None else self._redactor.text(told)
        record = self.logger.makeRecord(
            self.logger.name,
            level,
            place[0],
            place[1],
            text,
            (),
            raised if hidden == told else None,
            place[2],
            options["extra"],
            None if place[3] is None else self._redactor.text(place[3]),
        )
        if hidden != told:
            record.exc_text = hidden  # what handlers show of it, in place of the exception with its secrets
        self.logger.handle(record)

    def _formatted(self, msg: object, args: tuple[object, ...]) -> str:
        """Return the message with its arguments, those without their secrets; `process` hides what the whole shows."""
        try:
            template = msg if isinstance(msg, str) else self._redactor.value(msg)
            values = tuple(self._redactor.value(list(args)))
            return logging.LogRecord("", 0, "", 0, template, values, None).getMessage()
        except Exception:
            shown = msg if isinstance(msg, str) else type(msg).__name__
            return f"{shown} (its arguments do not fit)"


def _exc_info(given: Any) -> ExcInfo | None:
    """Return the exception that a call of a logger names, in whatever form."""
    if not given:
        return None
    if isinstance(given, BaseException):
        return type(given), given, given.__traceback__
    kind, error, trace = cast("ExcInfo", given) if isinstance(given, tuple) else sys.exc_info()
    return None if kind is None or error is None else (kind, error, trace)
