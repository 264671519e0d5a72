"""Who sends something to a gate over REST."""

from __future__ import annotations

from typing import Any

from flowstone_async._engine.gates.sender import Sender
from flowstone_async.web.operation import Call


def sender_of(call: Call[Any, Any], *, actor: str | None = None, hides: str = "") -> Sender:
    """Return who sends, and how.

    Args:
        call: The request.
        actor: Who it was, if that is not the user.
        hides: A credential that headers may hold.
    """
    request, user = call.request, call.user
    return Sender(
        way="rest",
        actor=actor if actor is not None or user is None else user.name,
        address=None if request.client is None else request.client.host,
        headers=request.headers.items(),
        hides=hides,
    )
