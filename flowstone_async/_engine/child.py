"""What runs in a process of `processes.py`: it reads calls of bodies, makes them, and writes what came of them.

The pipes to its parent are kept for that: what a body prints, or a program that it starts, goes to standard error.
It ends at once when its parent is gone, even in the middle of a body.
"""

from __future__ import annotations

import importlib
import os
import pickle
import queue
import signal
import struct
import sys
import threading
import traceback
from typing import Any, BinaryIO, Literal, NamedTuple

from flowstone_async.definition.context import Context, call_of
from flowstone_async.definition.handle import AssetRef

HEAD = struct.Struct(">Q")


class Call(NamedTuple):
    """A call of a body.

    Attributes:
        body: Module and name, or the body itself, pickled.
        arguments: By name, pickled.
    """

    body: tuple[str, str] | bytes
    arguments: bytes


class Unusable(NamedTuple):
    """What cannot be sent: what the body raised, its value, or what it was to be called with."""

    what: Literal["raised", "value", "call"]
    type: str
    text: str
    traceback_text: str


class Answer(NamedTuple):
    """What came of a call.

    Attributes:
        value: The body's value, pickled.
        error: What it raised, pickled; None if nothing.
        notes: What it noted with `ctx.metadata`.
        params_read: Whether it read `ctx.params`.
    """

    value: bytes = b""
    error: bytes | None = None
    traceback_text: str = ""
    unusable: Unusable | None = None
    notes: dict[str, object] = {}  # noqa: RUF012 - never changed
    params_read: bool = False


def main() -> None:
    """Serve calls until the parent goes."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests, calls), name="flowstone calls", daemon=True).start()
    while True:
        answer = _sendable(_answer(pickle.loads(calls.get())))  # noqa: S301 - from our own parent
        answers.write(HEAD.pack(len(answer)))
        answers.write(answer)
        answers.flush()


def _receive(requests: BinaryIO, calls: queue.SimpleQueue[bytes]) -> None:
    while True:
        try:
            calls.put(_read(requests))
        except (EOFError, OSError):
            os._exit(1)


def _read(source: BinaryIO) -> bytes:
    head = source.read(HEAD.size)
    data = source.read(HEAD.unpack(head)[0]) if len(head) == HEAD.size else b""
    if not data:
        raise EOFError
    return data


def _answer(call: Call) -> Answer:
    try:
        body = _find(call.body)
        arguments: dict[str, Any] = pickle.loads(call.arguments)  # noqa: S301 - from our own parent
    except Exception as error:
        return Answer(unusable=_unusable("call", error))
    try:
        value = body(**arguments)
    except BaseException as error:
        answer = _raised(error)
    else:
        try:
            answer = Answer(pickle.dumps(value))
        except Exception as error:
            answer = Answer(unusable=_unusable("value", error))
    for context in arguments.values():
        if isinstance(context, Context):
            asked = call_of(context)
            answer = answer._replace(notes=asked.notes, params_read=asked.params_read)
    return answer


def _find(body: tuple[str, str] | bytes) -> Any:
    if isinstance(body, bytes):
        return pickle.loads(body)  # noqa: S301 - from our own parent
    module, name = body
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found.definition.body if isinstance(found, AssetRef) else found


def _raised(error: BaseException) -> Answer:
    """Return an exception in a form that certainly comes back; one that ends a process ends only the call."""
    told = "".join(traceback.format_exception(error))
    try:
        data = pickle.dumps(error)
        whole = isinstance(error, Exception) and type(pickle.loads(data)) is type(error)  # noqa: S301 - just made
    except Exception:
        whole, data = False, b""
    return Answer(error=data, traceback_text=told) if whole else Answer(unusable=_unusable("raised", error))


def _unusable(what: Literal["raised", "value", "call"], error: BaseException) -> Unusable:
    try:
        text = str(error)
    except Exception:
        text = ""
    return Unusable(what, type(error).__qualname__, text, "".join(traceback.format_exception(error)))


def _sendable(answer: Answer) -> bytes:
    try:
        return pickle.dumps(answer)
    except Exception:  # notes are anybody's objects
        return pickle.dumps(answer._replace(notes={name: repr(note) for name, note in answer.notes.items()}))


if __name__ == "__main__":
    main()
