"""`flowstone get`: a stored value as data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic_core import PydanticSerializationError, to_json

from flowstone_async.cli import exit_code
from flowstone_async.cli.job import Job
from flowstone_async.cli.keys import read_key
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.output import Output, OutputError
from flowstone_async.cli.usage import UsageError
from flowstone_async.definition.stream import AsyncClosing, Stream


async def get(job: Job) -> int:
    """Write a stored value and return the exit code."""
    options, pipeline, output = job.options, job.pipeline, job.output
    graph = pipeline.compiled()
    asset = job.asset(graph)
    key = read_key(graph, asset, options.partition)
    file_name = None if options.output is None else job.project.path(options.output)
    async with looking_engine(job, pipeline) as (engine, _):
        value = await engine.get(asset, partition=key)
        if file_name is not None:
            with _whole_file(file_name) as file:
                await _each(value, lambda item: file.write(_encoded(item, as_json=options.json)))
        elif output.terminal:
            await _each(value, lambda item: _show(output, item, as_json=options.json))
        else:
            await _each(value, lambda item: output.write_bytes(_line(_encoded(item, as_json=options.json))))
    return exit_code.OK


async def _each(value: object, take: Callable[[Any], object]) -> None:
    """Take a value, or each item of a stream as it is read."""
    if not isinstance(value, Stream):
        take(value)
        return
    async with aclosing(cast("AsyncClosing[object]", aiter(cast("Stream[object]", value)))) as items:
        async for item in items:
            take(item)


def _show(output: Output, value: object, *, as_json: bool) -> None:
    if isinstance(value, bytes) and not as_json:
        raise UsageError(f"the value is {len(value)} bytes, which are not shown", "Write them to a file: -o FILE.")
    if isinstance(value, str) and not as_json:
        output.show(value)
        return
    hidden = output.redactor.value(json.loads(_encoded(value, as_json=True)))
    output.show(json.dumps(hidden, indent=2, ensure_ascii=False))


def _encoded(value: object, *, as_json: bool) -> bytes:
    """Return text and bytes as they are, anything else as JSON with an end of line."""
    if isinstance(value, bytes) and not as_json:
        return value
    if isinstance(value, str) and not as_json:
        return value.encode("utf-8", "surrogatepass")
    try:
        return to_json(value, bytes_mode="base64", inf_nan_mode="strings") + b"\n"
    except (PydanticSerializationError, ValueError) as error:
        raise OutputError(f"the value of type {type(value).__name__} has no JSON form: {error}") from error


def _line(data: bytes) -> bytes:
    return data if data.endswith(b"\n") else data + b"\n"


@contextmanager
def _whole_file(file: Path) -> Generator[BinaryIO]:
    """Open a file that appears, or is replaced, only once it is whole.

    Raises:
        OutputError: It cannot be written; what was there before is left as it was.
    """
    try:
        if file.exists() and not file.is_file():  # a device or a pipe
            with file.open("wb") as opened:
                yield opened
            return
        fresh = file.resolve().with_name(f".{file.name}.{os.getpid()}.part")
        try:
            with fresh.open("xb") as opened:
                yield opened
            fresh.replace(file.resolve())
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{file}: {error.strerror}") from error
