"""From the words of a command line to a command with its options, and to help. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, HelpFormatter, Namespace
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from typing_extensions import override

from flowstone_async.cli.command import Command, Option
from flowstone_async.cli.commands import COMMANDS
from flowstone_async.cli.exit_code import MEANINGS
from flowstone_async.cli.usage import UsageError, did_you_mean

_WIDEST = 100
_FORMS = "A target is written module:pipe or path/file.py."
_DIGITS = 9
_TARGET = (
    "TARGET is module:pipe or path/file.py[:pipe]; without it, `target` of [tool.flowstone] in the nearest "
    "pyproject.toml."
)


class Options(Namespace):
    """The options of a command; those that it does not have are as if they were not given.

    Attributes:
        target: `module:pipe` or `path/file.py[:pipe]`, or None for the configured one.
        targets: All targets of a command that takes several.
        asset: Name of an asset, or None.
        run: Id of a run, or None.
        words: What else the command takes.
    """

    target: str | None = None
    targets: Sequence[str] = ()
    asset: str | None = None
    run: str | None = None
    partition: str | None = None
    partitions: str | None = None
    param: list[str] | None = None
    force: bool = False
    no_deps: bool = False
    concurrency: int | None = None
    timeout: str | None = None
    dry_run: bool = False
    json: bool = False
    verbose: bool = False
    store: str | None = None
    format: str | None = None
    output: str | None = None
    all: bool = False
    cascade: bool = False
    yes: bool = False
    verify: bool = False
    parallel: int = 1
    only: str | None = None
    on_error: str = "continue"
    state: str | None = None
    limit: int = 50
    runs: str = "30d"
    values: str = "7d"
    priority: str = "0"
    at: str | None = None
    key: str | None = None
    slots: int = 10
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    root_path: str = ""
    health_port: int | None = None
    health_host: str = "127.0.0.1"
    block_limit: str | None = None
    grace: str | None = None
    lease: str | None = None
    poll: str | None = None
    no_notify: bool = False
    direct: str | None = None
    burst: int | None = None
    group_by: str | None = None
    after: int | None = None
    id: str | None = None
    by: str | None = None
    gate: str | None = None
    request: str | None = None
    role: str | None = None
    form: str | None = None
    reason: str | None = None
    kind: str | None = None
    how: str | None = None
    expires: str = "90d"
    secret: str | None = None
    base_url: str | None = None
    words: Sequence[str] = ()


class Invocation(NamedTuple):
    """A command line, understood: a command with its options, or a text to print instead."""

    command: Command | None
    options: Options
    text: str | None = None


def parse(words: Sequence[str]) -> Invocation:
    """Understand a command line.

    Args:
        words: What follows the name of the program.

    Raises:
        UsageError: It is no command line of ours.
    """
    first = words[0] if words else None
    if first in ("-h", "--help"):
        return Invocation(None, Options(), overview())
    if first == "--version":
        package = sys.modules[__name__.partition(".")[0]]
        return Invocation(None, Options(), f"flowstone {package.__version__}\n")
    names = [each.name for each in COMMANDS]
    if first is None:
        raise UsageError("no command was given", f"Commands are {', '.join(names)}. See flowstone --help.")
    group = [each for each in COMMANDS if each.name.startswith(f"{first} ")]
    if group and tuple(words[1:]) in {("-h",), ("--help",)}:
        return Invocation(None, Options(), _listed(group))
    name = " ".join(words[:2]) if group else first
    command = next((each for each in COMMANDS if each.name == name), None)
    if command is None:
        known = [each.name for each in group] or names
        hint = did_you_mean(name, known) or f"Commands are {', '.join(known)}."
        raise UsageError(f"there is no command {name!r}", f"{hint} See flowstone --help.")
    parser = _parser(command)
    rest = words[len(name.split()) :]
    if any(each in ("-h", "--help") for each in rest[: rest.index("--") if "--" in rest else None]):
        return Invocation(command, Options(), parser.format_help())
    options = parser.parse_intermixed_args(rest, namespace=Options())
    _read_words(command, options)
    return Invocation(command, options)


def overview() -> str:
    """Return the help of the program as a whole."""
    commands = _listed(COMMANDS)
    codes = "\n".join(f"  {code:<5}{meaning}" for code, meaning in MEANINGS.items())
    return (
        "usage: flowstone COMMAND [TARGET] [ASSET] [options]\n\n"
        "Assets that compute each other, durably, on nothing but Postgres.\n\n"
        f"commands:\n{commands}\n"
        f"{_TARGET}\nThe options of a command: flowstone COMMAND --help\n\n"
        f"exit codes:\n{codes}\n"
    )


def _listed(commands: Iterable[Command]) -> str:
    return "".join(f"  {each.name:<16}{each.summary}\n" for each in commands)


def is_target(word: str) -> bool:
    """Tell whether a word names a pipeline rather than an asset."""
    return ":" in word or word.endswith(".py") or "/" in word


class _Parser(ArgumentParser):
    known: tuple[str, ...] = ()

    @override
    def error(self, message: str) -> NoReturn:
        text, _, unknown = message.partition("unrecognized arguments: ")
        word = unknown.split(" ")[0].split("=")[0]
        if not text and word.startswith("-"):
            hint = did_you_mean(word, self.known)
            raise UsageError(f"{self.prog} has no option {word}", f"{hint or ''} See {self.prog} --help.".strip())
        raise UsageError(f"{self.prog}: {message}", f"See {self.prog} --help.")


class _Formatter(HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=_width())


def _width() -> int:
    # HelpFormatter would ask the environment.
    try:
        return min(os.get_terminal_size(1).columns - 2, _WIDEST)
    except OSError:
        return _WIDEST


def _parser(command: Command) -> _Parser:
    asset = {"needed": " ASSET", "optional": " [ASSET]", "run": " RUN", "none": ""}[command.asset]
    target = "" if command.pipeline == "none" else " [TARGET]..." if command.several else " [TARGET]"
    asset += "".join(f" {word}" for word in command.words)
    parser = _Parser(
        prog=f"flowstone {command.name}",
        usage=f"flowstone {command.name}{target}{asset} [options]",
        description=f"{command.summary[0].upper()}{command.summary[1:]}.",
        epilog=_TARGET if target else None,
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.known = (*(flag for each in command.options for flag in each.flags), "--help")
    parser.add_argument("words", nargs="*", help=SUPPRESS)
    for option in command.options:
        parser.add_argument(*option.flags, **_settings(option))
    parser.add_argument("-h", "--help", action="store_true", help="show this help")
    return parser


def _settings(option: Option) -> dict[str, Any]:
    shared: dict[str, Any] = {"help": option.help.replace("%", "%%"), "default": SUPPRESS}
    if not option.metavar:
        return {**shared, "action": "store_true"}
    shared["metavar"] = option.metavar
    if option.choices:
        return {**shared, "choices": option.choices}
    if option.repeat:
        return {**shared, "action": "append"}
    return {**shared, "type": _count(option.least)} if option.number else shared


def _count(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > _DIGITS or int(text) < least:
            raise ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return read


def _read_words(command: Command, options: Options) -> None:
    """Tell the target from the asset."""
    words = list(options.words)
    if command.words:
        if command.pipeline != "none" and words and is_target(words[0]):
            options.target = words.pop(0)
            options.targets, options.words = [options.target], words
        _check_words(command, words)
        return
    targets: list[str] = []
    takes_target = command.pipeline != "none"
    while takes_target and words and is_target(words[0]) and (command.several or not targets):
        targets.append(words.pop(0))
    options.targets, options.target = targets, targets[0] if targets else None
    if words and command.asset == "run":
        options.run = words.pop(0)
    elif words and command.asset != "none":
        options.asset = words.pop(0)
    if words:
        first = options.run if command.asset == "run" else options.asset
        what = "run" if command.asset == "run" else "asset"
        taken = f"; {first!r} was taken for the {what}" if first is not None and options.target is None else ""
        raise UsageError(
            f"flowstone {command.name}: {words[0]!r} is one word too many{taken}",
            f"{'' if command.pipeline == 'none' else f'{_FORMS} '}See flowstone {command.name} --help.",
        )
    if command.asset == "run" and options.run is None:
        raise UsageError(
            f"flowstone {command.name}: which run? None was named",
            f"Write flowstone {command.name} {options.target or '[TARGET]'} RUN; flowstone runs lists them.",
        )
    if command.asset == "needed" and options.asset is None:
        raise UsageError(
            f"flowstone {command.name}: which asset? None was named",
            f"Write flowstone {command.name} {options.target or '[TARGET]'} ASSET; flowstone graph draws them all.",
        )


def _check_words(command: Command, words: Sequence[str]) -> None:
    target = "" if command.pipeline == "none" else " [TARGET]"
    needed = [word for word in command.words if not word.startswith("[")]
    if len(words) < len(needed):
        raise UsageError(
            f"flowstone {command.name}: {needed[len(words)]} is missing",
            f"Write flowstone {command.name}{target} {' '.join(command.words)}.",
        )
    if len(words) > len(command.words):
        raise UsageError(
            f"flowstone {command.name}: {words[len(command.words)]!r} is one word too many",
            f"See flowstone {command.name} --help.",
        )
