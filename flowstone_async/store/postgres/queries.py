"""The named queries of `queries/*.sql`: `-- name: x`, then comments, then one statement."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


def load() -> Mapping[str, str]:
    """Return all queries by name, without their comments."""
    found: dict[str, str] = {}
    for file in sorted(
        files("flowstone_async.store.postgres").joinpath("queries").iterdir(), key=lambda file: file.name
    ):
        if file.name.endswith(".sql"):
            _, *parts = _NAME.split(file.read_text(encoding="utf-8"))
            for name, text in zip(parts[::2], parts[1::2], strict=True):
                if name in found:
                    raise ValueError(f"two queries are called {name}")
                found[name] = _COMMENT.sub("", text).strip().removesuffix(";")
    return MappingProxyType(found)


QUERIES = load()
