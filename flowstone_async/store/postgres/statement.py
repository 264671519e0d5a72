"""The hot statement, put together from the parts of `queries/advance.sql` that a batch needs."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

# The kinds of rows that a batch may have. Each kind of run has a part of its own that says which may go on;
# `gated` says that runs end which have gates.
KINDS: Final = ("goes", "ends", "gated", "begins", "keys", "events", "made", "lineage", "audit")

_PART = re.compile(r"^-- part: (\w+)(?: if ([\w ]+))?\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)
_PARAMETER = re.compile(r"(?<!:):([a-z]\w*)")
_ACCEPTED = {
    "goes": ("SELECT id, born FROM held",),
    "ends": ("SELECT id, born FROM ended",),
    "begins": ("SELECT id, born FROM begun", "SELECT id, born FROM begun_before"),
}
_WATCHED = {"goes": "SELECT id, watched FROM held", "ends": "SELECT id, watched FROM ended"}
_WRITTEN = "(SELECT count(*) FROM written)"
_NONE_WATCHED = "SELECT NULL::uuid AS id, false AS watched"


class Statement(NamedTuple):
    """A statement, and the names of its parameters in their order."""

    text: str
    parameters: tuple[str, ...]


class _Part(NamedTuple):
    name: str
    kinds: frozenset[str]
    text: str


def _load() -> tuple[_Part, ...]:
    text = files("flowstone_async.store.postgres").joinpath("queries/advance.sql").read_text(encoding="utf-8")
    _, *found = _PART.split(text)
    return tuple(
        _Part(name, frozenset((kinds or "").split()), _COMMENT.sub("", text).strip())
        for name, kinds, text in zip(found[::3], found[1::3], found[2::3], strict=True)
    )


_PARTS = _load()


@cache
def statement(kinds: frozenset[str]) -> Statement:
    """Return the statement for batches with rows of some kinds."""
    parts = {part.name: part.text for part in _PARTS if not part.kinds or part.kinds & kinds}
    answer = parts.pop("answer") + parts.pop("answer_keys", "")
    accepted = [text for kind in _ACCEPTED if kind in kinds for text in _ACCEPTED[kind]]
    watched = [_WATCHED[kind] for kind in _WATCHED if kind in kinds] or [_NONE_WATCHED]
    text = f"WITH {', '.join(parts.values())}\n{answer}"
    text = text.replace("{accepted}", " UNION ALL ".join(accepted))
    text = text.replace("{watched}", " UNION ALL ".join(watched))
    text = text.replace("{written}", _WRITTEN if "events" in kinds else "0")
    parameters = tuple(dict.fromkeys(_PARAMETER.findall(text)))
    numbers = {name: f"${number}" for number, name in enumerate(parameters, 1)}
    return Statement(_PARAMETER.sub(lambda match: numbers[match[1]], text), parameters)
