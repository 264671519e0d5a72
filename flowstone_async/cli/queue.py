"""`flowstone submit`, `cancel` and `retry`: runs that workers execute. Nothing is executed here."""

from __future__ import annotations

import dataclasses
from typing import Any

from flowstone_async._engine.handle import RunHandle
from flowstone_async.cli import exit_code
from flowstone_async.cli.instant import read_instant
from flowstone_async.cli.job import Job
from flowstone_async.cli.keys import read_keys
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.params import read_params
from flowstone_async.cli.run import refuse_with_range
from flowstone_async.cli.usage import UsageError, read_timeout
from flowstone_async.definition.key_range import KeyRange


async def submit(job: Job) -> int:
    """Put a run into the queue, print its id and return the exit code."""
    options, pipeline = job.options, job.pipeline
    graph = pipeline.compiled()
    asset = job.asset(graph)
    key = read_keys(graph, asset, options.partition)
    if isinstance(key, KeyRange):
        refuse_with_range(job)
    elif options.parallel != 1:
        raise UsageError("--parallel is for a range of keys", "Name one: -p FIRST..LAST.")
    params = read_params(pipeline.params_type, options.param or (), job.project.cwd)
    timeout = read_timeout(options.timeout)
    refuse_memory(job)
    async with looking_engine(job, pipeline) as (engine, session):
        job.output.redactor.value(params)  # it remembers the secrets that it sees
        at = None if options.at is None else read_instant(options.at, session.services.store.now(), what="--at")
        queueing: dict[str, Any] = {"priority": int(options.priority), "at": at, "key": options.key}
        given: dict[str, Any] = {"params": params, "force": options.force, "timeout": timeout, **queueing}
        if isinstance(key, KeyRange):
            backfill = await engine.submit_backfill(asset, partitions=key, parallel=options.parallel, **given)
            handle = await engine.find(backfill.id)
        else:
            more: dict[str, Any] = {"with_deps": not options.no_deps, "concurrency": options.concurrency}
            handle = await engine.submit(asset, partition=key, **given, **more)
    _print(job, handle)
    return exit_code.OK


async def cancel(job: Job) -> int:
    """Cancel a run and return the exit code."""
    run_id = run_of(job)
    async with looking_engine(job, job.pipeline) as (engine, _):
        handle = await engine.find(run_id)
        await handle.cancel()
        state = (await handle.status()).state
    if job.options.json:
        job.output.json({**dataclasses.asdict(handle.ref), "state": state})
    else:
        job.output.say(f"run {handle.id} of {', '.join(handle.ref.targets)} is {state}")
    return exit_code.OK


async def retry(job: Job) -> int:
    """Submit a run again, print the id of the new one and return the exit code."""
    run_id = run_of(job)
    async with looking_engine(job, job.pipeline) as (engine, _):
        handle = await engine.retry(run_id)
    _print(job, handle)
    return exit_code.OK


def run_of(job: Job) -> str:
    """Return the run that a command is about."""
    return job.options.run or ""


def refuse_memory(job: Job) -> None:
    """Refuse a store that ends with this process.

    Raises:
        UsageError: The command's store is one.
    """
    if job.store() == "memory":
        raise UsageError(
            "a memory store ends with this command, and no other process sees it",
            "Leave --store out, or name a database: --store postgresql://...",
        )


def _print(job: Job, handle: RunHandle[object]) -> None:
    if job.options.json:
        job.output.json(dataclasses.asdict(handle.ref))
    else:
        job.output.show(handle.id)
