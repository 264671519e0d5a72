"""Where a command writes: data on one stream, messages on the other, everything shown to people redacted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TextIO

from flowstone_async.redaction import Redactor


class OutputError(Exception):
    """Standard output cannot be written to."""


class ReaderGone(Exception):
    """Whoever read standard output has gone, which is no failure."""


class Output:
    """The two streams of a command.

    Args:
        data: What the command is asked for; nothing else is written to it.
        messages: Everything that is said beside.
        terminal: Whether `data` is a terminal.
        redactor: Hides secrets in whatever is shown.
        end_within: Called with the exit code when only threads that were left behind can hold the process up.
    """

    def __init__(
        self,
        data: TextIO,
        messages: TextIO,
        *,
        terminal: bool,
        redactor: Redactor | None = None,
        end_within: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.data, self.messages, self.terminal = data, messages, terminal
        self.redactor = redactor or Redactor()
        self.end_within = end_within
        self.above: Callable[[str], None] | None = None
        self._secrets: list[str] = []

    def hide(self, secrets: Iterable[str]) -> None:
        """Show none of these texts from now on."""
        self._secrets.extend(secrets)
        self.share(self.redactor)

    def share(self, redactor: Redactor) -> None:
        """Hide with an engine's redactor, which finds out about secrets as it works, what is to be hidden here too."""
        self.redactor = redactor
        for secret in self._secrets:
            redactor.learn(secret)

    # -- data ---------------------------------------------------------------------------------------------------

    def show(self, text: str) -> None:
        """Write a text for people as data, redacted; nothing for an empty one."""
        if text:
            self.write(self.redactor.text(text) + "\n")

    def json(self, value: object) -> None:
        """Write a JSON-compatible value on a line of its own, redacted, in ASCII."""
        self.write(self.json_line(value))

    def json_line(self, value: object) -> str:
        """Return the line that `json` writes."""
        return json.dumps(self.redactor.value(value), default=str) + "\n"

    def write(self, text: str) -> None:
        """Write data as it is.

        Raises:
            ReaderGone: Nobody reads it.
            OutputError: It cannot be written.
        """
        try:
            self.data.write(text)
            self.data.flush()
        except OSError as error:
            raise self._broken(error) from error

    def write_bytes(self, data: bytes) -> None:
        """Write bytes as they are; raises as `write` does."""
        try:
            self.data.flush()
            self.data.buffer.write(data)
            self.data.buffer.flush()
        except OSError as error:
            raise self._broken(error) from error

    def _broken(self, error: OSError) -> Exception:
        # What is left in its buffer must not be tried again when the interpreter ends.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.data.fileno())
        return ReaderGone() if isinstance(error, BrokenPipeError) else OutputError(f"standard output: {error.strerror}")

    # -- messages -----------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Write a message, redacted; above a view that is being redrawn, if there is one."""
        shown = self.redactor.text(text)
        if self.above is not None:
            self.above(shown)
            return
        with suppress(OSError, ValueError):  # nobody is there to be told
            self.messages.write(shown + "\n")
            self.messages.flush()

    def fail(self, message: str, hint: str | None = None) -> None:
        """Say what went wrong and how to go on."""
        lines = [f"error: {message}"]
        if hint:
            lines += [f"  {line}" for line in hint.splitlines()]
        self.say("\n".join(lines))
