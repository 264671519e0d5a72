"""The command for the web side."""

from __future__ import annotations

from flowstone_async.cli.command import BASE_URL, COMMON, JSON, SECRET, Command, Option

SERVE = Command(
    "serve",
    "serve REST, events and webhooks over HTTP, and execute runs, until it is stopped",
    "serve:serve",
    "none",
    (
        Option(("--host",), "where to listen [127.0.0.1]", "HOST"),
        Option(("--port",), "the port; 0 picks one [8000]", "PORT", number=True, least=0),
        Option(
            ("--token",),
            "bearer token that lets one in besides those of `flowstone tokens`, as $NAME of the environment [on this "
            "machine alone one is made and shown]",
            "$NAME",
        ),
        Option(("--root-path",), "path that a proxy in front strips, such as /flow", "PATH"),
        Option(("--slots",), "runs executed at once; 0 leaves all to workers [10]", "N", number=True, least=0),
        Option(("--grace",), "time that requests and bodies have when it is stopped [30s]", "DURATION"),
        SECRET,
        BASE_URL,
        JSON,
        *COMMON,
    ),
    several=True,
    service=True,
)
