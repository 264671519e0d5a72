"""`flowstone get`: a stored value as data."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic_core import to_json

from flowstone_async.cli import exit_code
from flowstone_async.cli.job import Job
from flowstone_async.cli.keys import read_key
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.usage import UsageError
from flowstone_async.definition.stream import Stream
from flowstone_async.errors import StorageError
from flowstone_async.io.codec import codec_for

Write = Callable[[bytes], object]


async def get(job: Job) -> int:
    """Write a stored value and return the exit code."""
    options, pipeline = job.options, job.target().pipeline
    graph = pipeline.compiled()
    asset = job.asset(graph)
    key = read_key(graph, asset, options.partition)
    encode = _encoder(graph.nodes[asset].value_type)
    async with looking_engine(job, pipeline) as (engine, _):
        value = await engine.get(asset, partition=key)
        if options.output is None:
            await _write(value, encode, _shown(job, value), as_json=options.json)
        else:
            with _whole_file(job.project.cwd / Path(options.output).expanduser()) as file:
                await _write(value, encode, file.write, as_json=options.json)
    return exit_code.OK
