"""Which reporter a run has: a view for people on a terminal, JSON lines for machines elsewhere."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from flowstone_async.cli.job import Job
from flowstone_async.cli.json_lines import JsonLines
from flowstone_async.cli.progress import Progress
from flowstone_async.engine import Engine
from flowstone_async.events import AssetEvent, Event, LoopBlocked, ResourceFailed, RunEvent, RunStarted

REPORTED = (RunEvent, AssetEvent, ResourceFailed, LoopBlocked)


class Reporter:
    """The reporter of a command.

    Args:
        progress: Keeps count in any case.
        lines: Where events are written; None where a view is drawn.
    """

    def __init__(self, progress: Progress, lines: JsonLines | None) -> None:
        self._progress, self._lines = progress, lines
        self._runs: set[str] = set()

    @property
    def drawn(self) -> bool:
        """Whether a view is drawn."""
        return self._lines is None

    def attach(self, engine: Engine) -> None:
        """Hear of an engine's events from now on."""
        self.start()
        for kind in REPORTED:
            engine.on(kind)(self.hear)

    def start(self) -> None:
        """Count the time from now on."""
        self._progress.start()

    async def hear(self, event: Event) -> None:
        """Tell of the command's own runs; those of the dead, which it continues too, began elsewhere."""
        if isinstance(event, RunStarted):
            self._runs.add(event.run_id)
        if event.run_id and event.run_id not in self._runs:
            return
        # One hook for both: several of one event are called in a task group, which costs more than what they do.
        self._progress.hear(event)
        if self._lines is not None:
            self._lines.hear(event)

    def tell(self, value: object) -> None:
        """Write something JSON-compatible that is no event; nothing where a view is drawn."""
        if self._lines is not None:
            self._lines.add(value)


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
            yield Reporter(progress, None)
        return
    lines = JsonLines(job.output)
    with lines.writing():
        yield Reporter(progress, lines)
