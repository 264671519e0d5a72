"""What a process has once for all its stores that lead to one server: hearing of changes, and telling of its own.

It has a thread and an event loop of its own, with two connections: so it serves stores in any event loop, and neither
the pool, nor a commit, nor a loop that is blocked is ever waited for. Whoever tells something wakes the other stores of
the process directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Collection, Iterable
from concurrent.futures import Future

from flowstone_async.store.postgres.hints import Hints
from flowstone_async.store.postgres.listener import Listener, Speaker
from flowstone_async.store.postgres.outbox import Outbox

_STOP = 1.0


class Member:
    """A store that hears what is told. Make it in the store's own event loop.

    Args:
        hints: Who waits there.
    """

    def __init__(self, hints: Hints) -> None:
        self._hints = hints
        self._loop = asyncio.get_running_loop()

    def hear(self, tags: Collection[str] | None) -> None:
        """Wake who waits for some topics, or everybody; from any thread."""
        with contextlib.suppress(RuntimeError):  # its loop is closed
            if tags is None:
                self._loop.call_soon_threadsafe(self._hints.publish_all)
            else:
                self._loop.call_soon_threadsafe(self._hints.heard, tags)


class Exchange:
    """Listens and tells until its last member has left. Use `join` and `leave`.

    Args:
        direct: DSN of the server itself, to listen.
        address: DSN to tell; it may lead through a pooler.
    """

    def __init__(self, direct: str, address: str) -> None:
        self.members: tuple[Member, ...] = ()
        self._outbox = Outbox()
        self._loop = asyncio.new_event_loop()
        self._left = asyncio.Event()
        self._speaker = Speaker(address, self._outbox, self._left)
        self._listener = Listener(direct, self._speaker, self._outbox.sender, self._hear, self._left)
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="flowstone notifications", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._ended.set_running_or_notify_cancel()
        self._thread.start()

    def tell(self, tags: Collection[str], by: Member) -> None:
        """Let the other members know at once and other processes soon; from any thread."""
        for member in self.members:
            if member is not by:
                member.hear(tags)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._post, tags)

    async def stop(self) -> None:
        """Tell what is left to tell, and end; if the server does not answer, in the background."""
        with contextlib.suppress(RuntimeError, TimeoutError):
            self._loop.call_soon_threadsafe(self._leave)
            async with asyncio.timeout(_STOP):
                await asyncio.wrap_future(self._ended)

    def _post(self, tags: Iterable[str]) -> None:
        self._outbox.add(tags)
        self._speaker.wake()

    def _leave(self) -> None:
        self._left.set()
        self._speaker.wake()
        self._listener.leave()

    def _hear(self, tags: Collection[str] | None) -> None:
        for member in self.members:
            member.hear(tags)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        finally:
            self._ended.set_result(None)

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._speaker.serve(), name="flowstone speaker")
            group.create_task(self._listener.serve(), name="flowstone listener")


# The only state of the process: what "one for each process" means. A fork has none of its parent's threads.
_exchanges: dict[tuple[int, str, str], Exchange] = {}
_lock = threading.Lock()


def join(direct: str, address: str, member: Member) -> Exchange:
    """Return the process's exchange for a server; it hears for `member` from now on."""
    place = (os.getpid(), direct, address)
    with _lock:
        found = _exchanges.get(place)
        if found is None:
            found = Exchange(direct, address)
            found.start()
            _exchanges[place] = found
        found.members += (member,)
    return found


async def leave(exchange: Exchange, member: Member) -> None:
    """Hear no more; the last to leave ends the exchange, and waits until what is left was told."""
    with _lock:
        exchange.members = tuple(one for one in exchange.members if one is not member)
        last = not exchange.members
        if last:
            for place in [place for place, found in _exchanges.items() if found is exchange]:
                del _exchanges[place]
    if last:
        await exchange.stop()
