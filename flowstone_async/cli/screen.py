"""The reporter of people: a view of the run that is redrawn in place, one line for each asset."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flowstone_async.cli.output import Output
from flowstone_async.cli.progress import Line, LineState, Progress

# What a terminal says of itself; rich would let others change what is drawn.
_VARIABLES = ("TERM", "COLORTERM")
_PER_SECOND = 8
_MOST_AT_END = 200
_AROUND = 4
_BAR = 24


class _Mark(NamedTuple):
    sign: str
    plain: str
    style: str


_MARKS: dict[LineState, _Mark] = {
    "done": _Mark("✓", "+", "green"),
    "reused": _Mark("↺", "=", "cyan"),
    "running": _Mark("▸", ">", "blue"),
    "waiting": _Mark("…", ".", "dim"),
    "skipped": _Mark("–", "-", "yellow"),  # noqa: RUF001 - a dash on purpose
    "failed": _Mark("✗", "x", "red"),
    "cancelled": _Mark("–", "-", "dim"),  # noqa: RUF001 - a dash on purpose
}
# What is worth a line when there are more than fit.
_URGENCY: dict[LineState, int] = {
    "failed": 0, "running": 1, "cancelled": 2, "done": 3, "waiting": 4, "skipped": 5, "reused": 6,
}  # fmt: skip


class Screen:
    """Draws progress on a terminal."""

    def __init__(self, output: Output, progress: Progress) -> None:
        self._output, self._progress = output, progress
        self._console = Console(
            file=output.data,
            force_terminal=True,
            color_system=None if os.environ.get("NO_COLOR") else "auto",
            highlight=False,
            markup=False,
            emoji=False,
            _environ={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        )
        self._signs = (self._console.encoding or "").lower().startswith("utf")
        self._whole = False

    @contextmanager
    def drawn(self) -> Generator[None]:
        """Draw until the end of the block, and leave the last view standing."""
        live = Live(get_renderable=self.view, console=self._console, refresh_per_second=_PER_SECOND)
        if self._output.messages.isatty():
            self._output.above = self._print_above
        try:
            with live:
                try:
                    yield
                finally:
                    self._whole = True
        finally:
            self._output.above = None

    def _print_above(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def view(self) -> RenderableType:
        """Return the view as it is now."""
        lines = list(self._progress.lines.values())
        room = _MOST_AT_END if self._whole else max(self._console.height - _AROUND, 1)
        shown = _most_urgent(lines, room)
        parts: list[RenderableType] = [self._header(), self._lines(shown)] if shown else [self._header()]
        if len(shown) < len(lines):
            parts.append(self._text(f"  and {len(lines) - len(shown)} more assets", "dim"))
        parts.append(self._footer())
        return Group(*parts)

    def _header(self) -> RenderableType:
        progress = self._progress
        header = Table.grid(expand=True, padding=(0, 2))
        header.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        header.add_column(justify="right", no_wrap=True)
        title = progress.title if progress.key is None else f"{progress.title}  {progress.key}"
        run = f"run {progress.run_id}" if progress.run_id and progress.partitions is None else ""
        header.add_row(self._text(title, "bold"), self._text(run, "dim"))
        return header

    def _lines(self, lines: Sequence[Line]) -> RenderableType:
        """Return the lines in columns; only the last one, the note, gives way where the terminal is narrow."""
        cells = [(line.name, _took(line), "" if line.rows is None else f"{line.rows:,} rows") for line in lines]
        widths = [max((len(row[column]) for row in cells), default=0) for column in range(3)]
        text = Text(no_wrap=True, overflow="ellipsis")
        for line, (name, took, rows) in zip(lines, cells, strict=True):
            mark = _MARKS[line.state]
            text.append(mark.sign if self._signs else mark.plain, mark.style)
            text.append(f"  {name:<{widths[0]}}  {took:>{widths[1]}}  {rows:<{widths[2]}}  ")
            note = self._output.redactor.line(self._note(line))
            text.append(f"{note}\n", "red" if line.state == "failed" else "dim")
        text.rstrip()
        return text

    def _note(self, line: Line) -> str:
        single = self._progress.partitions is None and max(line.planned, line.settled) <= 1
        if single:
            return f"reused: {line.note}" if line.state == "reused" and line.note != "fresh" else _reused(line)
        counted = [("computed", line.done), ("reused", line.reused), ("failed", line.failed), ("skipped", line.skipped)]
        counts = ", ".join(f"{count} {what}" for what, count in counted if count)
        of = f" of {line.planned}" if self._progress.partitions is None else ""
        return f"{counts}{of}{f'  {line.note}' if line.failed and line.note else ''}"

    def _footer(self) -> RenderableType:
        progress = self._progress
        (done, total), seconds = progress.counts, progress.seconds
        if seconds is None:
            return self._text("opening the store", "dim")
        text = self._text(f"{done}/{total} in {_duration(seconds)}")
        if progress.partitions is None:
            return text
        rate = done / seconds if seconds else 0.0
        left = f"  eta {_duration((total - done) / rate)}" if rate and done < total else ""
        failed = f"  {progress.report.failed} failed" if progress.report.failed else ""
        footer = Table.grid(padding=(0, 2))
        pulse = ProgressBar(total=max(total, 1), completed=done, width=_BAR)
        footer.add_row(pulse, text, self._text(f"{rate:.1f}/s{failed}{left}"))
        return footer

    def _text(self, text: str, style: str = "") -> Text:
        return Text(self._output.redactor.line(text), style=style)


def _most_urgent(lines: list[Line], room: int) -> list[Line]:
    """Return the lines that fit, in their order: those that need looking at before those that do not."""
    if len(lines) <= room:
        return lines
    chosen = sorted(range(len(lines)), key=lambda index: (_URGENCY[lines[index].state], -index))[:room]
    return [lines[index] for index in sorted(chosen)]


def _took(line: Line) -> str:
    return f"{line.seconds:.2f}s" if line.done or line.failed else ""


def _reused(line: Line) -> str:
    return "reused" if line.state == "reused" else line.note


def _duration(seconds: float) -> str:
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s"
