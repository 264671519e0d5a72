"""`flowstone resolve`: how an asset goes on whose code has changed while it waited. Nothing is executed here."""

from __future__ import annotations

from flowstone_async._engine.gates.sender import Sender
from flowstone_async._engine.resolving import resolve as resolve_in
from flowstone_async.cli import exit_code
from flowstone_async.cli.job import Job
from flowstone_async.cli.keys import read_key
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.queue import refuse_memory
from flowstone_async.cli.usage import UsageError


async def resolve(job: Job) -> int:
    """Say how a body goes on and return the exit code."""
    options = job.options
    run, asset = options.words
    if options.how is None:
        raise UsageError("how it goes on is not said", "Add --how resume_at, --how restart or --how discard.")
    refuse_memory(job)
    graph = job.pipeline.compiled()
    key = read_key(graph, asset, options.partition) if asset in graph.nodes and options.partition is not None else None
    sender = Sender(actor=options.by)
    async with looking_engine(job, job.pipeline) as (_, session):
        run_id = await resolve_in(session, run, asset, how=options.how, partition=key, sender=sender)
    if options.json:
        job.output.json({"run_id": run_id, "asset": asset, "how": options.how})
    else:
        job.output.say(f"{asset} of run {run_id} goes on: {options.how}")
    return exit_code.OK
