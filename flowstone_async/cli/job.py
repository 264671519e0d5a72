"""One command with all that it needs."""

from __future__ import annotations

from functools import cached_property

from flowstone_async.cli.arguments import Options
from flowstone_async.cli.output import Output
from flowstone_async.cli.project import Project, expanded, secrets_of, store_of
from flowstone_async.cli.target import find_pipeline
from flowstone_async.definition.collection import not_found
from flowstone_async.definition.graph import Graph
from flowstone_async.pipeline import Pipeline


class Job:
    """One command.

    Args:
        again: The command line, for telling how to go on.
        options: What it says.
        output: Where it writes.
        project: Where it is given.

    Attributes:
        interrupting: What the first Ctrl-C does, for people.
        interrupted: What it has done, ahead of the command line.
    """

    def __init__(self, again: str, options: Options, output: Output, project: Project) -> None:
        self.again, self.options, self.output, self.project = again, options, output, project
        self.interrupting = "cancelling"
        self.interrupted = "interrupted; to go on, run the same command again:"

    @property
    def has_target(self) -> bool:
        """Whether a pipeline was named, or one is configured."""
        return self.options.target is not None or self.project.target is not None

    @cached_property
    def pipeline(self) -> Pipeline:
        """The pipeline that the command is about.

        Raises:
            UsageError: It cannot be found.
            BrokenModule: Its module cannot be imported.
        """
        return find_pipeline(self.project, self.options.target)

    @cached_property
    def pipelines(self) -> list[Pipeline]:
        """The pipelines of a command that takes several targets; raises as `pipeline`."""
        return [find_pipeline(self.project, target) for target in self.options.targets or (None,)]

    def store(self) -> str:
        """Return the store that the command is to use; its password is not shown from now on.

        Raises:
            UsageError: A variable in it is missing.
        """
        store = store_of(self.project, self.options.store)
        self.output.hide(_passwords(store))
        return store

    def direct(self) -> str | None:
        """Return the address past a pooler that the command is to use, as `store` does."""
        if self.options.direct is None:
            return None
        direct = expanded(self.options.direct, "--direct")
        self.output.hide(_passwords(direct))
        return direct

    def secrets(self) -> list[bytes] | None:
        """Return what tokens and pickles are signed with, newest first; None leaves it to the store.

        Raises:
            UsageError: A variable is missing, or a secret is written out.
        """
        found = secrets_of(self.project, self.options.secret)
        self.output.hide(found)
        return [each.encode() for each in found] or None

    def base_url(self) -> str | None:
        """Return where those who send signals reach the engine, if that is said; raises as `secrets`."""
        given = self.options.base_url
        text = given if given is not None else self.project.base_url
        source = "--base-url" if given is not None else "base_url of [tool.flowstone]"
        return None if text is None else expanded(text, source)

    def asset(self, graph: Graph) -> str:
        """Return the name of the asset that the command is about.

        Args:
            graph: The pipeline's.

        Raises:
            AssetNotFound: The pipeline has no such asset.
        """
        name = (self.options.asset or "").removeprefix(f"{graph.pipeline}.")
        if name not in graph.nodes:
            raise not_found(name, graph.pipeline, graph.nodes)
        return name


def _passwords(store: str) -> list[str]:
    from urllib.parse import parse_qs, unquote, urlsplit

    try:
        parts = urlsplit(store)
        written = parts.password
    except ValueError:
        return []
    found = [] if written is None else [written, unquote(written)]
    return found + parse_qs(parts.query).get("password", [])
