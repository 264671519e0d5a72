"""Who sent a signal, as it goes on record with its delivery: credentials are taken out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flowstone_async.config import text
from flowstone_async.redaction import HIDDEN, Redactor
from flowstone_async.types import new_id

Way: TypeAlias = Literal["process", "rest", "hook"]
_MOST_HEADERS = 64
_LONGEST = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who sent a signal, and how.

    Attributes:
        way: By a call in a process, over REST, or through a gate's public URL.
        actor: Who it was, if somebody has said or proved it.
        address: Where it came from.
        headers: Of the request, by name.
        hides: A credential that headers may hold: of the page that it was sent from.
        delivery: Tells this delivery from all others.

    Raises:
        ConfigError: The actor is no text, or none that can be stored.
    """

    way: Way = "process"
    actor: str | None = None
    address: str | None = None
    headers: Iterable[tuple[str, str]] = ()
    hides: str = field(default="", repr=False)
    delivery: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        text(self.actor, what="by")

    def facts(self, redactor: Redactor, token: str) -> str:
        """Return what goes on record, as JSON.

        Args:
            redactor: Knows secrets.
            token: Of the gate, which a header may hold as well.
        """
        credentials = [each for each in (token, self.hides) if each]

        def shown(text: str) -> str:
            for each in credentials:
                text = text.replace(each, HIDDEN)
            return redactor.line(text)[:_LONGEST]

        found: dict[str, object] = {"delivery": self.delivery, "way": self.way}
        if self.actor is not None:
            found["actor"] = shown(self.actor)
        if self.address is not None:
            found["address"] = shown(self.address)
        headers = [
            [shown(name), HIDDEN if redactor.names_secret(name) else shown(value)]
            for name, value in [*self.headers][:_MOST_HEADERS]
        ]
        if headers:
            found["headers"] = headers
        return json.dumps(found)
