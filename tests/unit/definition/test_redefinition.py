"""Two definitions of one name: a mistake in a file, a replacement in a REPL (ASSET-14)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

from flowstone_async import Pipeline
from tests.unit.definition.reading import codes, line_here, only, problems

ROOT = Path(__file__).resolve().parents[3]


def test_two_assets_of_one_name() -> None:
    """ASSET-14: `FS105` with both places, and the first one stays."""
    pipe = Pipeline("p")
    first = line_here(2)

    @pipe.asset
    async def twice() -> int:
        return 1

    second = line_here(2)

    @pipe.asset(name="twice")
    async def again() -> str:
        return ""

    third = line_here(1)
    pipe.constant("twice", b"")
    file = "tests/unit/definition/test_redefinition.py"
    hint = 'Rename one of them, or give it another name with name="...".'
    assert problems(pipe) == [
        f"FS105 two assets are called 'twice': {file}:{first} and {file}:{second}. | {hint}",
        f"FS105 two assets are called 'twice': {file}:{first} and {file}:{third}. | {hint}",
    ]
    assert [p.line for p in pipe.problems()] == [second, third]
    assert pipe.assets() == ("twice",)


def test_two_resources_of_one_name() -> None:
    """ASSET-14, RES-01."""
    pipe = Pipeline("p")

    @pipe.resource(name="db")
    async def one() -> int:
        return 1

    @pipe.resource(name="db")
    async def other() -> str:
        return ""

    assert only(pipe).message.startswith("two resources are called 'db': ")


REPL = """
from flowstone_async import Pipeline
pipe = Pipeline("p")
@pipe.asset
async def raw() -> int:
    return 1

@pipe.asset
async def down(raw: int) -> int:
    return raw + 1

handle = raw
pipe.run_sync(down)
@pipe.asset
async def raw() -> int:
    return 10

pipe.constant("rate", 1)
pipe.constant("rate", 2)
other = Pipeline("other")
other.constant("raw", 5)
pipe.include(other, prefix="o_")
pipe.include(other, prefix="o_")
print(pipe.problems(), pipe.assets())
print(pipe.run_sync(down), pipe.run_sync(down, force="all"), pipe.run_sync(handle), pipe.run_sync("rate"))
pipe.include(other)
print([p.code for p in pipe.problems()])
"""


def test_in_a_repl_a_definition_replaces_the_earlier_one() -> None:
    """ASSET-14: typed once more, or included once more; an included asset of the same name still clashes."""
    command = [sys.executable, "-i", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSTARTUP": ""}
    text = dedent(REPL).lstrip()
    done = subprocess.run(command, check=False, capture_output=True, text=True, input=text, env=environment)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("<")]
    assert "() ('raw', 'down', 'rate', 'o_raw')" in lines, done.stderr
    assert "2 11 10 2" in lines  # a change of code alone leaves a value fresh (CACHE-07)
    assert "['FS105']" in lines


def test_a_definition_without_a_place_is_not_replaced() -> None:
    """ASSET-14: a callable without source is no REPL."""
    pipe = Pipeline("p")
    pipe.add(len, name="same", run_in="thread")
    pipe.add(len, name="same", run_in="thread")
    assert "FS105" in codes(pipe)
    assert "two assets are called 'same': <unknown> and <unknown>." in problems(pipe)[0]


def test_a_handle_of_a_replaced_asset_means_the_new_one() -> None:
    """ASSET-14: what was defined against the old handle follows."""
    source = dedent(
        """
        from flowstone_async import Pipeline, dep
        pipe = Pipeline("p")
        @pipe.asset
        async def raw() -> int:
            return 1
        @pipe.asset
        async def down(x: int = dep(raw)) -> int:
            return x + 1
        """
    )
    again = "@pipe.asset\nasync def raw() -> int:\n    return 10\n"
    space: dict[str, Any] = {}
    exec(compile(source, "<ipython-input-1-abc>", "exec"), space)
    exec(compile(again, "<ipython-input-2-abc>", "exec"), space)
    assert space["pipe"].run_sync(space["down"]) == 11
    elsewhere: dict[str, Any] = {}
    exec(compile(source + again, "<string>", "exec"), elsewhere)
    assert codes(elsewhere["pipe"]) == ["FS105"]
