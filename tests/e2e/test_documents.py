"""What README.md and the examples say is executed."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import types
from pathlib import Path

import pytest

from flowstone_async.cli.arguments import parse
from tests.support.postgres import short_folder

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "docs/approvals.md",
    "docs/events.md",
    "docs/how-to.md",
    "docs/limits.md",
    "docs/operations.md",
    "docs/scatter.md",
    "docs/sources.md",
    "docs/waiting.md",
    "docs/web.md",
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS)
async def test_every_snippet_of_a_document_runs(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets of a document run in order, in one namespace, as a reader would type them."""
    with short_folder() as folder, monkeypatch.context() as context:
        context.chdir(folder)
        await run_snippets(document)


async def run_snippets(document: str) -> None:
    """Run the Python snippets of a document, one after another."""
    text = (ROOT / document).read_text(encoding="utf-8")
    namespace = types.ModuleType("document").__dict__
    blocks = list(BLOCK.finditer(text))
    assert blocks
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        source = "\n" * line + block[1].replace("print(pipe.run_sync(greeting))", "print(await pipe.run(greeting))")
        code = compile(source, document, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        result = eval(code, namespace)
        if inspect.isawaitable(result):
            await result


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_is_one(document: str) -> None:
    """A command line that a document shows is understood."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("flowstone "):
                assert parse(shlex.split(line)[1:]).command is not None, line


@pytest.mark.parametrize(
    "document",
    sorted(
        str(each.relative_to(ROOT))
        for each in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "examples/README.md"]
    ),
)
def test_every_relative_link_leads_somewhere(document: str) -> None:
    """A link of a document to a file of the repository is not broken."""
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (ROOT / document).parent.joinpath(link).exists()]
    assert not missing
