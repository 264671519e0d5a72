"""Where bodies run: on the event loop, in a thread, or in a process of their own."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flowstone_async._engine.processes import Processes
from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.body import Body
from flowstone_async.errors import ConfigError

THREADS = 40


class Executor:
    """Calls bodies where they say they run.

    A thread whose caller gave up (time limit, cancellation) goes on to its end, its result is dropped, and its place
    stays taken until then. A process whose caller gave up is ended.
    """

    def __init__(self, *, threads: int = THREADS, processes: int | None = None) -> None:
        self._threads_wanted, self._processes_wanted = threads, processes or os.cpu_count() or 1
        self._threads: ThreadPoolExecutor | None = None
        self._processes: Processes | None = None

    async def call(self, definition: AssetDefinition, arguments: Mapping[str, object]) -> Any:
        """Call a body and return what it returns (an async iterator, for a stream)."""
        match definition.run_in:
            case None:
                result = definition.body(**arguments)
                return await result if inspect.isawaitable(result) else result
            case "thread":
                return await self._in_thread(definition.body, arguments)
            case "process":
                if self._processes is None:
                    self._processes = Processes(self._processes_wanted)
                return await self._processes.call(definition, arguments)
            case "dask":
                raise ConfigError(
                    f"asset {definition.name!r} says run_in='dask', and this engine has no Dask client",
                    asset=definition.name,
                    hint="Say Engine(dask=...), or run it in a thread or process.",
                )

    async def in_thread(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a plain function in a thread."""
        return await self._in_thread(functools.partial(fn, *args), kwargs)

    async def _in_thread(self, body: Body, arguments: Mapping[str, object]) -> Any:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._threads_wanted, thread_name_prefix="flowstone body")
        context = contextvars.copy_context()
        begun = self._threads.submit(context.run, functools.partial(_called, body, arguments))
        return await asyncio.wrap_future(begun)

    async def close(self) -> None:
        """End the processes and idle threads; a thread that is still busy goes on to its end."""
        threads, self._threads = self._threads, None
        processes, self._processes = self._processes, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        if processes is not None:
            await processes.close()


def _called(body: Body, arguments: Mapping[str, object]) -> Any:
    try:
        return body(**arguments)  # SystemExit passes: as everywhere, it ends the program (ERR-04)
    except StopIteration as error:  # no future can carry it; coroutines turn it into this too
        raise RuntimeError("the body raised StopIteration") from error
