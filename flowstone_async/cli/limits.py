"""`flowstone limits ls | set | reset | back-off`: what limits look like in a store, and what operators do to them."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from flowstone_async._engine.session import Session
from flowstone_async.cli import exit_code
from flowstone_async.cli.job import Job
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.queue import refuse_memory
from flowstone_async.cli.table import ago, table
from flowstone_async.cli.usage import UsageError, read_duration
from flowstone_async.engine import Engine
from flowstone_async.errors import ConfigError
from flowstone_async.limits.book import LimitHolder
from flowstone_async.limits.rate import Rate
from flowstone_async.limits.status import LimitStatus, status_of
from flowstone_async.pipeline import Pipeline

_PAGE = 500
_RATE = re.compile(r"(\d{1,15})/(.+)")
_FORMS = "Write a rate like 60/1m, a number of slots like 4, or none to take back what was set."


async def ls(job: Job) -> int:
    """List limits, or show one with those who hold and wait, and return the exit code."""
    async with _engine(job) as (engine, session):
        now = session.services.store.now()
        if job.options.words:
            found = [await engine.limits.status(job.options.words[0])]
        else:
            found = [each async for each in _all(session)]
    if job.options.json:
        for each in found:
            job.output.json(_fields(each))
    elif not found:
        job.output.say("no limits: none was used or set")
    else:
        job.output.show(table([_HEAD, *map(_row, found)]))
        if job.options.words:
            _show_people(job, found[0], now)
    return exit_code.OK


async def set_(job: Job) -> int:
    """Set a limit and return the exit code."""
    key, text = job.options.words
    limit = _read(text, job.options.burst)
    async with _engine(job) as (engine, _):
        await engine.limits.set(key, limit)
        status = await engine.limits.status(key)
    said = "what code says holds again" if limit is None else f"is {_limit(status)} from now on"
    return _told(job, status, f"limit {key!r}: {said}" if limit is None else f"limit {key!r} {said}")


async def reset(job: Job) -> int:
    """Empty a limit and return the exit code."""
    [key] = job.options.words
    async with _engine(job) as (engine, _):
        await engine.limits.reset(key)
        status = await engine.limits.status(key)
    return _told(job, status, f"limit {key!r} is empty: its grants, holders and back-off are forgotten")


async def back_off(job: Job) -> int:
    """Stop the grants of a limit for a while and return the exit code."""
    key, text = job.options.words
    length = read_duration(text, what="DURATION")
    async with _engine(job) as (engine, _):
        await engine.limits.back_off(key, length)
        status = await engine.limits.status(key)
    return _told(job, status, f"limit {key!r} grants nothing for {status.backed_off:.0f} s")


def _told(job: Job, status: LimitStatus, text: str) -> int:
    if job.options.json:
        job.output.json(_fields(status))
    else:
        job.output.say(text)
    return exit_code.OK


@asynccontextmanager
async def _engine(job: Job) -> AsyncGenerator[tuple[Engine, Session]]:
    refuse_memory(job)
    async with looking_engine(job, Pipeline("limits")) as opened:
        yield opened


async def _all(session: Session) -> AsyncGenerator[LimitStatus]:
    book, after = session.services.store.limits, ""
    while page := await book.states(after=after, limit=_PAGE):
        for state in page:
            yield status_of(state, None)
        after = page[-1].key


def _read(text: str, burst: int | None) -> Rate | int | None:
    """Return the limit that somebody typed.

    Raises:
        UsageError: It is none.
    """
    match = _RATE.fullmatch(text)
    if burst is not None and match is None:
        raise UsageError("--burst is for a rate", "Write one like 60/1m.")
    if match is not None:
        try:
            return Rate(int(match[1]), per=match[2], burst=burst)
        except ConfigError as error:
            raise UsageError(f"{text!r}: {error.message}", error.hint) from error
    if text == "none":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"{text!r} is no limit", _FORMS)
    return int(text)


# -- what is shown ----------------------------------------------------------------------------------------------

_HEAD = ["limit", "is", "used", "left", "waiting", "backed off", "note"]


def _row(status: LimitStatus) -> list[str]:
    return [
        status.key,
        _limit(status),
        str(status.count) if status.limit is not None else "",
        "" if status.remaining is None else str(status.remaining),
        str(status.waiting or ""),
        f"{status.backed_off:.0f}s" if status.backed_off else "",
        "" if status.setting is None else "set",
    ]


def _limit(status: LimitStatus) -> str:
    if status.rate is not None:
        return str(status.rate.pace)
    return "" if status.limit is None else f"{status.limit} slot{'' if status.limit == 1 else 's'}"


def _show_people(job: Job, status: LimitStatus, now: datetime) -> None:
    rows = [*_people("holds", status.holders, now), *_people("waits", status.waiters, now)]
    if rows:
        job.output.show(table([["who", "run", "asset", "since"], *rows]))
    hidden = status.waiting - len(status.waiters)
    if hidden > 0:
        job.output.say(f"{hidden} more wait")


def _people(what: str, people: Sequence[LimitHolder], now: datetime) -> list[list[str]]:
    return [[what, each.run_id or "outside of runs", each.asset or "", ago(each.since, now)] for each in people]


def _fields(status: LimitStatus) -> dict[str, object]:
    rate = status.rate
    setting = status.setting
    return {
        "key": status.key,
        "kind": status.kind,
        "limit": status.limit,
        "per": None if rate is None else rate.pace.per,
        "burst": None if rate is None else rate.pace.burst,
        "count": status.count,
        "remaining": status.remaining,
        "utilisation": status.utilisation,
        "waiting": status.waiting,
        "backed_off": status.backed_off,
        "setting": str(setting.pace) if isinstance(setting, Rate) else setting,
        "holders": [_person(each) for each in status.holders],
        "waiters": [_person(each) for each in status.waiters],
    }


def _person(each: LimitHolder) -> dict[str, object]:
    return {"run_id": each.run_id, "asset": each.asset, "since": each.since.isoformat()}
