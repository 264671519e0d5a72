"""How far a reading has come, and how that is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from flowstone_async.errors import ConfigError
from flowstone_async.sources.cursor import kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place between two items of a source.

    Attributes:
        cursor: Where to ask the source to continue; None is its start.
        skip: How many items behind `cursor` were delivered already.
        taken: How many items were delivered in all.
        ended: Whether nothing comes behind it.
    """

    cursor: object = None
    skip: int = 0
    taken: int = 0
    ended: bool = False

    def stored(self) -> dict[str, object]:
        """Return the place as JSON-compatible values."""
        facts = {"cursor": kept(self.cursor), "skip": self.skip, "taken": self.taken, "ended": self.ended}
        return {name: fact for name, fact in facts.items() if fact is not None and fact is not False and fact != 0}

    @classmethod
    def restored(cls, token: object) -> Place:
        """Return the place that `stored` described; None is the start.

        Raises:
            ConfigError: `token` is nothing that `stored` returns.
        """
        if token is None:
            return cls()
        facts: Mapping[str, Any] = cast("Mapping[str, Any]", token) if isinstance(token, Mapping) else {"?": token}
        skip, taken, ended = facts.get("skip", 0), facts.get("taken", 0), facts.get("ended", False)
        numbers = all(type(number) is int and number >= 0 for number in (skip, taken))
        if facts.keys() - {"cursor", "skip", "taken", "ended"} or not numbers or type(ended) is not bool:
            raise ConfigError(f"{token!r} is no place in a source", hint="Give the token of a page that was read.")
        return cls(cursor=kept(facts.get("cursor")), skip=skip, taken=taken, ended=ended)
