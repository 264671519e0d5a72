"""Expressions of DynamoDB, with an alias for every name and for every value that they use, and nothing else.

The service refuses several hundred words as names of attributes, `status`, `name` and `data` among them, unless they
stand behind an alias, and it refuses aliases that are not used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flowstone_async.errors import ConfigError
from flowstone_async.sources.attributes import packed

_TOKEN = re.compile(r"#\w+|:\w+|[^\W\d]\w*|.", re.DOTALL)
_KEYWORDS = {"AND", "BETWEEN", "IN", "NOT", "OR"}
_FUNCTIONS = {"attribute_exists", "attribute_not_exists", "attribute_type", "begins_with", "contains", "size"}


class Expressions:
    """The expressions of one request.

    Args:
        names: What `#names` in them stand for.
        values: What `:values` in them stand for.
    """

    def __init__(self, names: Mapping[str, str], values: Mapping[str, object]) -> None:
        self._given_names, self._given_values = names, values
        self._names: dict[str, str] = {}
        self._values: dict[str, str] = {}
        self._packed: dict[str, dict[str, Any]] = {}

    def condition(self, text: str, *, what: str) -> str:
        """Return a condition in terms of aliases.

        Args:
            text: The condition; names may be written as they are.
            what: The option's name, for messages.

        Raises:
            ConfigError: It uses a `#name` or `:value` that is not given, or that the service has not.
        """
        tokens = _TOKEN.findall(text)
        parts: list[str] = []
        for place, token in enumerate(tokens):
            if token.upper() in _KEYWORDS or (token in _FUNCTIONS and _is_called(tokens[place + 1 :])):
                parts.append(token)
            else:
                parts.append(self._aliased(token, what))
        return "".join(parts)

    def equal(self, where: Mapping[str, object]) -> str:
        """Return the condition that attributes have values."""
        return " AND ".join(
            f"{self._name(name)} = {self._value(f'where {name}', value, what=f'where[{name!r}]')}"
            for name, value in where.items()
        )

    def projection(self, paths: str | Sequence[str]) -> str:
        """Return paths of attributes in terms of aliases; of a text, those between its commas."""
        listed = paths.split(",") if isinstance(paths, str) else paths
        return ", ".join(
            "".join(self._aliased(token, "projection") for token in _TOKEN.findall(path.strip())) for path in listed
        )

    def aliases(self) -> dict[str, Any]:
        """Return what the aliases stand for, as arguments of a request; nothing that is not used."""
        found: dict[str, Any] = {}
        if self._names:
            found["ExpressionAttributeNames"] = {alias: name for name, alias in self._names.items()}
        if self._packed:
            found["ExpressionAttributeValues"] = dict(self._packed)
        return found

    def _aliased(self, token: str, what: str) -> str:
        if token.startswith("#") and len(token) > 1:
            if token not in self._given_names:
                raise _missing(what, token, "expression_names")
            return self._name(self._given_names[token])
        if token.startswith(":") and len(token) > 1:
            if token not in self._given_values:
                raise _missing(what, token, "expression_values")
            return self._value(token, self._given_values[token], what=f"expression_values[{token!r}]")
        return self._name(token) if token.isidentifier() else token

    def _name(self, name: str) -> str:
        return self._names.setdefault(name, f"#n{len(self._names)}")

    def _value(self, place: str, value: object, *, what: str) -> str:
        if place not in self._values:
            self._values[place] = alias = f":v{len(self._values)}"
            self._packed[alias] = packed(value, what=what)
        return self._values[place]


def _is_called(rest: Sequence[str]) -> bool:
    return next((token for token in rest if not token.isspace()), "") == "("


def _missing(what: str, token: str, option: str) -> ConfigError:
    return ConfigError(f"{what} uses {token}, which {option}= does not give", details={"option": what, "name": token})
