"""Options of an asset as they were given: what can be used, and what is wrong with the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from flowstone_async.config import seconds
from flowstone_async.definition.asset import PLACES
from flowstone_async.definition.body import Way
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.policy import Cache, Duration, Retry
from flowstone_async.errors import ConfigError

_ASSET_NAME = re.compile(r"[a-z_][a-z0-9_]{0,99}")
_PIPELINE_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,99}")
_ASSET_NAMES = "Use lower-case letters, digits and '_', a letter or '_' first, at most 100 characters"


def read_options(given: Mapping[str, object]) -> tuple[dict[str, Any], tuple[Finding, ...]]:
    """Return the options that were given and can be used, and what is wrong with the others (`FS109`).

    Args:
        given: Option -> value; None is "not given".
    """
    wrong = {name: tuple(misuse(name, value)) for name, value in given.items() if value is not None}
    usable = {name: given[name] for name, messages in wrong.items() if not messages}
    for name, value in usable.items():
        if isinstance(value, Mapping):
            usable[name] = dict(cast("Mapping[str, object]", value))
        elif name == "tags":
            usable[name] = tuple(cast("list[str]", value))
    findings = (Finding("FS109", f"{message}.") for messages in wrong.values() for message in messages)
    return usable, tuple(findings)


def misuse(option: str, value: object) -> Iterator[str]:
    """Yield what is wrong with the value of an option, one sentence each, without its full stop."""
    check = _CHECKS.get(option)
    return iter(()) if check is None else check(option, value)


def _text(option: str, value: object) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{option}={value!r}: give text"


def _tags(option: str, value: object) -> Iterator[str]:
    labels = cast("list[object]", value) if isinstance(value, list | tuple) else [None]
    if not all(isinstance(each, str) for each in labels):
        yield f"{option}={value!r}: give a list of texts"


def _facts(option: str, value: object) -> Iterator[str]:
    keys: list[object] = list(cast("Mapping[object, object]", value)) if isinstance(value, Mapping) else [None]
    if not all(isinstance(each, str) for each in keys):
        yield f"{option}={value!r}: give a mapping from text to values"


def _cache(option: str, value: object) -> Iterator[str]:
    if isinstance(value, Cache):
        yield from value.problems()
    elif value is not True and value is not False and value != "exists":
        yield f'{option}={value!r}: allowed are True, False, "exists" and Cache(...)'


def _retry(option: str, value: object) -> Iterator[str]:
    if isinstance(value, Retry):
        yield from value.problems()
    elif value is not False:
        yield f"{option}={value!r}: allowed are Retry(...) and False"


def _timeout(option: str, value: object) -> Iterator[str]:
    if value is not False:
        try:
            seconds(cast("Duration", value))
        except ConfigError as error:
            yield f"{option}={value!r}: {str(error.hint).rstrip('.')}"


def _park_after(option: str, value: object) -> Iterator[str]:
    if value is not False:
        try:
            seconds(cast("Duration", value), zero=True)
        except ConfigError as error:
            yield f"{option}={value!r}: {str(error.hint).rstrip('.')}"


def _condition(option: str, value: object) -> Iterator[str]:
    if not callable(value):
        yield f"{option}={value!r}: give a function that answers True or False"


def _renamed_from(option: str, value: object) -> Iterator[str]:
    if not isinstance(value, str) or not _ASSET_NAME.fullmatch(value):
        yield f"{option}={value!r}: give the asset's earlier name"


def _partitions(option: str, value: object) -> Iterator[str]:
    if not isinstance(value, PartitionSet):
        yield f"{option}={value!r}: give a partition set such as Daily(...) or Keys(...)"


def _run_in(option: str, value: object) -> Iterator[str]:
    if value not in PLACES:
        yield f"{option}={value!r}: allowed are {', '.join(map(repr, PLACES))}"


def _deps(option: str, value: object) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{option}={value!r}: give a mapping from parameters to assets"


def gate_options(signal: object, max_rearms: object, way: Way, run_in: object) -> Iterator[Finding]:
    """Find what is wrong with the options of a gate that a body may return (`FS170`)."""
    if signal is None:
        if max_rearms is not None:
            yield Finding("FS170", f"max_rearms={max_rearms!r} without signal=.", "Say signal=, or leave it out.")
        return
    if max_rearms is not None and (isinstance(max_rearms, bool) or not isinstance(max_rearms, int) or max_rearms < 0):
        yield Finding("FS109", f"max_rearms={max_rearms!r}: give a whole number, 0 or more.")
    if way == "async generator":
        yield Finding("FS170", "signal= on a stream, which returns nothing.", "Wait inline: await ctx.signal(...).")
    elif way == "coroutine" and run_in is None:
        return
    else:
        hint = 'Make it async def; what blocks may run in a step: ctx.step.using(run_in="thread").'
        yield Finding("FS170", "signal= on a body that does not run on the event loop.", hint)


_CHECKS: Mapping[str, Callable[[str, object], Iterator[str]]] = {
    "description": _text,
    "owner": _text,
    "tags": _tags,
    "metadata": _facts,
    "cache": _cache,
    "retry": _retry,
    "timeout": _timeout,
    "when": _condition,
    "unless": _condition,
    "renamed_from": _renamed_from,
    "park_after": _park_after,
    "partitions": _partitions,
    "run_in": _run_in,
    "deps": _deps,
}


def place_of_work(way: Way, run_in: object) -> Iterator[Finding]:
    """Find a plain body that does not say where it runs, and others that do."""
    match way:
        case "coroutine" | "async generator" if run_in is not None:
            text = f"run_in={run_in!r} on an async def, which runs on the event loop."
            yield Finding("FS109", text, "Make it a plain def, or leave run_in= out.")
        case "plain" | "generator" if run_in is None:
            yield Finding(
                "FS103",
                "the body is a plain def, which would block the event loop.",
                'Make it async def, or name where it runs: @pipe.asset(run_in="thread"), "process" or "dask".',
            )
        case "generator":
            text = "the body is a plain generator, which is no value."
            yield Finding("FS109", text, "Return a list, or make it an async generator and leave run_in= out.")
        case _:
            pass


def asset_name(name: object) -> Iterator[Finding]:
    """Find an illegal name of an asset."""
    if not isinstance(name, str) or not _ASSET_NAME.fullmatch(name):
        yield Finding("FS108", f"{name!r} is not a legal asset name.", f'{_ASSET_NAMES}; or say name="...".')


def resource_name(name: object) -> Iterator[Finding]:
    """Find an illegal name of a resource."""
    if not isinstance(name, str) or not _ASSET_NAME.fullmatch(name):
        yield Finding("FS108", f"{name!r} is not a legal resource name.", f"{_ASSET_NAMES}.")


def prefix_name(prefix: str) -> Iterator[Finding]:
    """Find a prefix that makes no legal name."""
    if prefix and not _ASSET_NAME.fullmatch(prefix):
        yield Finding("FS108", f"prefix={prefix!r} makes no legal names.", f"{_ASSET_NAMES}.")


def pipeline_name(name: object) -> Iterator[Finding]:
    """Find an illegal name of a pipeline."""
    if not isinstance(name, str) or not _PIPELINE_NAME.fullmatch(name):
        yield Finding(
            "FS108",
            f"{name!r} is not a legal pipeline name.",
            "Use lower-case letters, digits, '_' and '-', a letter or '_' first, at most 100 characters.",
        )
