"""Who holds an event loop: what its thread is at, and whose body that is."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable
from typing import NamedTuple

from flowstone_async.definition.body import function_of
from flowstone_async.definition.graph import Graph


class Culprit(NamedTuple):
    """What the thread of a loop is at.

    Attributes:
        place: `file:line` of the code that it executes.
        function: Name of the function there.
        pipeline: That of the asset; empty where it is no body.
        asset: Whose body it is, or None.
        line: Line of that body, from which everything above was called.
        waits: Whether it is the loop itself, which nothing but other threads and processes can hold up.
    """

    place: str
    function: str
    pipeline: str = ""
    asset: str | None = None
    line: int = 0
    waits: bool = False

    @property
    def where(self) -> str:
        """Asset, line, place and function, for people."""
        body = "" if self.asset is None else f"asset {self.asset!r} (line {self.line} of its body), at "
        return f"{body}{self.place} in {self.function}"


def find_culprit(thread: int, graphs: Iterable[Graph]) -> Culprit:
    """Look at a thread, from another one.

    Args:
        thread: Its identifier.
        graphs: Of the pipelines whose bodies it may be calling.
    """
    frame = sys._current_frames().get(thread)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented
    if frame is None:
        return Culprit("an unknown place", "an unknown function")
    place, function = f"{frame.f_code.co_filename}:{frame.f_lineno}", frame.f_code.co_name
    bodies = _bodies(graphs)
    for each, line in reversed(list(traceback.walk_stack(frame))):
        if each.f_code in bodies:
            pipeline, asset = bodies[each.f_code]
            return Culprit(place, function, pipeline, asset, line)
    module = str(frame.f_globals.get("__name__"))
    return Culprit(place, function, waits=module.partition(".")[0] in ("asyncio", "selectors"))


def _bodies(graphs: Iterable[Graph]) -> dict[object, tuple[str, str]]:
    found: dict[object, tuple[str, str]] = {}
    for graph in graphs:
        for node in graph.nodes.values():
            code = getattr(function_of(node.definition.body), "__code__", None)
            if code is not None:
                found[code] = (graph.pipeline, node.name)
    return found
