"""Cycles in a graph of names: each once, as a path."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

Followers = Mapping[str, Sequence[str]]


def cycles(after: Followers, *, limit: int = 20) -> Iterator[tuple[str, ...]]:
    """Yield the elementary cycles as closed paths, each once: `("a", "b", "a")`; a node that follows itself is one.

    Each begins at that of its nodes which `after` names first (D. B. Johnson, Finding all the elementary circuits of a
    directed graph, 1975). Takes time linear in nodes plus edges for each cycle that is yielded.

    Args:
        after: Name -> names that come directly after it.
        limit: The most cycles to yield; there may be exponentially many.
    """
    place = {name: index for index, name in enumerate(after)}
    waiting = [_among(after, each) for each in components(after)]
    while waiting:
        part = waiting.pop()
        start = min(part, key=place.__getitem__)
        for cycle in _through(start, part):
            yield cycle
            limit -= 1
            if not limit:
                return
        rest = _among(part, part.keys() - {start})
        waiting += [_among(rest, each) for each in components(rest)]


def _among(after: Followers, names: Collection[str]) -> dict[str, list[str]]:
    return {name: [each for each in following if each in names] for name, following in after.items() if name in names}


def _through(start: str, after: Followers) -> Iterator[tuple[str, ...]]:
    """Yield the cycles of a strongly connected graph that go through `start`."""
    path, blocked = [start], {start}
    closed: set[str] = set()
    unblocks: dict[str, set[str]] = {name: set() for name in after}
    stack = [iter(after[start])]
    while stack:
        following = next(stack[-1], None)
        if following == start:
            yield (*path, start)
            closed.update(path)
        elif following is not None and following not in blocked:
            path.append(following)
            blocked.add(following)
            closed.discard(following)
            stack.append(iter(after[following]))
        elif following is None:
            stack.pop()
            name = path.pop()
            if name in closed:
                _unblock(name, blocked, unblocks)
            else:
                for each in after[name]:
                    unblocks[each].add(name)


def _unblock(name: str, blocked: set[str], unblocks: Mapping[str, set[str]]) -> None:
    agenda = {name}
    while agenda:
        each = agenda.pop()
        if each in blocked:
            blocked.remove(each)
            agenda |= unblocks[each]
            unblocks[each].clear()


def components(after: Followers) -> list[set[str]]:
    """Return the strongly connected components that hold a cycle, in no order that means anything.

    R. E. Tarjan, Depth-first search and linear graph algorithms, 1972; without recursion, so that a chain of any
    length fits.
    """
    found: list[set[str]] = []
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    open_: dict[str, None] = {}  # a stack with quick membership
    for root in after:
        stack = [] if root in index else [(root, iter(after[root]))]
        while stack:
            name, rest = stack[-1]
            if name not in index:
                index[name] = low[name] = len(index)
                open_[name] = None
            following = next(rest, None)
            if following is None:
                stack.pop()
                if stack:
                    parent = stack[-1][0]
                    low[parent] = min(low[parent], low[name])
                if low[name] == index[name]:
                    found.append(_popped(open_, name))
            elif following not in index:
                stack.append((following, iter(after[following])))
            elif following in open_:
                low[name] = min(low[name], index[following])
    return [part for part in found if len(part) > 1 or any(name in after[name] for name in part)]


def _popped(open_: dict[str, None], last: str) -> set[str]:
    popped: set[str] = set()
    while last not in popped:
        popped.add(open_.popitem()[0])
    return popped
