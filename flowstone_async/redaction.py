"""Secrets kept out of what people and machines read: logs, events, errors, previews, pages.

A secret is recognized by its type (`SecretStr`), by the name it goes under, or by its place in a text: credentials in a
URL, `token=...`, `Authorization: ...`. What was once seen as a `SecretStr` is found again in any later text. In doubt
something harmless is hidden rather than a secret shown.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, Final, TypeAlias, cast
from urllib.parse import quote

HIDDEN: Final = "***"

Value: TypeAlias = Any
"""Any object of the user's."""

_NAMES = ("password", "passwd", "passphrase", "pwd", "token", "secret", "authorization", "cookie", "api key")
_PLAIN = frozenset({bool, int, float, NoneType})
_MOST_KNOWN = 1_000
_SHORTEST_KNOWN = 4
_NESTED = 100

# A password may contain what should have been escaped; a port is none.
_CREDENTIALS = re.compile(r"(?<=://)(?:(?P<user>[^\s/@:]*+):(?!\d{1,5}[/?#])[^\s?#]{0,512}|[^\s/@:]{20,}+)@")
_BEARER = re.compile(r"(?i)\b(bearer)\s{1,8}+(?=[\w~+/]{0,200}[\d._-])[\w.~+/-]{8,}+=*")
_HEADER = re.compile(r"(?i)\b((?:set-)?cookie|(?:proxy-)?authorization)(:[ \t]*)(?=[^\s\"'])[^\r\n\"']+")
_COUNT = re.compile(r"\d{1,9}")
_CALL = re.compile(r"[A-Za-z_][\w.]*[(\[]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Redactor:
    """Hides secrets in values and texts. It remembers secrets it has seen, and may be shared between threads.

    Args:
        extra: More names of fields, headers and keys that hold secrets, in any spelling (`"credit_card"`).

    Example:
        >>> Redactor().value({"user": "ada", "api-key": "k"}), Redactor().text("GET https://ada:pw@host/?token=abc")
        ({'user': 'ada', 'api-key': '***'}, 'GET https://ada:***@host/?token=***')
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._extra = tuple(extra)
        names = [*_NAMES, *(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).strip() for name in self._extra)]
        self._is_named = functools.lru_cache(maxsize=4_096)(
            functools.partial(_contains, frozenset(map(_letters, names)))
        )
        self._named = _assignment(names)
        # Whatever may need hiding contains one of these, in lower case.
        self._signs = ("://", "bearer", *{re.split(r"[\W_]+", name.lower())[0] for name in names} - {""})
        self._known: dict[str, None] = {}
        self._longest_first: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process with what it knows."""
        return _made_again, (self._extra, tuple(self._known))

    def learn(self, secret: str) -> None:
        """Hide `secret` in every later text, also as JSON or a URL spells it.

        Under 4 characters it is not learned, nor are asterisks that stand for one already.
        """
        if len(secret) < _SHORTEST_KNOWN or secret in self._known or not secret.strip("*"):
            return
        spelled = (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe="", errors="replace"))
        known = self._known | dict.fromkeys(spelled)
        while len(known) > _MOST_KNOWN:
            del known[next(iter(known))]
        self._known = known
        self._longest_first = tuple(sorted(known, key=len, reverse=True))

    def learn_in(self, value: Value, *, named: bool = False) -> None:
        """Learn every secret in a value, at any depth: `SecretStr`, and texts that go under the name of one.

        Args:
            value: The value.
            named: Whether it goes under such a name itself.
        """
        self._learn_in(value, named, 0)

    def _learn_in(self, value: Value, named: bool, depth: int) -> None:  # noqa: FBT001 - as it is handed on
        if _is_secret(value):
            self._learn_from(value)
        elif isinstance(value, str | bytes):
            if named:
                self.learn(value if isinstance(value, str) else value.decode("utf-8", "replace"))
        elif type(value) not in _PLAIN and depth <= _NESTED:
            for name, item in _items_of(value):
                self._learn_in(item, named or self.names_secret(name), depth + 1)

    def names_secret(self, name: object) -> bool:
        """Tell whether what goes under a name is a secret."""
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        return isinstance(name, str) and self._is_named(name)

    def value(self, value: Value) -> Value:
        """Return a copy of a value with its secrets hidden, at any depth; the value itself stays as it is.

        Mappings, lists, tuples, sets, dataclasses and pydantic models are looked into; other objects are kept.
        """
        return self._value(value, 0)

    def text(self, text: str) -> str:
        """Return a text with its secrets hidden and control characters escaped, but for line ends and tabs."""
        text = self._hide(text)
        return text if text.isprintable() else _CONTROL.sub(_escape, text)

    def line(self, text: str) -> str:
        """Return a text as one line of a log: as `text`, with line ends and tabs escaped too."""
        return one_line(self._hide(text))

    def _value(self, value: Value, depth: int) -> Value:
        if type(value) in _PLAIN:
            return value
        if isinstance(value, str):
            return self._hide(value)
        if depth > _NESTED:
            return HIDDEN
        if _is_secret(value):
            self._learn_from(value)
            return HIDDEN
        if isinstance(value, Mapping):
            entries = cast("Mapping[Value, Value]", value).items()
            return {self._key(key): self._field(key, item, depth) for key, item in entries}
        if isinstance(value, list | tuple | set | frozenset):
            return self._items(cast("Value", value), type(cast("Value", value)), depth)
        fields = _fields(value)
        return value if fields is None else self._object(value, fields, depth)

    def _field(self, name: object, value: Value, depth: int) -> Value:
        if value is None or isinstance(value, bool) or not self.names_secret(name):
            return self._value(value, depth + 1)
        if isinstance(value, int | float) and _counts(name):
            return value
        if _is_secret(value):
            self._learn_from(value)
        return HIDDEN

    def _key(self, key: Value) -> Value:
        return self._hide(key) if isinstance(key, str) else key

    def _items(self, value: Value, kind: Value, depth: int) -> Value:
        if hasattr(kind, "_make") and hasattr(kind, "_fields"):
            return kind._make(self._field(name, item, depth) for name, item in zip(kind._fields, value, strict=True))
        items = list(value)
        if kind is tuple and len(items) == 2 and isinstance(items[1], str | bytes):  # noqa: PLR2004 # a header
            return (items[0], self._field(items[0], items[1], depth))
        hidden = [self._value(item, depth + 1) for item in items]
        return cast("Value", kind(hidden)) if kind in (tuple, set, frozenset) else hidden

    def _object(self, value: Value, fields: Iterable[str], depth: int) -> Value:
        extra: dict[str, Value] = getattr(value, "__pydantic_extra__", None) or {}
        changed = {name: self._field(name, getattr(value, name, None), depth) for name in fields}
        if extra:
            changed["__pydantic_extra__"] = {name: self._field(name, item, depth) for name, item in extra.items()}
        try:
            made = copy.copy(value)
            for name, item in changed.items():
                object.__setattr__(made, name, item)
        except Exception:  # __copy__ and descriptors are anybody's code
            return HIDDEN
        return made

    def _learn_from(self, secret: Value) -> None:
        found = secret.get_secret_value()
        if isinstance(found, bytes):
            found = found.decode("utf-8", "replace")
        if isinstance(found, str):
            self.learn(found)

    def _hide(self, text: str) -> str:
        for secret in self._longest_first:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        lower = text.lower()
        for sign in self._signs:
            if sign in lower:
                break
        else:
            return text
        if "://" in text:
            text = _CREDENTIALS.sub(_without_password, text)
        text = _HEADER.sub(rf"\1\2{HIDDEN}", text)
        text = self._named.sub(_without_value, text)
        return _BEARER.sub(rf"\1 {HIDDEN}", text)


