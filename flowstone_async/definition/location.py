"""Where something was defined: a file and a line, for people and editors."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType

from flowstone_async.definition.body import Body, function_of

_PACKAGE = __name__.partition(".")[0]
# What a REPL, a notebook and a doctest call the source they compile.
_INTERACTIVE = (
    *("<stdin>", "<python-input-", "<input>", "<console>", "<pyshell#"),
    *("<ipython-input-", "<command-", "<doctest "),
)


@dataclass(frozen=True, slots=True)
class Location:
    """Where something was defined.

    Attributes:
        file: Source file, relative to the working directory if it lies below it.
        line: From 1.
    """

    file: str | None = None
    line: int | None = None

    @staticmethod
    def of(body: Body) -> Location:
        """Return where a function, method or callable object was written."""
        code = getattr(function_of(body), "__code__", None)
        return Location(_shown(code.co_filename), code.co_firstlineno) if isinstance(code, CodeType) else Location()

    @staticmethod
    def of_caller() -> Location:
        """Return the line outside of this package that is being executed."""
        frame = caller()
        return Location() if frame is None else Location(_shown(frame.f_code.co_filename), frame.f_lineno)

    @property
    def interactive(self) -> bool:
        """Whether it was typed into a REPL or a notebook."""
        name = self.file or ""
        return name.startswith(_INTERACTIVE) or "ipykernel_" in name or "__marimo__" in name

    def __str__(self) -> str:
        return f"{self.file}:{self.line or 0}" if self.file else "<unknown>"


def caller() -> FrameType | None:
    """Return the nearest frame that executes code outside of this package."""
    frame = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE:
        frame = frame.f_back
    return frame


def _shown(file: str) -> str:
    try:
        return _below(file, str(Path.cwd()))
    except FileNotFoundError:  # the working directory is gone
        return file


@lru_cache(maxsize=1024)
def _below(file: str, folder: str) -> str:
    return file.removeprefix(folder + os.sep) if folder != os.sep else file
