"""The commands for gates."""

from __future__ import annotations

from flowstone_async.cli.command import COMMON, JSON, SECRET, Command, Option

GATES: tuple[Command, ...] = (
    Command(
        "signal",
        "send a signal to what waits for it; PAYLOAD is JSON, @FILE with JSON, or @- for standard input [null]",
        "gates:signal",
        "none",
        (
            Option(("--id",), "a second signal with the same id is a repetition", "TEXT"),
            Option(("--by",), "who sends it, for the record", "WHO"),
            SECRET,
            JSON,
            *COMMON,
        ),
        words=("TOKEN", "[PAYLOAD]"),
    ),
    Command(
        "gates",
        "list what runs wait for, nearest deadline first, or show one gate with what was sent to it",
        "gates:gates",
        "optional",
        (
            Option(("--gate",), "id of the one to show, in whatever state it is", "GATE"),
            Option(("--kind",), "signal, approval or sleep", "KIND", ("signal", "approval", "sleep")),
            Option(("--limit",), "at most so many [50]", "N", number=True),
            JSON,
            *COMMON,
        ),
    ),
)