def _made_again(extra: tuple[str, ...], known: Iterable[str]) -> Redactor:
    made = Redactor(extra)
    for secret in known:
        made.learn(secret)
    return made


def one_line(text: str) -> str:
    """Return a text with control characters, line ends and tabs escaped."""
    if text.isprintable():
        return text
    return _CONTROL.sub(_escape, text).replace("\n", "\\n").replace("\t", "\\t")


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _contains(words: frozenset[str], name: str) -> bool:
    letters = _letters(name)
    return any(word and word in letters for word in words)


def _counts(name: object) -> bool:
    """Tell whether a name that holds a number says how many tokens, as those of language models do."""
    letters = _letters(str(name))
    return "tokens" in letters and not any(_letters(other) in letters for other in _NAMES if other != "token")


def _is_secret(value: object) -> bool:
    return hasattr(type(value), "get_secret_value")


def _fields(value: Value) -> list[str] | None:
    kind = cast("type[Value]", type(value))
    if hasattr(kind, "__pydantic_fields__"):
        return list(kind.__pydantic_fields__)
    return [each.name for each in dataclasses.fields(value)] if dataclasses.is_dataclass(kind) else None


def _items_of(value: Value) -> Iterable[tuple[Value, Value]]:
    """Return what a value holds, each with the name it goes under; a member of a series goes under none."""
    if isinstance(value, Mapping):
        return cast("Mapping[Value, Value]", value).items()
    if isinstance(value, list | tuple | set | frozenset):
        return [(None, each) for each in cast("Iterable[Value]", value)]
    return [(name, getattr(value, name, None)) for name in _fields(value) or ()]


def _assignment(names: Iterable[str]) -> re.Pattern[str]:
    """Return the pattern of a secret that a text gives by name: query, keyword, JSON; it takes linear time."""
    spelled = (r"[\W_]?".join(filter(None, re.split(r"[\W_]+", name))) for name in names)
    return re.compile(
        rf"""
        (?P<name>(?:{"|".join(filter(None, spelled))})[\w-]{{0,40}}+)
        (?P<is>\\?["']?\s{{0,8}}+(?:=(?!=)|:(?!:|//)|%3d)\s{{0,8}}+)
        (?:
            (?P<quote>b?(?P<mark>\\?["']))(?:(?!(?P=mark))(?:\\.|[^\n]))*+(?P<end>(?P=mark))?
          | (?P<plain>(?:(?:basic|bearer|digest)\s{{1,8}}+)?(?:[^\s&"'\\]|\\(?!["']))++)
        )
        """,
        re.VERBOSE | re.IGNORECASE,
    )


def _without_value(match: re.Match[str]) -> str:
    plain: str | None = match["plain"]
    if plain is None:
        return f"{match['name']}{match['is']}{match['quote']}{HIDDEN}{match['end'] or ''}"
    secret = plain.rstrip(",;)]}")
    harmless = (_counts(match["name"]) and _COUNT.fullmatch(secret)) or (match["is"] == " = " and _CALL.match(plain))
    return match[0] if harmless or not secret else f"{match['name']}{match['is']}{HIDDEN}{plain[len(secret) :]}"


def _without_password(match: re.Match[str]) -> str:
    user: str | None = match["user"]
    return f"{HIDDEN}@" if user is None else f"{user}:{HIDDEN}@"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 # what two digits hold
