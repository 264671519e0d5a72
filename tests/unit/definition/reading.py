"""What a pipeline's validation says, in the form that tests compare."""

from __future__ import annotations

import inspect
from typing import Any

from flowstone_async import Pipeline, Problem


def problems(pipe: Pipeline) -> list[str]:
    """Return the problems as `CODE message` lines, the hint after a bar."""
    return [f"{p.code} {p.message}" + (f" | {p.hint}" if p.hint else "") for p in pipe.problems()]


def codes(pipe: Pipeline) -> list[str]:
    """Return the problems' codes."""
    return [problem.code for problem in pipe.problems()]


def only(pipe: Pipeline) -> Problem:
    """Return the one problem there is."""
    found = pipe.problems()
    assert len(found) == 1, problems(pipe)
    return found[0]


def line_here(offset: int = 0) -> int:
    """Return the line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno + offset


def untyped(thing: object) -> Any:
    """Return a thing of which a type checker knows nothing, to misuse it on purpose."""
    return thing
