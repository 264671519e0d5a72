"""`flowstone db migrate | prune | stats`: looks after the Postgres that a store is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from flowstone_async._engine import pruning
from flowstone_async._engine.session import Session
from flowstone_async.cli import exit_code
from flowstone_async.cli.job import Job
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.table import moment, table
from flowstone_async.cli.usage import UsageError, read_age
from flowstone_async.pipeline import Pipeline
from flowstone_async.store.records import Statistics

_LONG = 300.0
_HALF = 0.5


async def migrate(job: Job) -> int:
    """Bring the schema up to date and return the exit code."""
    async with _store(job, Pipeline("db")) as session:
        done = list(session.services.store.migrated)
        schema = (await session.services.store.health()).get("schema")
    if job.options.json:
        job.output.json({"applied": done, "schema": schema})
    else:
        job.output.say(f"applied {', '.join(done)}" if done else f"nothing to do: the schema is up to date ({schema})")
    return exit_code.OK


async def prune(job: Job) -> int:
    """Delete what is old and return the exit code.

    Values that are kept outside the store are deleted if there is a pipeline to tell where; else the next engine that
    stays open finds them.
    """
    options = job.options
    runs, values = read_age(options.runs, what="--runs"), read_age(options.values, what="--values")
    async with _store(job, job.pipeline if job.has_target else Pipeline("db")) as session:
        ended, forgotten = await pruning.prune(session, runs=runs, values=values)
    if options.json:
        job.output.json({"runs": ended, "values": forgotten})
    else:
        job.output.say(f"pruned {_counted(ended, 'run')} and {_counted(forgotten, 'value')}")
    return exit_code.OK


async def stats(job: Job) -> int:
    """Show what the tables hold and what weighs on them, and return the exit code."""
    async with _store(job, Pipeline("db")) as session:
        found = await session.services.store.statistics()
        now = session.services.store.now()
    if found is None:
        raise _none()
    if job.options.json:
        job.output.json(_fields(found))
        return exit_code.OK
    tables = [["table", "rows", "size", "dead", "partitions"]]
    tables += [
        [one.name, f"{one.rows}", _size(one.size), f"{one.dead}", f"{one.partitions or ''}"] for one in found.tables
    ]
    partitions = [["partition", "rows", "size"]]
    partitions += [[one.name, f"{one.rows}", _size(one.size)] for one in found.partitions]
    runs = [["runs", "number"], *([state, f"{count}"] for state, count in sorted(found.runs.items()))]
    parts = [table(rows) for rows in (tables, partitions, runs) if len(rows) > 1]
    facts = {
        "oldest active run": moment(found.oldest_active, now) or "none",
        "oldest transaction": f"{found.transaction_seconds:.0f} s, {found.transactions} transactions ago",
        "notification queue": f"{found.notifications:.1%} full",
        "events astray": f"{found.astray} rows in event_default" if found.astray else "none",
    }
    parts.append("\n".join(f"{name:<20}{fact}" for name, fact in facts.items()))
    job.output.show("\n\n".join(parts))
    for warning in _warnings(found):
        job.output.say(warning)
    return exit_code.OK


def _warnings(found: Statistics) -> list[str]:
    warnings: list[str] = []
    if found.transaction_seconds > _LONG:
        warnings.append(
            "a transaction has been open for minutes: until it ends, no dead row is removed (see pg_stat_activity)"
        )
    if found.notifications > _HALF:
        warnings.append("the queue of notifications fills up: somebody listens, and ends no transaction")
    if found.astray:
        warnings.append("flowstone doctor tells how events that are astray get their partition")
    return warnings


def _fields(found: Statistics) -> dict[str, object]:
    oldest = found.oldest_active
    return {
        **found._asdict(),
        "tables": [one._asdict() for one in found.tables],
        "partitions": [one._asdict() for one in found.partitions],
        "oldest_active": None if oldest is None else oldest.isoformat(),
    }


@asynccontextmanager
async def _store(job: Job, pipeline: Pipeline) -> AsyncGenerator[Session]:
    if job.store() == "memory":
        raise _none()
    async with looking_engine(job, pipeline) as (_, session):
        yield session


def _none() -> UsageError:
    return UsageError(
        "a memory store has no schema, no tables, and nothing that would outlive this command",
        "Name a durable one with --store: embedded, or postgresql://...",
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:  # noqa: PLR2004 - what the prefixes are about
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
