"""`flowstone inbox`, `approve` and `reject`: what waits for people, and what they say. Nothing is executed here."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from datetime import datetime

from flowstone_async._engine.approving.deciding import answer, decide
from flowstone_async._engine.approving.listing import ApprovalRequest
from flowstone_async._engine.gates.sender import Sender
from flowstone_async.cli import exit_code
from flowstone_async.cli.gates import read_json
from flowstone_async.cli.job import Job
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.plain import plain_record
from flowstone_async.cli.queue import refuse_memory
from flowstone_async.cli.table import ago, moment, table
from flowstone_async.cli.usage import UsageError
from flowstone_async.definition.key_text import format_key
from flowstone_async.engine import Engine

_PAGE, _LONGEST = 500, 60


async def inbox(job: Job) -> int:
    """List requests, or show one, and return the exit code."""
    options, output = job.options, job.output
    asset = None if options.asset is None else job.asset(job.pipeline.compiled())
    async with looking_engine(job, job.pipeline) as (engine, session):
        now = session.services.store.now()
        if options.request is not None:
            found = await engine.approvals.get(options.request)
            if options.json:
                output.json(plain_record(found))
            else:
                output.show(_shown(found, now))
            return exit_code.OK
        rows: list[list[str]] = []
        async for each in _pages(engine, asset, options.role, options.limit):
            if options.json:
                output.json(plain_record(each))
            else:
                rows.append(_row(each, now))
    if rows:
        output.show(table([_HEAD, *rows]))
    elif not options.json:
        output.say("nothing waits for anybody" if asset is None else f"{asset} waits for nobody")
    return exit_code.OK


async def approve(job: Job) -> int:
    """Say yes and return the exit code."""
    return await _decided(job, approved=True)


async def reject(job: Job) -> int:
    """Say no and return the exit code."""
    return await _decided(job, approved=False)


async def _decided(job: Job, *, approved: bool) -> int:
    options = job.options
    if options.by is None:
        raise UsageError("who decides is not said", "Add --by, such as --by alice@example.com.")
    form = read_json(options.form, job.project.cwd, "--form") if approved and options.form is not None else None
    said = answer(approved=approved, by=options.by, reason=options.reason, form_json=form)
    refuse_memory(job)
    async with looking_engine(job, job.pipeline) as (_, session):
        decision, run_id = await decide(session, options.words[0], None, said, Sender(actor=options.by))
    word = "approved" if decision.approved else "rejected"
    if options.json:
        at = None if decision.at is None else decision.at.isoformat()
        facts = {"approved": decision.approved, "by": decision.by, "at": at, "reason": decision.reason}
        job.output.json({**facts, "modified": decision.modified, "run_id": run_id})
    else:
        job.output.say(f"{word} by {decision.by}: run {run_id} goes on")
    return exit_code.OK


async def _pages(engine: Engine, asset: str | None, role: str | None, limit: int) -> AsyncGenerator[ApprovalRequest]:
    after: str | None = None
    while limit > 0 and (
        page := await engine.approvals.pending(asset=asset, role=role, limit=min(limit, _PAGE), after=after)
    ):
        for each in page:
            yield each
        after, limit = page[-1].id, limit - len(page)


# -- what is shown ----------------------------------------------------------------------------------------------

_HEAD = ["request", "asset", "partition", "item", "question", "roles", "asked", "due"]


def _row(request: ApprovalRequest, now: datetime) -> list[str]:
    return [
        request.id,
        request.asset,
        "" if request.partition is None else format_key(request.partition),
        _cut(_item(request)),
        _cut(" ".join(request.text.split())),
        ", ".join(request.roles),
        ago(request.opened_at, now),
        "" if request.due is None else f"{request.due:%Y-%m-%d %H:%M:%S}",
    ]


def _item(request: ApprovalRequest) -> str:
    item = request.item
    return "" if item is None else item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _shown(request: ApprovalRequest, now: datetime) -> str:
    where = "" if request.partition is None else f" [{format_key(request.partition)}]"
    facts = {
        "of": f"{request.asset}{where} of run {request.run_id}",
        "item": _item(request),
        "roles": ", ".join(request.roles),
        "asked": moment(request.opened_at, now),
        "due": "never" if request.due is None else f"{request.due:%Y-%m-%d %H:%M:%S} UTC",
        "by": request.by or "",
        "reason": request.reason or "",
        "ended": moment(request.decided_at, now),
        "show": "" if request.show is None else json.dumps(request.show, ensure_ascii=False, indent=2),
        "form": "" if request.schema is None else json.dumps(request.schema.get("properties", {}), ensure_ascii=False),
        "proposed": "" if request.initial is None else json.dumps(request.initial, ensure_ascii=False),
        "filled": "" if request.form is None else json.dumps(request.form, ensure_ascii=False),
    }
    head = f"{request.text}\n  is {request.state}"
    return "\n".join([head, *(f"  {name:<9}{it}" for name, it in facts.items() if it)])
