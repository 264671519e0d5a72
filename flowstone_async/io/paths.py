"""Names of files made from keys: no key leaves its folder, and no two keys share a name.

What is written is plain ASCII that every file system takes as it is. Other characters become `%XX`, by the bytes of
their UTF-8, so that neither case nor Unicode normalization can make one name of two; `|`, which separates the parts
of a tuple, becomes a comma. `~` begins what was added: the hash of a name that is too long; alone it stands for the
empty text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from string import Formatter
from typing import Any

from flowstone_async.definition.key_text import format_key
from flowstone_async.errors import ConfigError
from flowstone_async.io.fingerprint import digest
from flowstone_async.types import AssetKey

MOST_BYTES = 200
"""Longest name; file systems take 255 bytes, and suffixes need room."""

DEFAULT = "{pipeline}/{asset}/{partition}"
FIELDS = frozenset({"pipeline", "asset", "partition"})

_UNSAFE = re.compile(r"[^A-Za-z0-9._=@+ -]")
_CUT_ESCAPE = re.compile(r"%[0-9A-F]?\Z")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?=\.|\Z)", re.IGNORECASE)
_HASH_DIGITS = 8
_EMPTY = "~"


def file_name(text: str, *, fold: bool = False) -> str:
    """Return the name of a file or folder for any text; distinct for distinct texts.

    Args:
        text: Any text but the empty one.
        fold: Whether the file system takes `US` and `us` for one name: what has upper-case letters gets a hash then.
    """
    return _settled(_escaped(text), fold=fold)


def key_folder(key: AssetKey) -> str:
    """Return the folder, below the root, that holds the values of an asset key."""
    return "/".join(file_name(part) for part in (key.pipeline, key.asset, key.partition) if part)


def public_path(path: str | Callable[[Any], str], key: AssetKey, partition: object, *, fold: bool = False) -> str:
    """Return the path, below the root, under which the current value of a key is shown, without suffix.

    Args:
        path: A template with `{pipeline}`, `{asset}` and `{partition}`, or a function of the partition.
        key: The key.
        partition: Its partition as a real object.
        fold: See `file_name`.

    Raises:
        ConfigError: The path names no file below the root.
    """
    fields = {
        "pipeline": _escaped(key.pipeline),
        "asset": _escaped(key.asset),
        "partition": _readable(key, partition),
    }
    if isinstance(path, str):
        parts = [_filled(part, fields) for part in path.split("/")]
    else:
        parts = [_escaped(part) for part in checked_path(path(partition), f"{path!r} returned").split("/")]
    names = [_settled(part, fold=fold) for part in parts if part]
    if not names:
        raise ConfigError(f"path {path!r} names no file for {str(key)!r}", hint=f"The default is {DEFAULT!r}.")
    return "/".join(names)


def checked_path(path: object, what: str) -> str:
    """Return a path that stays below the root it is relative to.

    Raises:
        ConfigError: It is no text, absolute, or goes up.
    """
    if not isinstance(path, str) or path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path):
        raise ConfigError(
            f"{what} {path!r}, which is no path below the root", hint="Give a relative path without `..`."
        )
    return path


def checked_template(path: str) -> str:
    """Return a path template that is sound.

    Raises:
        ConfigError: It leaves the root, or names a field that there is not.
    """
    try:
        fields = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(path) if name is not None]
    except ValueError as error:
        raise ConfigError(f"path={path!r} cannot be read: {error}", hint=f"The default is {DEFAULT!r}.") from error
    for name, spec, conversion in fields:
        if name not in FIELDS or spec or conversion:
            raise ConfigError(
                f"path={path!r} has an unknown field {name!r}",
                hint="Use {pipeline}, {asset} and {partition} as they are, or a function of the partition.",
            )
    return checked_path(path, "path is")


def _readable(key: AssetKey, partition: object) -> str:
    """Return what people call the partition, without the tags of its encoded form, as part of a name."""
    if not key.partition:
        return ""
    if isinstance(partition, str):
        return _escaped(partition) or _EMPTY
    return _escaped(format_key(partition))  # type: ignore[arg-type]


def _filled(template: str, fields: dict[str, str]) -> str:
    parts: list[str] = []
    for literal, name, _, _ in Formatter().parse(template):
        parts.append(_escaped(literal))
        if name is not None:
            parts.append(fields[name])
    return "".join(parts)


def _escaped(text: str) -> str:
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return "," if match[0] == "|" else _hexadecimal(match[0])


def _hexadecimal(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def _settled(name: str, *, fold: bool) -> str:
    """Make a name of escaped text: not hidden, not reserved, not too long, and none that Windows would change."""
    if name[0] in ". " or _RESERVED.match(name):
        name = _hexadecimal(name[0]) + name[1:]
    if name[-1] in ". ":
        name = name[:-1] + _hexadecimal(name[-1])
    if len(name) > MOST_BYTES:
        kept = _CUT_ESCAPE.sub("", name[: MOST_BYTES - 33])
        return f"{kept}~{digest(name.encode())}"
    if fold and name != name.lower():
        return f"{name}~{digest(name.encode())[:_HASH_DIGITS]}"
    return name
