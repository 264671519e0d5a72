"""What bodies of a scatter note with `ctx.metadata`, and whether they read `ctx.params`: on record ahead of results.

Each worker keeps what is new since its last flush. Whoever closes the scatter has all of it, also from the dead.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from flowstone_async.definition.context import Call
from flowstone_async.redaction import Redactor
from flowstone_async.store.notes import ScatterNotes

_logger = logging.getLogger("flowstone")


class Unstorable:
    """Stands for a note that cannot be stored, so that the whole cannot."""


class Noting:
    """The notes of one worker.

    Args:
        store: Where they are kept.
        scatter: Which one they are of.
        call: That of the asset: what all items noted.
        redactor: Hides secrets.
    """

    def __init__(self, store: ScatterNotes, scatter: str, call: Call, redactor: Redactor) -> None:
        self._store, self._scatter, self._call, self._redactor = store, scatter, call, redactor
        self._new: dict[str, object] = {}
        self._told = False

    def took(self, call: Call) -> None:
        """Hear what an item noted and looked at; its body has ended."""
        if call.notes:
            self._new.update(call.notes)
            self._call.notes.update(call.notes)
        if call.params_read:
            self._call.params_read = True

    async def keep(self) -> None:
        """Put on record what is new, ahead of the results of who noted it."""
        params, new = self._call.params_read and not self._told, self._new
        if not (params or new):
            return
        self._new = {}
        try:
            await self._store.note(self._scatter, self._text(new, params=params))
        except BaseException:
            self._new = {**new, **self._new}
            raise
        self._told = self._told or params

    def _text(self, new: dict[str, object], *, params: bool) -> str:
        stored, refused = dict[str, Any](), list[str]()
        for name, value in new.items():
            try:
                stored[name] = json.loads(json.dumps(self._redactor.value({name: value})))[name]
            except (TypeError, ValueError):
                refused.append(name)
        return json.dumps({"params": params, "notes": stored, "refused": refused})

    async def merge(self) -> None:
        """Add what all workers noted, in the order in which they did."""
        for text in await self._store.noted(self._scatter):
            found: dict[str, Any] = json.loads(text)
            self._call.notes.update(found["notes"])
            self._call.notes.update(dict.fromkeys(found["refused"], Unstorable()))
            if found["params"]:
                self._call.params_read = True
