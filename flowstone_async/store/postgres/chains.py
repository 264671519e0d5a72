"""Chains of scatters: those that go on from one another share pages, keys and results, until the last of them goes.

Nothing of a chain changes but by its newest scatter, so that where a scatter has its parts is known for good.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from asyncpg import Record

from flowstone_async.store.postgres.connections import Connections, Session

_REMEMBERED = 1000
_REMAINS = 100
# Rows of a table that go in one transaction; and of a table whose rows may be as large as a flush or a page.
_AT_ONCE = 20_000, 100
_PATIENCE = 300.0  # seconds for the keys of millions of items


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


async def delete_scatters(session: Session, scatters: Sequence[object]) -> bool:
    """Delete scatters with all that no other scatter has, in the transaction of `session`; of much that is only a part.

    Returns:
        Whether there may be more to delete, for `sweep`.
    """
    await session.fetch("lock_chains", scatters)
    rows = await session.fetch("chains", scatters)
    gone, left = [row for row in rows if row["goes"]], [row for row in rows if not row["goes"]]
    used = {part for row in left for part in _parts(row)}
    unused = {part for row in gone for part in _parts(row)} - used
    roots = {row["root"] for row in gone}
    ended = roots - {row["root"] for row in left}
    for root in roots - ended:
        await _trim(session, root, [row for row in rows if row["root"] == root])
    parts = list(scatters), list(unused | ended), list(ended)
    await session.fetch("delete_scatters", *parts)
    return bool(await session.fetch("delete_remains", *parts, *_AT_ONCE))


async def sweep(connections: Connections) -> None:
    """Delete what is left of deleted scatters, some in each transaction; what others are at is left to them."""
    more = True
    while more:
        async with connections.transaction() as session:
            remains = await session.fetch("remains", _REMAINS)
            parts = [[row["scatter"] for row in remains if row["part"] == part] for part in ("run", "results", "read")]
            more = bool(remains)
            if more:
                await session.fetch("delete_remains", *parts, *_AT_ONCE)


def _parts(row: Record) -> Collection[object]:
    return (*row["kept"], row["id"])


async def _trim(session: Session, root: object, chain: Sequence[Record]) -> None:
    """Forget what only those had read that go: who goes on from what is left will read it again."""
    pages, read = (max(row[each] for row in chain if not row["goes"]) for each in ("pages", "read"))
    if any(row["goes"] and row["pages"] > pages for row in chain):
        session.patience = _PATIENCE
        await session.fetch("trim_chain", root, pages, read)
