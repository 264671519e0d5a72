"""What is to be told to other processes, collected until it is sent."""

from __future__ import annotations

from collections.abc import Iterable

from flowstone_async.types import new_id

CHANNEL = "flowstone"
EVERYTHING = "*"

# Postgres refuses 8,000 bytes; a tag has 12, a sender 36.
_TAGS_PER_PAYLOAD = 300
_MOST = 3000


class Outbox:
    """Tags of topics that have changed; true while there are any.

    Attributes:
        sender: Stands before everything that is sent from here.
    """

    def __init__(self) -> None:
        self.sender = new_id()
        self._tags: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._tags)

    def add(self, tags: Iterable[str]) -> None:
        """Tell of some topics, too. Beyond a few thousand all are as one."""
        if EVERYTHING not in self._tags:
            self._tags.update(tags)
            if len(self._tags) > _MOST:
                self._tags = {EVERYTHING}

    def take(self) -> str:
        """Return the statements that tell it all, in pieces of a bounded size, and forget it.

        They notify in one transaction, and are sent as one text: so they pass through any pooler. If there is nothing
        to tell, one notifies of nothing. Tags are base64, so that nothing needs to be quoted.
        """
        tags, self._tags = sorted(self._tags), set()
        pieces = [tags[start : start + _TAGS_PER_PAYLOAD] for start in range(0, len(tags) or 1, _TAGS_PER_PAYLOAD)]
        return "; ".join(f"NOTIFY {CHANNEL}, '{self.sender}:{','.join(piece)}'" for piece in pieces)
