"""`flowstone check` and `graph`: the definitions alone. No store is opened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from flowstone_async._engine.host import Host
from flowstone_async._engine.opening import Wiring, open_session
from flowstone_async.cli import exit_code
from flowstone_async.cli.job import Job
from flowstone_async.cli.target import BrokenModule
from flowstone_async.clock import SystemClock
from flowstone_async.definition.drawing import GraphFormat
from flowstone_async.errors import ConfigError, DefinitionError, Problem
from flowstone_async.io.memory import Memory
from flowstone_async.io.postgres import Postgres
from flowstone_async.pipeline import Pipeline
from flowstone_async.store.memory import MemoryStore
from flowstone_async.store.protocol import Store
from flowstone_async.stores import choose_store

_ANY_SECRET = bytes(32)


def check(job: Job) -> int:
    """Report every problem of the definitions and return the exit code."""
    durable = choose_store(job.store(), migrate=True, notify=True, direct=None).kind != "memory"
    try:
        name, problems = job.pipeline.name, find_problems(job.pipeline, durable=durable)
    except BrokenModule as error:
        if (job.options.format or "text") == "text":
            raise
        name, problems = error.module, (_as_problem(error),)
    except ConfigError as error:
        # What only the engine of the program knows, such as the managers in Engine(io={...}), cannot be judged here.
        job.output.say(f"values and their I/O managers were not checked: {error.message}")
        name, problems = job.pipeline.name, ()
    _report(job, name, problems)
    return exit_code.DEFINITION if problems else exit_code.OK


def graph(job: Job) -> int:
    """Draw the graph and return the exit code."""
    drawing = job.pipeline.graph(cast("GraphFormat", job.options.format or "tree"))
    if job.options.format == "json":
        job.output.json(json.loads(drawing))
    else:
        job.output.show(drawing)
    return exit_code.OK


def find_problems(pipeline: Pipeline, *, durable: bool) -> tuple[Problem, ...]:
    """Return what is wrong with a pipeline: its definitions, then whether its values can be stored.

    Args:
        pipeline: The pipeline.
        durable: Whether values must be stored outside of memory.

    Raises:
        ConfigError: A manager cannot be had here, so that it cannot be judged.
    """
    clock = SystemClock()
    wiring: Wiring[Store] = Wiring(
        store=_store(clock, durable=durable),
        clock=clock,
        default_io=Postgres() if durable else Memory(),
        secrets=(_ANY_SECRET,),
    )
    try:
        open_session([pipeline], wiring, Host("check"))  # neither the store nor the host is opened
    except DefinitionError as error:
        return error.problems
    return ()


def _store(clock: SystemClock, *, durable: bool) -> Store:
    if not durable:
        return MemoryStore(clock)
    from flowstone_async.store.postgres import PostgresStore

    return PostgresStore("postgresql://", clock=clock)


def _as_problem(error: BrokenModule) -> Problem:
    return Problem(code="IMPORT", message=error.message, file=error.file or error.module, line=error.line)


def _report(job: Job, pipeline: str, problems: Sequence[Problem]) -> None:
    output = job.output
    match job.options.format:
        case "json":
            fields = ("code", "message", "file", "line", "asset", "hint")
            found = [{field: getattr(each, field) for field in fields} for each in problems]
            output.json({"pipeline": pipeline, "ok": not problems, "problems": found})
        case "github":
            for each in problems:
                output.write(_annotation(output.redactor.text(_text(each)), each) + "\n")
        case _ if problems:
            output.show(str(DefinitionError(pipeline, problems)))
        case _:
            output.show(f"pipeline {pipeline!r} has no problems")


def _text(problem: Problem) -> str:
    return problem.message if problem.hint is None else f"{problem.message} {problem.hint}"


def _annotation(text: str, problem: Problem) -> str:
    """Return a workflow command of GitHub, which shows a problem at its line in a pull request."""
    places = {"file": problem.file, "line": problem.line, "title": problem.code}
    properties = ",".join(f"{name}={_property(str(value))}" for name, value in places.items() if value)
    return f"::error {properties}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
