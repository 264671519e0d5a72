"""Where a command is given, and the defaults of `[tool.flowstone]` in the nearest pyproject.toml."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import NamedTuple, cast

from flowstone_async.cli.usage import UsageError, did_you_mean

_KEYS = ("target", "store", "secret", "base_url")
_EMBEDDED = "embedded"


class Project(NamedTuple):
    """Where a command is given.

    Attributes:
        cwd: The current directory.
        folder: The folder of the nearest pyproject.toml, to which its paths are relative; `cwd` without one.
        target: The pipeline that is meant when none is named, or None.
        store: The store that is meant when none is named, or None.
        secret: What tokens and pickles are signed with when nothing is named, or None.
        base_url: Where those who send signals reach the engine when nothing is named, or None.
    """

    cwd: Path
    folder: Path
    target: str | None = None
    store: str | None = None
    secret: str | None = None
    base_url: str | None = None

    def path(self, text: str) -> Path:
        """Return the path that somebody typed."""
        return self.cwd / Path(text).expanduser()


def find_project(cwd: Path) -> Project:
    """Read the nearest pyproject.toml.

    Args:
        cwd: Where to begin; then its parents.

    Raises:
        UsageError: The file cannot be read, or its `[tool.flowstone]` says something we do not know.
    """
    file = next((each for folder in (cwd, *cwd.parents) if (each := folder / "pyproject.toml").is_file()), None)
    if file is None:
        return Project(cwd, cwd)
    settings = _settings(file)
    return Project(cwd, file.parent, *(settings.get(name) for name in _KEYS))


def store_of(project: Project, given: str | None) -> str:
    """Return the store that a command is to use, its variables filled in.

    Args:
        project: Where the command is given.
        given: What `--store` says, or None.

    Raises:
        UsageError: A variable is missing.
    """
    if given is None and project.store is None:
        return _EMBEDDED
    source = "--store" if given is not None else "store of [tool.flowstone]"
    store = expanded(given or project.store or "", source)
    folder = project.cwd if given is not None else project.folder
    kind, _, place = store.partition(":")
    if kind != _EMBEDDED or (given is not None and not place):
        return store
    return f"{_EMBEDDED}:{folder / (os.path.expanduser(place) or '.flowstone')}"  # noqa: PTH111 - a text


def secrets_of(project: Project, given: str | None) -> list[str]:
    """Return the secrets that a command is to use, newest first; none for those that the store has of its own.

    Args:
        project: Where the command is given.
        given: What `--secret` says, or None.

    Raises:
        UsageError: A variable is missing, or a secret is written out.
    """
    text = given if given is not None else project.secret
    if text is None:
        return []
    source = "--secret" if given is not None else "secret of [tool.flowstone]"
    if "$" not in text:
        raise UsageError(
            f"{source} is written out, for everybody to read", "Name a variable that holds it: '$FLOWSTONE_SECRET'."
        )
    return [each.strip() for each in expanded(text, source).split(",")]


def expanded(text: str, source: str) -> str:
    """Return a text with its variables of the environment filled in.

    Args:
        text: `$NAME` or `${NAME}` stands for a variable, `$$` for a dollar sign.
        source: Where it is given.

    Raises:
        UsageError: A variable is missing.
    """
    try:
        return Template(text).substitute(os.environ)
    except KeyError as error:
        name = str(error.args[0])
        raise UsageError(
            f"{source} needs the variable {name} of the environment, which is not set",
            f"Set it: export {name}=...",
        ) from None
    except ValueError:
        # Not the text itself: a password may be the part that is wrong.
        raise UsageError(
            f"{source} has a $ that no name follows", "Write $$ for a dollar sign, and $NAME for a variable."
        ) from None


def _settings(file: Path) -> dict[str, str]:
    import tomllib

    try:
        whole = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {file}: {error}", "Correct it: its [tool.flowstone] has defaults.") from error
    tool = whole.get("tool")
    found: object = cast("Mapping[str, object]", tool).get("flowstone", {}) if isinstance(tool, dict) else {}
    if not isinstance(found, dict):
        raise UsageError(f"tool.flowstone in {file} is no table", "Write [tool.flowstone] on a line of its own.")
    settings = cast("dict[str, object]", found)
    for name, value in settings.items():
        if name not in _KEYS:
            raise UsageError(
                f"[tool.flowstone] in {file} has {name!r}, which means nothing",
                did_you_mean(name, _KEYS) or f"It may have {', '.join(_KEYS)}.",
            )
        if not isinstance(value, str):
            raise UsageError(f"{name} of [tool.flowstone] in {file} is no text", f'Write {name} = "...".')
    return cast("dict[str, str]", settings)
