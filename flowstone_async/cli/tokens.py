"""`flowstone tokens create | ls | revoke`: who may come into the web side with a token of their own."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime

from flowstone_async.api_tokens import ROLES, ApiToken
from flowstone_async.cli import exit_code
from flowstone_async.cli.job import Job
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.plain import plain_record
from flowstone_async.cli.queue import refuse_memory
from flowstone_async.cli.table import ago, table
from flowstone_async.cli.usage import UsageError, read_duration
from flowstone_async.engine import Engine
from flowstone_async.pipeline import Pipeline

_PAGE = 500


async def create(job: Job) -> int:
    """Make a token, print it and return the exit code."""
    options = job.options
    if options.role is None:
        raise UsageError("nothing says what the token may", f"Add --role with one of {', '.join(ROLES)}.")
    roles = [each.strip() for each in options.role.split(",")]
    lasts = False if options.expires == "never" else read_duration(options.expires, what="--expires")
    async with _engine(job) as (engine, _):
        made = await engine.tokens.create(options.words[0], role=roles, expires=lasts)
    if options.json:
        job.output.write(
            json.dumps({**plain_record(made), "token": made.token}) + "\n"
        )  # as it is: nothing else has the token
        return exit_code.OK
    until = "never expires" if made.expires_at is None else f"expires on {made.expires_at:%Y-%m-%d %H:%M} UTC"
    job.output.write(f"{made.token}\n")
    job.output.say(f"token {made.id} of {made.name} {until}; it is kept nowhere, and shown this once")
    return exit_code.OK


async def ls(job: Job) -> int:
    """List tokens and return the exit code."""
    rows: list[list[str]] = []
    async with _engine(job) as (engine, now):
        async for each in _all(engine, ended=job.options.all):
            if job.options.json:
                job.output.json(plain_record(each))
            else:
                rows.append(_row(each, now))
    if rows:
        job.output.show(table([_HEAD, *rows]))
    elif not job.options.json:
        job.output.say("no tokens: `flowstone tokens create NAME --role ROLE` makes one")
    return exit_code.OK


async def revoke(job: Job) -> int:
    """Revoke a token and return the exit code."""
    async with _engine(job) as (engine, _):
        found = await engine.tokens.revoke(job.options.words[0])
    if job.options.json:
        job.output.json(plain_record(found))
    else:
        job.output.say(f"token {found.id} of {found.name} lets nobody in any more")
    return exit_code.OK


@asynccontextmanager
async def _engine(job: Job) -> AsyncGenerator[tuple[Engine, datetime]]:
    refuse_memory(job)
    async with looking_engine(job, Pipeline("tokens")) as (engine, session):
        yield engine, session.services.store.now()


async def _all(engine: Engine, *, ended: bool) -> AsyncGenerator[ApiToken]:
    after: str | None = None
    while page := await engine.tokens.list(ended=ended, limit=_PAGE, after=after):
        for each in page:
            yield each
        after = page[-1].id


# -- what is shown ----------------------------------------------------------------------------------------------

_HEAD = ["id", "name", "roles", "made", "used", "expires", "note"]


def _row(token: ApiToken, now: datetime) -> list[str]:
    over = token.expires_at is not None and token.expires_at <= now
    return [
        token.id,
        token.name,
        ", ".join(sorted(token.roles)),
        ago(token.created_at, now),
        "never" if token.used_at is None else ago(token.used_at, now),
        "never" if token.expires_at is None else f"{token.expires_at:%Y-%m-%d %H:%M}",
        "revoked" if token.revoked_at is not None else "expired" if over else "",
    ]
