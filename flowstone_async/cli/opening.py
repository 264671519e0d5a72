"""Engines for commands."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from flowstone_async._engine.session import Session
from flowstone_async.cli.job import Job
from flowstone_async.engine import Engine
from flowstone_async.pipeline import Pipeline


@asynccontextmanager
async def working_engine(job: Job, pipeline: Pipeline) -> AsyncGenerator[Engine]:
    """Open an engine that runs assets here; what is queued, or was left by the dead, is for workers.

    What the dead hold up is taken over where a run of this engine waits for it.

    Raises:
        StoreUnavailable: The store cannot be reached.
        ConfigError: The store is none of the forms.
    """
    engine = Engine(pipeline, store=job.store(), slots=0, secret=job.secrets(), base_url=job.base_url())
    job.output.share(engine.redactor)
    async with engine:
        yield engine


@asynccontextmanager
async def looking_engine(job: Job, pipeline: Pipeline) -> AsyncGenerator[tuple[Engine, Session]]:
    """Open an engine that only looks: it takes no work, so that looking never runs anything."""
    engine = Engine(pipeline, store=job.store(), slots=0, secret=job.secrets())
    job.output.share(engine.redactor)
    async with engine.looking() as session:
        yield engine, session
