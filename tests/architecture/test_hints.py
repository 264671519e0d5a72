"""Whoever is refused is told the way out: errors of waits, of people's decisions and of the web side have a `hint`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import flowstone_async
from flowstone_async import FlowstoneError
from tests.architecture.budgets import Source, read_sources

ROOT = Path(flowstone_async.__file__).parent
PLACES = ("_engine/approving", "_engine/gates", "_engine/replay", "_engine/waits", "web")
ALONE = (
    *("_engine/resolving.py", "_engine/tokens.py", "approval_gate.py", "approvals.py", "config.py"),
    *("definition/durable_calls.py", "durable.py", "notify.py", "signals.py"),
)
NOBODY = {
    ("web/endpoint.py", "Refused"): "what `auth=` says in its own words; and a mistake of ours, which the log explains",
    ("notify.py", "FlowstoneError"): "logged as a try that failed, with what the service has said",
}
KINDS = {name for name in dir(flowstone_async) if isinstance(getattr(flowstone_async, name), type)}
ERRORS = {name for name in KINDS if issubclass(getattr(flowstone_async, name), FlowstoneError)} | {"Refused"}


def _without_hint(source: Source) -> list[str]:
    made = (each for each in ast.walk(source.tree) if isinstance(each, ast.Call) and isinstance(each.func, ast.Name))
    return [
        f"{source.name}:{call.lineno}"
        for call in made
        if isinstance(call.func, ast.Name)
        and call.func.id in ERRORS
        and (source.name, call.func.id) not in NOBODY
        and not any(each.arg == "hint" for each in call.keywords)
    ]


def test_every_error_of_a_wait_has_a_hint() -> None:
    names = [str(path.relative_to(ROOT)) for place in PLACES for path in (ROOT / place).glob("*.py")]
    sources = read_sources(ROOT, [*names, *ALONE])
    assert len(sources) > 60
    assert [place for source in sources for place in _without_hint(source)] == []


@pytest.mark.parametrize("call", ["ConfigError('no')", "GateClosed('no', **facts)", "Refused(404, 'NO', 'no')"])
def test_one_without_is_found(call: str) -> None:
    text = f"raise {call}"
    assert _without_hint(Source(name="signals.py", text=text, tree=ast.parse(text))) == ["signals.py:1"]
    assert _without_hint(Source(name="signals.py", text=text, tree=ast.parse(f"{text[:-1]}, hint='so')"))) == []
