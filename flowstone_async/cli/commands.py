"""The commands and their options: the one table that help and parser are made from."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        metavar: What stands for its value in help; empty for an option without one.
        choices: The only values allowed; any where there are none.
        number: Whether the value is a whole number from 1.
        repeat: Whether it may be given more than once.
    """

    flags: tuple[str, ...]
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    number: bool = False
    repeat: bool = False


class Command(NamedTuple):
    """A command.

    Attributes:
        handler: `module:function` in this package; the function takes a `Job`.
        asset: Whether it takes the name of an asset.
        pipeline: Whether it is about a pipeline; one that is optional is imported if there is a target.
    """

    name: str
    summary: str
    handler: str
    asset: Literal["needed", "optional", "none"]
    options: tuple[Option, ...]
    pipeline: Literal["needed", "optional", "none"] = "needed"


_STORE = Option(
    ("--store",),
    "where values and records are: embedded (a Postgres of its own in ./.flowstone; the default), embedded:DIR, "
    "memory, or postgresql://...; $NAME in it stands for a variable of the environment, $$ for a dollar sign",
    "STORE",
)
_VERBOSE = Option(("--verbose",), "show tracebacks, and what is logged")
_JSON = Option(("--json",), "write JSON, and nothing else, to standard output")
_KEY = Option(("-p", "--partition"), "key of the partition, such as 2025-01-15, us or '2025-01-15|us'", "KEY")
_PARAM = Option(
    ("--param",),
    "a param of the run, read as its declared type; @FILE reads params from a JSON file; may be repeated",
    "NAME=VALUE",
    repeat=True,
)
_FORCE = Option(("--force",), "compute the asset even if its stored value is fresh")
_NO_DEPS = Option(("--no-deps",), "take upstream values as they are stored")
_COMMON = (_STORE, _VERBOSE)

COMMANDS: tuple[Command, ...] = (
    Command(
        "run",
        "bring an asset up to date, with whatever is missing or stale above it",
        "run:run",
        "needed",
        (
            Option(
                ("-p", "--partition"),
                "key of the partition, such as 2025-01-15, us or '2025-01-15|us'; FIRST..LAST runs as a backfill",
                "KEY",
            ),
            _PARAM,
            _FORCE,
            _NO_DEPS,
            Option(("--concurrency",), "assets computed at once", "N", number=True),
            Option(("--timeout",), "for the whole run, such as 90s or 2h; none for no limit [5m]", "DURATION"),
            Option(("--dry-run",), "show what would run and why, as plan does"),
            _JSON,
            *_COMMON,
        ),
    ),
    Command(
        "plan",
        "show what a run would compute, reuse or skip, and why",
        "plan:plan",
        "needed",
        (_KEY, _PARAM, _FORCE, _NO_DEPS, _JSON, *_COMMON),
    ),
    Command(
        "check",
        "report everything that is wrong with the definitions",
        "check:check",
        "none",
        (
            Option(
                ("--format",), "text (the default), json, or github annotations", "FORMAT", ("text", "json", "github")
            ),
            *_COMMON,
        ),
    ),
    Command(
        "graph",
        "draw the graph",
        "check:graph",
        "none",
        (
            Option(
                ("--format",),
                "tree (the default), mermaid, dot or json",
                "FORMAT",
                ("tree", "mermaid", "dot", "json"),
            ),
            _VERBOSE,
        ),
    ),
    Command(
        "status",
        "show what is stored and how the last computation went, of one asset or of all",
        "look:status",
        "optional",
        (_KEY, _JSON, *_COMMON),
    ),
    Command("why", "explain the state of an asset", "look:why", "needed", (_KEY, _JSON, *_COMMON)),
    Command(
        "get",
        "write a stored value; nothing is computed",
        "get:get",
        "needed",
        (
            _KEY,
            Option(("-o", "--output"), "write it to a file, which is replaced only once it is whole", "FILE"),
            Option(("--json",), "write it as JSON also if it is text"),
            *_COMMON,
        ),
    ),
    Command(
        "invalidate",
        "delete stored values, after showing how many",
        "invalidate:invalidate",
        "needed",
        (
            _KEY,
            Option(("--all",), "every partition of the asset"),
            Option(("--cascade",), "also everything that was computed from it"),
            Option(("--yes",), "do not ask"),
            _JSON,
            *_COMMON,
        ),
    ),
    Command(
        "backfill",
        "run an asset for many partitions",
        "backfill:backfill",
        "needed",
        (
            Option(
                ("-p", "--partitions"),
                "keys, such as 2025-01-01..2025-01-31; without it all that the asset declares",
                "FIRST..LAST",
            ),
            Option(("--parallel",), "partitions computed at once [1]", "N", number=True),
            Option(
                ("--only",), "leave the others out: missing, failed or stale", "WHICH", ("missing", "failed", "stale")
            ),
            _PARAM,
            _FORCE,
            Option(
                ("--on-error",),
                "continue (the default), or halt: start no further partition after the first failure",
                "WHAT",
                ("continue", "halt"),
            ),
            Option(("--timeout",), "for each partition, such as 90s or 2h; none for no limit [30m]", "DURATION"),
            _JSON,
            *_COMMON,
        ),
    ),
    Command(
        "runs",
        "list runs, newest first",
        "look:runs",
        "none",
        (
            Option(
                ("--state",),
                "only runs that are queued, running, waiting, succeeded, failed or cancelled",
                "STATE",
                ("queued", "running", "waiting", "succeeded", "failed", "cancelled"),
            ),
            Option(("--limit",), "at most so many [50]", "N", number=True),
            _JSON,
            *_COMMON,
        ),
    ),
    Command(
        "doctor",
        "examine definitions and store",
        "doctor:doctor",
        "none",
        (
            Option(("--verify",), "read all records too, and tell what is damaged; takes as long as there are many"),
            _JSON,
            *_COMMON,
        ),
    ),
    Command(
        "db migrate",
        "bring the schema of the store up to date",
        "db:migrate",
        "none",
        (_JSON, *_COMMON),
        pipeline="none",
    ),
    Command(
        "db prune",
        "delete finished runs and superseded values that are old",
        "db:prune",
        "none",
        (
            Option(("--runs",), "age of finished runs, such as 12h or 30d; none keeps them all [30d]", "AGE"),
            Option(("--values",), "age of superseded values; none keeps them all [7d]", "AGE"),
            _JSON,
            *_COMMON,
        ),
        pipeline="optional",
    ),
    Command(
        "db stats",
        "show what the store's tables hold, and what weighs on them",
        "db:stats",
        "none",
        (_JSON, *_COMMON),
        pipeline="none",
    ),
)
