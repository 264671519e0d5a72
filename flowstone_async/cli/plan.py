"""`flowstone plan`: what a run would do, and why. Nothing runs."""

from __future__ import annotations

from flowstone_async.cli import exit_code
from flowstone_async.cli.job import Job
from flowstone_async.cli.keys import read_key
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.params import read_params
from flowstone_async.cli.usage import read_timeout


async def plan(job: Job) -> int:
    """Show the plan of a run and return the exit code."""
    options = job.options
    pipeline = job.pipeline
    graph = pipeline.compiled()
    asset = job.asset(graph)
    key = read_key(graph, asset, options.partition)
    params = read_params(pipeline.params_type, options.param or (), job.project.cwd)
    timeout = read_timeout(options.timeout)  # of `run --dry-run`, as is the concurrency
    async with looking_engine(job, pipeline) as (engine, _):
        planned = await engine.plan(
            asset,
            partition=key,
            params=params,
            force=options.force,
            with_deps=not options.no_deps,
            timeout=timeout,
            concurrency=options.concurrency,
        )
    if options.json:
        job.output.json(planned.as_dict())
    else:
        job.output.show(str(planned))
    return exit_code.OK
