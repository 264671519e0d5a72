"""The commands for tokens of the web side."""

from __future__ import annotations

from flowstone_async.cli.command import COMMON, JSON, Command, Option

TOKENS: tuple[Command, ...] = (
    Command(
        "tokens create",
        "make a token that lets NAME into the web side, and print it: this once",
        "tokens:create",
        "none",
        (
            Option(
                ("--role",),
                "viewer, operator, approver or admin; several, names of your own too, with commas in between [needed]",
                "ROLES",
            ),
            Option(("--expires",), "how long it lets one in, such as 12h or 30d; never for ever [90d]", "DURATION"),
            JSON,
            *COMMON,
        ),
        pipeline="none",
        words=("NAME",),
    ),
    Command(
        "tokens ls",
        "list the tokens that let somebody into the web side",
        "tokens:ls",
        "none",
        (Option(("--all",), "those too that have expired or were revoked"), JSON, *COMMON),
        pipeline="none",
    ),
    Command(
        "tokens revoke",
        "let a token let nobody in any more, from now on",
        "tokens:revoke",
        "none",
        (JSON, *COMMON),
        pipeline="none",
        words=("ID",),
    ),
)
