"""The reporter of machines: one event on a line. Whoever reads the lines slowly, or stops, holds no run up."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from contextlib import contextmanager

from flowstone_async.cli.output import Output, OutputError, ReaderGone
from flowstone_async.cli.plain import plain_event
from flowstone_async.events import Event

_MOST_WAITING = 100_000


class JsonLines:
    """Writes events as they come, through a thread of its own: a full pipe must not stop the event loop.

    Lines that nobody reads wait in memory, up to 100,000; beyond them events are left out, and their number is said.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._left_out = 0
        self._problem: str | None = None

    @contextmanager
    def writing(self) -> Generator[None]:
        """Write until the end of the block, and then what is left."""
        writer = threading.Thread(target=self._write, name="flowstone json lines", daemon=True)
        writer.start()
        try:
            yield
        finally:
            self._lines.put(None)
            writer.join()
            if self._problem is not None:
                self._output.say(f"events were not written: {self._problem}")
            if self._left_out:
                self._output.say(f"{self._left_out} events were left out: standard output was not read")

    def hear(self, event: Event) -> None:
        """Take an event."""
        self.add(plain_event(event))

    def add(self, value: object) -> None:
        """Take a JSON-compatible value."""
        if self._lines.qsize() >= _MOST_WAITING:
            self._left_out += 1
        else:
            self._lines.put(self._output.json_line(value))

    def _write(self) -> None:
        broken = False
        while (line := self._lines.get()) is not None:
            if broken:
                continue
            try:
                self._output.write(line)
            except ReaderGone:
                broken = True
            except OutputError as error:
                broken, self._problem = True, str(error)
