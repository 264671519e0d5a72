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
            Option(
                ("--kind",),
                "signal, approval, sleep, mismatch (code does not fit its record) or worker (that knows the asset)",
                "KIND",
                ("signal", "approval", "sleep", "mismatch", "worker"),
            ),
            Option(("--limit",), "at most so many [50]", "N", number=True),
            JSON,
            *COMMON,
        ),
    ),
    Command(
        "resolve",
        "say how an asset goes on that waits since its code does not fit what it has on record",
        "resolving:resolve",
        "none",
        (
            Option(
                ("--how",),
                "resume_at: call it again with what it had before the call that does not fit; restart: with nothing; "
                "discard: let it fail [needed]",
                "HOW",
                ("resume_at", "restart", "discard"),
            ),
            Option(("-p", "--partition"), "key of the asset; needed where it waits for several", "KEY"),
            Option(("--by",), "who says so, for the record", "WHO"),
            JSON,
            *COMMON,
        ),
        words=("RUN", "ASSET"),
    ),
)
