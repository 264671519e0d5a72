"""Processes that call bodies: each one body at a time, kept for the next one, ended with a call that is given up."""

from __future__ import annotations

import asyncio
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any

import anyio
from anyio import CapacityLimiter

from flowstone_async._engine.child import HEAD, Answer, Call, Unusable
from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.body import Body
from flowstone_async.definition.context import Context, call_of
from flowstone_async.errors import ConfigError, ExecutionError, FlowstoneError
from flowstone_async.failures import RecordedError

_CHILD = "import sys; sys.path[:] = {path!r}; from flowstone_async._engine.child import main; main()"

_ENDS_WITHIN = 5.0


class Processes:
    """At most `limit` processes.

    What goes to them and comes back is pickled, over pipes that nobody else has. The main module of this process is
    not run again in them, so that a script needs no guard; its functions cannot be called there.
    """

    def __init__(self, limit: int) -> None:
        self._places = CapacityLimiter(limit)
        self._idle: list[_Child] = []

    async def call(self, definition: AssetDefinition, arguments: Mapping[str, object]) -> Any:
        """Call a body.

        Raises:
            ConfigError: The body, an argument or its value cannot be sent.
            ExecutionError: The process died.
        """
        request = _request(definition, arguments)
        async with self._places:
            child = await self._child()
            try:
                answer = await child.ask(request)
            except (EOFError, OSError) as error:
                code = -1
                with anyio.CancelScope(shield=True):
                    code = await child.ended()
                raise _died(definition, code) from error
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await child.end()
                raise
            self._idle.append(child)
        return _value(definition, arguments, answer)

    async def _child(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.lives:
                return child
            await child.end()
        return await _Child.start()

    async def close(self) -> None:
        """End the idle processes."""
        while self._idle:
            await self._idle.pop().end()


class _Child:
    def __init__(self, process: Process) -> None:
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        self._process, self._in, self._out = process, process.stdin, process.stdout

    @staticmethod
    async def start() -> _Child:
        command = (sys.executable, "-c", _CHILD.format(path=sys.path))
        return _Child(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE))

    @property
    def lives(self) -> bool:
        return self._process.returncode is None

    async def ask(self, request: bytes) -> Answer:
        self._write(request)
        await self._in.drain()
        size = HEAD.unpack(await self._out.readexactly(HEAD.size))[0]
        answer: Answer = pickle.loads(await self._out.readexactly(size))  # noqa: S301 - made by our own child
        return answer

    def _write(self, data: bytes) -> None:
        self._in.write(HEAD.pack(len(data)))
        self._in.write(data)

    async def ended(self) -> int:
        """Return the exit code of a process that is ending by itself: a signal could take it from whoever waits."""
        with anyio.move_on_after(_ENDS_WITHIN):
            await self._process.wait()
        return await self.end()

    async def end(self) -> int:
        if self.lives:
            with suppress(ProcessLookupError):
                self._process.kill()
        self._in.close()
        code = await self._process.wait()
        with suppress(OSError):
            await self._in.wait_closed()
        return code


def _request(definition: AssetDefinition, arguments: Mapping[str, object]) -> bytes:
    body = _reference(definition)
    for name, value in arguments.items():
        try:
            pickle.dumps(value)
        except Exception as error:
            raise ConfigError(
                f"asset {definition.name!r} says run_in='process', but its {name!r} cannot be sent to one: {error}",
                asset=definition.name,
                hint="Take plain values, and open resources inside the body; or say run_in='thread'.",
            ) from error
    return pickle.dumps(Call(body, pickle.dumps(dict(arguments))))


def _reference(definition: AssetDefinition) -> tuple[str, str] | bytes:
    """Return how another process finds a body: by module and name, or (no function) pickled."""
    body: Any = definition.body
    if not isinstance(body, FunctionType):
        return _pickled(definition, body)
    module, name = body.__module__, body.__qualname__
    if module != "__main__" and "<" not in name:
        return module, name
    what = "defined in the main program" if module == "__main__" else "not defined at the top level of its module"
    raise ConfigError(
        f"asset {definition.name!r} says run_in='process', but another process cannot import {name!r}: it is {what}",
        asset=definition.name,
        hint="Define it at the top level of a module that can be imported; or say run_in='thread'.",
    )


def _pickled(definition: AssetDefinition, body: Body) -> bytes:
    try:
        return pickle.dumps(body)
    except Exception as error:
        raise ConfigError(
            f"asset {definition.name!r} says run_in='process', but its body cannot be sent to a process: {error}",
            asset=definition.name,
            hint="Use a function at the top level of a module; or say run_in='thread'.",
        ) from error


def _value(definition: AssetDefinition, arguments: Mapping[str, object], answer: Answer) -> Any:
    for argument in arguments.values():
        if isinstance(argument, Context):
            call = call_of(argument)
            call.notes.update(answer.notes)
            call.params_read |= answer.params_read
    unusable = answer.unusable
    if unusable is not None:
        raise _unusable(definition, unusable)
    if answer.error is not None:
        error: Exception = pickle.loads(answer.error)  # noqa: S301 - made by our own child
        raise error from None if isinstance(error, FlowstoneError) else RecordedError(answer.traceback_text)
    return pickle.loads(answer.value)  # noqa: S301 - likewise


def _unusable(definition: AssetDefinition, unusable: Unusable) -> Exception:
    name, text = definition.name, f"{unusable.type}: {unusable.text}" if unusable.text else unusable.type
    match unusable.what:
        case "raised":
            error = ExecutionError(
                f"asset {name!r} failed: {text}",
                details={"error_type": unusable.type},
                traceback_text=unusable.traceback_text,
            )
            error.__cause__ = RecordedError(text)
            return error
        case "value":
            return ConfigError(
                f"asset {name!r} says run_in='process', but its value cannot be sent back: {text}",
                hint="Return plain values; or say run_in='thread'.",
            )
        case "call":
            return ConfigError(
                f"asset {name!r} says run_in='process', but its process cannot read what it is called with: {text}",
                hint="Define body and types at the top level of modules that can be imported.",
            )


def _died(definition: AssetDefinition, code: int) -> ExecutionError:
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return ExecutionError(
        f"the process that ran asset {definition.name!r} {how}",
        asset=definition.name,
        details={"code": code},
        hint="It was killed, ran out of memory, or the body ended it.",
        retryable=True,
    )
