"""The commands and their options: the one table that help and parser are made from."""

from __future__ import annotations

from flowstone_async.cli.approval_commands import APPROVALS
from flowstone_async.cli.command import BASE_URL, COMMON, JSON, SECRET, VERBOSE, Command, Option
from flowstone_async.cli.gate_commands import GATES
from flowstone_async.cli.serve_command import SERVE
from flowstone_async.cli.token_commands import TOKENS

_KEY = Option(("-p", "--partition"), "key of the partition, such as 2025-01-15, us or '2025-01-15|us'", "KEY")
_PARAM = Option(
    ("--param",),
    "a param of the run, read as its declared type; @FILE reads params from a JSON file; may be repeated",
    "NAME=VALUE",
    repeat=True,
)
_FORCE = Option(("--force",), "compute the asset even if its stored value is fresh")
_NO_DEPS = Option(("--no-deps",), "take upstream values as they are stored")
_CONCURRENCY = Option(("--concurrency",), "assets computed at once", "N", number=True)
_RUN = Option(("--run",), "id of the run that the items are of [the newest that tried to compute the asset]", "RUN")

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
            _CONCURRENCY,
            Option(("--timeout",), "for the whole run, such as 90s or 2h; none for no limit [5m]", "DURATION"),
            Option(("--dry-run",), "show what would run and why, as plan does"),
            JSON,
            SECRET,
            BASE_URL,
            *COMMON,
        ),
    ),
    Command(
        "plan",
        "show what a run would compute, reuse or skip, and why",
        "plan:plan",
        "needed",
        (_KEY, _PARAM, _FORCE, _NO_DEPS, JSON, *COMMON),
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
            *COMMON,
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
            VERBOSE,
        ),
    ),
    Command(
        "status",
        "show what is stored and how the last computation went, of one asset or of all",
        "look:status",
        "optional",
        (_KEY, JSON, *COMMON),
    ),
    Command("why", "explain the state of an asset", "look:why", "needed", (_KEY, JSON, *COMMON)),
    Command(
        "get",
        "write a stored value; nothing is computed",
        "get:get",
        "needed",
        (
            _KEY,
            Option(("-o", "--output"), "write it to a file, which is replaced only once it is whole", "FILE"),
            Option(("--json",), "write it as JSON also if it is text"),
            *COMMON,
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
            JSON,
            *COMMON,
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
            JSON,
            SECRET,
            BASE_URL,
            *COMMON,
        ),
    ),
    Command(
        "submit",
        "put a run into the queue, for a worker, and print its id",
        "queue:submit",
        "needed",
        (
            _KEY,
            _PARAM,
            _FORCE,
            _NO_DEPS,
            _CONCURRENCY,
            Option(("--timeout",), "for the whole run, such as 90s or 2h; none for no limit (the default)", "DURATION"),
            Option(("--parallel",), "partitions of a range that are computed at once [1]", "N", number=True),
            Option(("--priority",), "0 (the default) to 3; lower ones are claimed first", "0-3", ("0", "1", "2", "3")),
            Option(
                ("--at",),
                "not before this instant, such as 2025-01-15T09:30+01:00, or +15m from now",
                "INSTANT",
            ),
            Option(("--key",), "a second submit with the same key returns the same run", "TEXT"),
            JSON,
            *COMMON,
        ),
    ),
    Command(
        "watch",
        "follow a run, wherever it is executed, and end as it ended",
        "watch:watch",
        "run",
        (JSON, *COMMON),
    ),
    Command("cancel", "cancel a run", "queue:cancel", "run", (JSON, *COMMON)),
    Command(
        "retry",
        "submit a run again, with what it was given; what it committed is reused",
        "queue:retry",
        "run",
        (JSON, *COMMON),
    ),
    Command(
        "worker",
        "execute runs of the queue until it is stopped",
        "worker:worker",
        "none",
        (
            Option(("--slots",), "runs executed at once [10]", "N", number=True),
            Option(
                ("--health-port",),
                "answer /health/live and /health/ready over HTTP on this port; 0 picks one",
                "PORT",
                number=True,
                least=0,
            ),
            Option(("--health-host",), "where to listen for that [127.0.0.1]", "HOST"),
            Option(
                ("--block-limit",),
                "how long a body may hold the event loop before /health/live says 503 [60s]",
                "DURATION",
            ),
            Option(("--grace",), "time that bodies have when the worker is stopped [30s]", "DURATION"),
            Option(("--lease",), "how long its runs outlive its last sign of life [30s]", "DURATION"),
            Option(("--poll",), "how long a lost notification may go unnoticed [1s]", "DURATION"),
            Option(("--no-notify",), "look every --poll for runs, and listen to no notifications"),
            Option(
                ("--direct",),
                "address past a transaction pooler, for listening, the lease and migrations; $NAME as in --store",
                "STORE",
            ),
            JSON,
            SECRET,
            BASE_URL,
            *COMMON,
        ),
        several=True,
        service=True,
    ),
    SERVE,
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
            JSON,
            *COMMON,
        ),
    ),
    Command(
        "items",
        "list items of a scatter, of its newest run or another; failed ones, unless --state says otherwise",
        "items:items",
        "needed",
        (
            _KEY,
            _RUN,
            Option(("--state",), "failed (the default), done or pending", "STATE", ("failed", "done", "pending")),
            Option(("--group-by",), "count failed items by the type of their error", "WHAT", ("error",)),
            Option(("--limit",), "at most so many [50]", "N", number=True),
            Option(
                ("--after",), "only those behind this place, as the page before tells", "PLACE", number=True, least=0
            ),
            JSON,
            *COMMON,
        ),
    ),
    Command(
        "redrive",
        "submit a run that runs failed items of a scatter again, and what depends on them; prints its id",
        "items:redrive",
        "needed",
        (
            _KEY,
            _RUN,
            Option(("--only",), "failed (the default) or all items", "WHICH", ("failed", "all")),
            JSON,
            *COMMON,
        ),
    ),
    *GATES,
    *APPROVALS,
    Command(
        "limits ls",
        "list rates and slots as they are in the store, or show one with those who hold and wait",
        "limits:ls",
        "none",
        (JSON, *COMMON),
        pipeline="none",
        words=("[KEY]",),
    ),
    Command(
        "limits set",
        "set a limit for everybody: LIMIT is a rate like 60/1m, a number of slots like 4, or none for what code says",
        "limits:set_",
        "none",
        (Option(("--burst",), "permits at once [all of them]", "N", number=True), JSON, *COMMON),
        pipeline="none",
        words=("KEY", "LIMIT"),
    ),
    Command(
        "limits reset",
        "forget the grants, the holders and the back-off of a limit",
        "limits:reset",
        "none",
        (JSON, *COMMON),
        pipeline="none",
        words=("KEY",),
    ),
    Command(
        "limits back-off",
        "grant nothing for a while, to anybody",
        "limits:back_off",
        "none",
        (JSON, *COMMON),
        pipeline="none",
        words=("KEY", "DURATION"),
    ),
    *TOKENS,
    Command(
        "doctor",
        "examine definitions and store",
        "doctor:doctor",
        "none",
        (
            Option(("--verify",), "read all records too, and tell what is damaged; takes as long as there are many"),
            JSON,
            *COMMON,
        ),
    ),
    Command(
        "db migrate",
        "bring the schema of the store up to date",
        "db:migrate",
        "none",
        (JSON, *COMMON),
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
            JSON,
            *COMMON,
        ),
        pipeline="optional",
    ),
    Command(
        "db stats",
        "show what the store's tables hold, and what weighs on them",
        "db:stats",
        "none",
        (JSON, *COMMON),
        pipeline="none",
    ),
)
