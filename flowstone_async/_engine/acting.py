"""On whose behalf an engine is called: what stands in the audit log."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Actor(NamedTuple):
    """Somebody who acts.

    Attributes:
        name: Who.
        kind: `person`, or `process` for a call in this process.
    """

    name: str = "process"
    kind: str = "process"


_acting: ContextVar[Actor] = ContextVar("flowstone_actor", default=Actor())  # noqa: B039 - a frozen value


def acting_now() -> Actor:
    """Return on whose behalf the current task calls."""
    return _acting.get()


@contextmanager
def acting(who: Actor) -> Generator[None]:
    """Let what is called in the block be on somebody's behalf."""
    token = _acting.set(who)
    try:
        yield
    finally:
        _acting.reset(token)
