"""What a command is, and the options that several have."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        metavar: What stands for its value in help; empty for an option without one.
        choices: The only values allowed; any where there are none.
        number: Whether the value is a whole number from 1.
        repeat: Whether it may be given more than once.
        least: The least number allowed.
    """

    flags: tuple[str, ...]
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    number: bool = False
    repeat: bool = False
    least: int = 1


class Command(NamedTuple):
    """A command.

    Attributes:
        handler: `module:function` in this package; the function takes a `Job`.
        asset: Whether it takes the name of an asset, or else the id of a run.
        pipeline: Whether it is about a pipeline; one that is optional is imported if there is a target.
        several: Whether it takes more than one target.
        service: Whether it runs until it is stopped, so that everything it logs is shown, with the time.
        words: What else it takes, in this order; what is in brackets may be left out.
    """

    name: str
    summary: str
    handler: str
    asset: Literal["needed", "optional", "run", "none"]
    options: tuple[Option, ...]
    pipeline: Literal["needed", "optional", "none"] = "needed"
    several: bool = False
    service: bool = False
    words: tuple[str, ...] = ()


STORE = Option(
    ("--store",),
    "where values and records are: embedded (a Postgres of its own in ./.flowstone; the default), embedded:DIR, "
    "memory, or postgresql://...; $NAME in it stands for a variable of the environment, $$ for a dollar sign",
    "STORE",
)
VERBOSE = Option(("--verbose",), "show tracebacks, and what is logged")
JSON = Option(("--json",), "write JSON, and nothing else, to standard output")
SECRET = Option(
    ("--secret",),
    "what tokens of gates and pickles are signed with, as $NAME of the environment; several, newest first, with commas "
    "in between [an embedded store has its own]",
    "$NAME",
)
BASE_URL = Option(
    ("--base-url",), "where those who send signals reach the engine: what is before /hooks/signal/", "URL"
)
COMMON = (STORE, VERBOSE)
