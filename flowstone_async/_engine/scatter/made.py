"""What a scatter that its run had begun before was begun with, and what a scatter has become."""

from __future__ import annotations

from typing import NamedTuple

from flowstone_async._engine.scatter.facts import ScatterFacts
from flowstone_async._engine.scatter.upstream import followed_by
from flowstone_async.store.scatters import ScatterRecord
from flowstone_async.types import Input


class Made(NamedTuple):
    """A scatter that came to its end.

    Attributes:
        size: Bytes of the results that this process added.
        inputs: What was consumed for all of its results.
        version: Of the asset, when the first of its results were computed.
        code_hash: Likewise.
    """

    id: str
    size: int
    inputs: tuple[Input, ...]
    version: str | None
    code_hash: str


def made(record: ScatterRecord, size: int, now: ScatterFacts) -> Made:
    """Return what a scatter has become.

    Args:
        record: As it was when this process began it, or went on with it.
        size: Bytes of the results that were added since.
        now: What holds for these.
    """
    facts = now
    if record.before is not None:
        own = ScatterFacts.read(record.facts)  # those of whoever began it
        now = now._replace(source=(*now.source, *own.source), inputs=(*now.inputs, *own.inputs))
        facts = now.after(ScatterFacts.read(record.before), sealed=record.sealed)
    [version] = facts.version or (None,)
    return Made(record.id, size, tuple(dict.fromkeys((*facts.inputs, *facts.source))), version, facts.code or "")


def has_moved(record: ScatterRecord, now: ScatterFacts, follows: str | None) -> bool:
    """Tell whether a scatter that its run had begun was begun with other inputs: its items and results are of those.

    One that goes on from another has results of other inputs in any case, and its value says so.

    Args:
        record: The scatter.
        now: What is decided of it now.
        follows: The scatter that it would follow now; None for none.
    """
    if record.origin is not None:
        return False
    followed, before = followed_by(record), ScatterFacts.read(record.facts)
    if followed is not None and followed != follows:
        return True
    known = {(each.kind, each.name, each.key): each.fingerprint for each in (*before.source, *before.inputs)}
    inputs = (*now.source, *now.inputs)
    return any(known.get((each.kind, each.name, each.key), each.fingerprint) != each.fingerprint for each in inputs)
