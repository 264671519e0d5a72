"""The commands for approvals."""

from __future__ import annotations

from flowstone_async.cli.command import COMMON, JSON, SECRET, Command, Option

_BY = Option(("--by",), "who decides, such as an address [needed]", "WHO")
_REASON = Option(("--reason",), "why", "TEXT")
_ID = "ID"

APPROVALS: tuple[Command, ...] = (
    Command(
        "inbox",
        "list requests for approval that wait for somebody, nearest deadline first, or show one",
        "approvals:inbox",
        "optional",
        (
            Option(("--request",), "id of the one to show, in whatever state it is", "ID"),
            Option(("--role",), "only those that somebody with this role may decide", "ROLE"),
            Option(("--limit",), "at most so many [50]", "N", number=True),
            JSON,
            *COMMON,
        ),
    ),
    Command(
        "approve",
        "say yes to a request for approval; ID is that of the request, or the name of the asset that asks",
        "approvals:approve",
        "none",
        (
            _BY,
            Option(("--form",), "the form as it is filled: JSON, @FILE with JSON, or @- for standard input", "JSON"),
            _REASON,
            SECRET,
            JSON,
            *COMMON,
        ),
        words=(_ID,),
    ),
    Command(
        "reject",
        "say no to a request for approval: what asks fails, and is not tried again",
        "approvals:reject",
        "none",
        (_BY, _REASON, SECRET, JSON, *COMMON),
        words=(_ID,),
    ),
)
