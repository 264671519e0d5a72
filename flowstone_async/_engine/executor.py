"""Where bodies run: on the event loop, in a thread, or in a process of their own."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.handle import AssetRef
from flowstone_async.errors import ConfigError, ExecutionError

THREADS = 40


class Executor:
    """Calls bodies where they say they run.

    A thread whose caller gave up (time limit, cancellation) goes on to its end, its result is dropped, and its place
    stays taken until then. A process whose caller gave up is ended.
    """

    def __init__(self, *, threads: int = THREADS, processes: int | None = None) -> None:
        self._threads_wanted, self._processes_wanted = threads, processes or os.cpu_count() or 1
        self._threads: CapacityLimiter | None = None
        self._processes: CapacityLimiter | None = None

    async def call(self, definition: AssetDefinition, arguments: Mapping[str, object]) -> Any:
        """Call a body and return what it returns (an async iterator, for a stream)."""
        match definition.run_in:
            case None:
                result = definition.body(**arguments)
                return await result if inspect.isawaitable(result) else result
            case "thread":
                if self._threads is None:
                    self._threads = CapacityLimiter(self._threads_wanted)
                return await anyio.to_thread.run_sync(
                    lambda: definition.body(**arguments), abandon_on_cancel=True, limiter=self._threads
                )
            case "process":
                return await self._in_process(definition, arguments)
            case "dask":
                raise ConfigError(
                    f"asset {definition.name!r} says run_in='dask', and this engine has no Dask client",
                    asset=definition.name,
                    hint="Say Engine(dask=...), or run it in a thread or process.",
                )

    async def _in_process(self, definition: AssetDefinition, arguments: Mapping[str, object]) -> Any:
        if self._processes is None:
            self._processes = CapacityLimiter(self._processes_wanted)
        module, name = definition.body.__module__, getattr(definition.body, "__qualname__", "")
        payload = _pickled(definition, arguments)
        if module == "__main__" or "<" in name or not name:
            raise ConfigError(
                f"asset {definition.name!r} says run_in='process', but another process cannot import {name or definition.body!r} "
                f"from {module!r}",
                asset=definition.name,
                hint="Define it at the top level of an importable module.",
            )
        from anyio import to_process  # it brings subprocess and sockets along, which few programs need

        try:
            answer = await to_process.run_sync(
                _work, module, name, payload, cancellable=True, limiter=self._processes
            )
        except anyio.BrokenWorkerProcess as error:
            raise ExecutionError(
                f"the process that ran asset {definition.name!r} died",
                asset=definition.name,
                hint="It was killed, ran out of memory, or the body ended it.",
                retryable=True,
            ) from error
        return pickle.loads(answer)  # noqa: S301 - made by our own child from the body's return value


def _pickled(definition: AssetDefinition, arguments: Mapping[str, object]) -> bytes:
    for name, value in arguments.items():
        try:
            pickle.dumps(value)
        except Exception as error:
            raise ConfigError(
                f"asset {definition.name!r} says run_in='process', but {name!r} cannot be sent to a process: {error}",
                asset=definition.name,
                hint="Take plain values, and open resources inside the body.",
            ) from error
    return pickle.dumps(dict(arguments))


def _work(module: str, name: str, payload: bytes) -> bytes:
    """Run in the child: find the body by name, call it, send back its value."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    body = found.definition.body if isinstance(found, AssetRef) else found
    value = body(**pickle.loads(payload))  # noqa: S301 - made by our own parent
    try:
        return pickle.dumps(value)
    except Exception as error:
        raise ConfigError(f"the value that {name!r} returned cannot be sent back from its process: {error}") from error
