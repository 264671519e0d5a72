"""`flowstone signal` and `gates`: what runs wait for, looked at and signalled. Nothing is executed here."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path
from typing import cast

from flowstone_async._engine.gates.listing import GateDelivery, GateStatus
from flowstone_async._engine.gates.sender import Sender
from flowstone_async._engine.gates.signalling import Message, Signalled, deliver
from flowstone_async.cli import exit_code
from flowstone_async.cli.job import Job
from flowstone_async.cli.opening import looking_engine
from flowstone_async.cli.plain import plain_record
from flowstone_async.cli.queue import refuse_memory
from flowstone_async.cli.table import ago, moment, table
from flowstone_async.cli.usage import UsageError
from flowstone_async.definition.key_text import format_key
from flowstone_async.engine import Engine
from flowstone_async.store.gates import GateKind

_PAGE = 500
_LONGEST = 60


async def signal(job: Job) -> int:
    """Send a signal and return the exit code."""
    token, *payload = job.options.words
    job.output.hide([token])  # no message is to show what lets anybody signal
    text = read_json(payload[0], job.project.cwd, "PAYLOAD") if payload else b"null"
    refuse_memory(job)
    async with looking_engine(job, job.pipeline) as (_, session):
        sent = await deliver(
            session, token, Message(text=text), sender=Sender(actor=job.options.by), signal_id=job.options.id
        )
    if job.options.json:
        job.output.json(plain_record(sent))
    else:
        job.output.say(_told(sent))
    return exit_code.OK


def read_json(text: str, cwd: Path, what: str) -> bytes:
    """Return the JSON that somebody typed, or named a file with.

    Raises:
        UsageError: It is no JSON, or there is no such file.
    """
    if text.startswith("@"):
        try:
            data = sys.stdin.buffer.read() if text == "@-" else (cwd / Path(text[1:]).expanduser()).read_bytes()
        except OSError as error:
            raise UsageError(f"{text}: {error}", "Name a file with JSON, or write @- for standard input.") from error
    else:
        data = text.encode("utf-8", "surrogateescape")
    try:
        json.loads(data)
    except ValueError as error:
        where = text if text.startswith("@") else what
        hint = (
            """Write JSON, in single quotes for the shell: '{"url": "s3://..."}'; a text has double quotes: '"yes"'."""
        )
        raise UsageError(f"{where} is no JSON: {error}", hint) from error
    return data


def _told(sent: Signalled) -> str:
    if sent.asset is None:
        return (
            "kept for a gate that is not on record yet" if not sent.duplicate else "kept already: nothing has changed"
        )
    where = "" if sent.partition is None else f" [{format_key(sent.partition)}]"
    whose = f"{sent.asset}{where} of run {sent.run_id}"
    return f"signalled before, so that nothing has changed: {whose}" if sent.duplicate else f"signalled: {whose}"


async def gates(job: Job) -> int:
    """List open gates, or show one, and return the exit code."""
    options, output = job.options, job.output
    asset = None if options.asset is None else job.asset(job.pipeline.compiled())
    async with looking_engine(job, job.pipeline) as (engine, session):
        now = session.services.store.now()
        if options.gate is not None:
            gate = await engine.gates.get(options.gate)
            _show(job, gate, await engine.gates.deliveries(gate.id, limit=options.limit), now)
            return exit_code.OK
        rows: list[list[str]] = []
        async for each in _pages(engine, asset, cast("GateKind | None", options.kind), options.limit):
            if options.json:
                output.json(plain_record(each))
            else:
                rows.append(_row(each, now))
    if rows:
        output.show(table([_HEAD, *rows]))
    elif not options.json:
        output.say("nothing waits" if asset is None else f"{asset} waits for nothing")
    return exit_code.OK


async def _pages(engine: Engine, asset: str | None, kind: GateKind | None, limit: int) -> AsyncGenerator[GateStatus]:
    after: str | None = None
    while limit > 0 and (
        page := await engine.gates.waiting(asset=asset, kind=kind, limit=min(limit, _PAGE), after=after)
    ):
        for each in page:
            yield each
        after, limit = page[-1].id, limit - len(page)


# -- what is shown ----------------------------------------------------------------------------------------------

_HEAD = ["gate", "kind", "asset", "partition", "name", "opened", "due", "run"]


def _row(gate: GateStatus, now: datetime) -> list[str]:
    return [
        gate.id,
        gate.kind,
        gate.asset,
        "" if gate.partition is None else format_key(gate.partition),
        gate.name,
        ago(gate.opened_at, now),
        "" if gate.due is None else f"{gate.due:%Y-%m-%d %H:%M:%S}",
        gate.run_id,
    ]


def _show(job: Job, gate: GateStatus, deliveries: tuple[GateDelivery, ...], now: datetime) -> None:
    if job.options.json:
        job.output.json({**plain_record(gate), "deliveries": [plain_record(each) for each in deliveries]})
        return
    where = "" if gate.partition is None else f" [{format_key(gate.partition)}]"
    facts = {
        "of": f"{gate.asset}{where} of run {gate.run_id}",
        "opened": moment(gate.opened_at, now),
        "due": "never" if gate.due is None else f"{gate.due:%Y-%m-%d %H:%M:%S} UTC",
        "ended": moment(gate.ended_at, now),
        "signal": gate.signal_id or "",
    }
    lines = [f"{gate.kind} {gate.name} is {gate.state}", *(f"  {name:<9}{it}" for name, it in facts.items() if it)]
    job.output.show("\n".join(lines))
    if deliveries:
        head = ["sent", "became", "by", "from", "id", "payload"]
        job.output.show(table([head, *(_delivery(each, now) for each in deliveries)]))


def _delivery(delivery: GateDelivery, now: datetime) -> list[str]:
    payload = delivery.payload or ""
    return [
        ago(delivery.at, now),
        delivery.state,
        delivery.actor or "",
        delivery.address or delivery.way,
        delivery.signal_id or "",
        payload if len(payload) <= _LONGEST else f"{payload[: _LONGEST - 1]}…",
    ]
