"""Chains of scatters: those that go on from one another share pages, keys and results, until the last of them goes.

Nothing of a chain changes but by its newest scatter, so that where a scatter has its parts is known for good.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from asyncpg import Record

from flowstone_async.store.postgres.connections import Connections, Session
from flowstone_async.store.postgres.remains import REMAINS, TRIMS, Remains

_REMEMBERED = 1000


class Chain(NamedTuple):
    """Where a scatter has its parts.

    Attributes:
        root: The id that its pages and keys are under.
        parts: The ids that its results are under.
    """

    root: str
    parts: tuple[str, ...]


class Chains:
    """Knows where scatters have their parts; each is asked for once.

    Args:
        connections: To the server.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._known: OrderedDict[str, Chain] = OrderedDict()

    async def of(self, scatter: str) -> Chain:
        """Return where a scatter has its parts; of one that there is not, where it would."""
        known = self._known.get(scatter)
        if known is not None:
            return known
        rows = await self._connections.fetch("scatter_chain", scatter)
        return self.learn(scatter, rows[0]["root"], rows[0]["kept"]) if rows else Chain(scatter, (scatter,))

    def learn(self, scatter: str, root: object, kept: Sequence[object]) -> Chain:
        """Remember where a scatter has its parts."""
        chain = Chain(scatter if root is None else str(root), (*map(str, kept), scatter))
        self._known[scatter] = chain
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return chain


class Deleted(NamedTuple):
    """What is on the lists after scatters were deleted.

    Attributes:
        trimmed: The first ones of chains of which more is to be trimmed.
        left: Ids under which more is to be deleted.
    """

    trimmed: Collection[object] = ()
    left: Collection[object] = ()


async def delete_scatters(session: Session, remains: Remains, scatters: Sequence[object]) -> Deleted:
    """Delete scatters with all that no other scatter has, in the transaction of `session`; of much that is only a part.

    Returns:
        What there may be more to delete of, for `Remains.finish`.
    """
    await session.fetch("lock_chains", scatters)
    rows = await session.fetch("chains", scatters)
    gone, left = [row for row in rows if row["goes"]], [row for row in rows if not row["goes"]]
    used = {part for row in left for part in _parts(row)}
    unused = {part for row in gone for part in _parts(row)} - used
    roots = {row["root"] for row in gone}
    ended = roots - {row["root"] for row in left}
    ids = [row["id"] for row in gone]
    await session.fetch("delete_scatters", ids, list(unused | ended), list(ended), remains.now())
    # Of a scatter that its run never ended: a straggler's flush would else add rows behind what is deleted.
    await session.fetch("cancel_chunks", ids)
    trimmed = [root for root in roots - ended if await _trim(session, root, rows, remains.now())]
    listed = list({*ids, *unused, *ended})
    return Deleted(
        trimmed if trimmed and await remains.begin(session, TRIMS, trimmed) else (),
        listed if await remains.begin(session, REMAINS, listed) else (),
    )


def _parts(row: Record) -> Collection[object]:
    return (*row["kept"], row["id"])


async def _trim(session: Session, root: object, rows: Sequence[Record], now: object) -> bool:
    """Have what only those had read that go forgotten: who goes on from what is left will read it again."""
    chain = [row for row in rows if row["root"] == root]
    pages, read = (max(row[each] for row in chain if not row["goes"]) for each in ("pages", "read"))
    needed = any(row["goes"] and row["pages"] > pages for row in chain)
    if needed:
        await session.fetch("trim_chain", root, pages, read, now)
    return needed
