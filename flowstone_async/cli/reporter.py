"""Which reporter a run has: a view for people on a terminal, JSON lines for machines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple

from flowstone_async.cli.job import Job
from flowstone_async.cli.json_lines import JsonLines
from flowstone_async.cli.progress import Progress
from flowstone_async.engine import Engine
from flowstone_async.events import Event


class Reporter(NamedTuple):
    """The reporter of a command.

    Attributes:
        drawn: Whether it draws a view.
        attach: Makes it hear of an engine's events.
        tell: Writes something that is no event; nothing where a view is drawn.
    """

    drawn: bool
    attach: Callable[[Engine], None]
    tell: Callable[[object], None]


@contextmanager
def reporting(job: Job, progress: Progress) -> Generator[Reporter]:
    """Report until the end of the block.

    Args:
        job: The command.
        progress: Keeps count in any case.
    """
    if job.output.terminal and not job.options.json:
        from flowstone_async.cli.screen import Screen  # rich takes 0.1 s to import

        with Screen(job.output, progress).drawn():
            yield Reporter(drawn=True, attach=lambda engine: _attach(engine, progress.hear), tell=lambda _: None)
        return
    lines = JsonLines(job.output)
    with lines.writing():
        yield Reporter(drawn=False, attach=lambda engine: _attach(engine, progress.hear, lines.hear), tell=lines.add)


def _attach(engine: Engine, *hooks: Callable[..., object]) -> None:
    for hook in hooks:
        engine.on(Event)(hook)
