"""The plain form of built-in values, its one canonical order, and the hash over it.

A `Form` takes values of one declared type apart into plain JSON (None, bool, int, float, str, lists and objects) and
puts them together again. What it takes apart comes back equal and of the same type; anything else is a `Misfit`.
Objects keep the order of their keys, so a fingerprint is taken after `Form.order`; sets are sorted when packed. Read
`Form`, then `sequence`. `codec.py` chooses forms by annotation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from hashlib import blake2b
from types import NoneType
from typing import Any, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic_core import TzInfo, to_json

from flowstone_async.definition.assignable import render
from flowstone_async.definition.item import Item
from flowstone_async.io.pieces import all_of, as_set, from_base64, in_order, to_base64

Plain: TypeAlias = Any  # None, bool, int, float, str, a list or an object of these
Value: TypeAlias = Any  # of the declared type, which only the running program knows
Convert = Callable[[Any], Any]
Kinds = frozenset[type[Any]]

SCALARS: Kinds = frozenset({NoneType, bool, int, float, str})
JSON_KINDS: Kinds = SCALARS | {list, dict}

DICT: Kinds = frozenset({dict})
_LIST: Kinds = frozenset({list})
_STR: Kinds = frozenset({str})
_NONE: Kinds = frozenset()
class_of: Callable[[object], type[Any]] = type
_DECLARE = "Annotate the return type: values then come back as the declared type."


class Misfit(Exception):
    """A value does not fit a form.

    Attributes:
        problem: What was expected and what was found, without the value itself, which may be a secret.
        hint: The way out, or None.
        path: Steps from the whole value to the part that does not fit.
    """

    def __init__(self, problem: str, *, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.path: list[str] = []

    def at(self, step: str) -> Misfit:
        """Put a step before the path, and return self."""
        self.path.insert(0, step)
        return self


def wrong(expected: str, found: object) -> Misfit:
    """Return the misfit of a value of the wrong type."""
    name = render(type(found))
    bases = [base for base in type(found).__mro__[1:] if base.__name__ == expected]
    remedy = f"return {expected}(value)" if bases and bases[0].__module__ == "builtins" else f"declare {name}"
    remedy = "return value.copy()" if isinstance(found, Item) else remedy
    hint = f"{name} is a kind of {expected}, but would not come back as {name}: {remedy}."
    return Misfit(f"expected {expected}, found {name}", hint=hint if bases else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How values of one declared type become plain JSON and come back.

    Attributes:
        pack: Take a value apart; raises `Misfit`.
        unpack: Put it together; raises `Misfit`.
        kinds: Kinds of plain JSON that `pack` gives.
        accepts: The exact class of the values, or None if there are several.
        order: Bring what `pack` gave into canonical order; None where it is in order already.
        plain: Classes of values that are their own plain JSON, if all are.
        exact: Whether values come back the same by construction, without a look at what came back.
    """

    pack: Convert
    unpack: Convert
    kinds: Kinds
    accepts: type[Any] | None = None
    order: Convert | None = None
    plain: Kinds = _NONE
    exact: bool = True


def digest(canonical: bytes | memoryview) -> str:
    """Return the fingerprint of canonical bytes: BLAKE2b, 16 bytes, in hexadecimal digits."""
    return blake2b(canonical, digest_size=16).hexdigest()


class StreamFingerprint:
    """The fingerprint of a stream, item by item: where its chunks were cut makes no difference."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16, person=b"stream")

    def update(self, items: bytes) -> None:
        """Take in canonical items: their JSON, joined by commas (`Codec.canonical_items`)."""
        if items:
            self._hash.update(items)
            self._hash.update(b",")

    def hexdigest(self) -> str:
        """Return the fingerprint of the items so far."""
        return self._hash.hexdigest()


def scalar(kind: type[Any]) -> Form:
    """Return the form of exactly `kind`, which JSON knows."""

    def check(value: object) -> object:
        if type(value) is not kind:
            raise wrong(render(kind), value)
        return value

    kinds: Kinds = frozenset({kind})
    return Form(pack=check, unpack=check, kinds=kinds, accepts=kind, plain=kinds)


def _real() -> Form:
    """Return the form of `float`, which takes an int that it can hold, as type checkers do."""
    strict = scalar(float)

    def pack(value: object) -> object:
        if type(value) is int and abs(value) < 1 << 1023 and float(value) == value:
            return float(value)
        return strict.pack(value)

    return replace(strict, pack=pack)


def converted(kind: type[Any], packed_kind: type[Any], to_plain: Convert, from_plain: Convert) -> Form:
    """Return the form of exactly `kind`, by two functions that undo each other."""

    def pack(value: object) -> object:
        if type(value) is not kind and not (kind is UUID and isinstance(value, UUID)):  # asyncpg has a UUID of its own
            raise wrong(render(kind), value)
        return to_plain(value)

    def unpack(packed: object) -> object:
        try:
            return from_plain(only(packed_kind, packed))
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:
            raise Misfit(f"not a {render(kind)} ({type(error).__name__})") from None

    return Form(pack=pack, unpack=unpack, kinds=frozenset({packed_kind}), accepts=kind)


def anything() -> Form:
    """Return the form of values without a declared type: plain JSON, and nothing else."""

    def check(value: Value) -> Plain:
        kind = class_of(value)
        if kind is list:
            check_all(value)
        elif kind is dict:
            if not _STR.issuperset(map(type, value)):
                raise Misfit("a key is no text, and no type is declared for it", hint=_DECLARE)
            check_all(value.values(), value)
        elif kind not in SCALARS:
            raise Misfit(f"{render(kind)} is not plain JSON, and no type is declared for it", hint=_DECLARE)
        return value

    check_all = _each(check, SCALARS)
    return Form(pack=check, unpack=as_it_is, kinds=JSON_KINDS, order=ordered)


def ordered(plain: Plain) -> Plain:
    """Return plain JSON with the keys of all its objects sorted."""
    kind = class_of(plain)
    if kind is dict:
        return {key: ordered(plain[key]) for key in in_order(plain)}
    if kind is list and not SCALARS.issuperset(map(type, plain)):
        return [ordered(item) for item in plain]
    return plain


def sequence(kind: type[Any], item: Form, *, sort: bool = False) -> Form:
    """Return the form of a list, of a tuple of any length or, sorted by the canonical bytes of its items, of a set."""
    pack_all, unpack_all = _each(item.pack, item.plain), _each(item.unpack, item.plain)
    # Values of one class that JSON knows sort as they are; any order does that is always the same.
    key = None if item.plain in (_STR, frozenset({int})) else to_json

    def pack(value: Value) -> Plain:
        packed = pack_all(only(kind, value))
        if sort:
            return in_order(packed, key)
        return packed if kind is list else list(packed)

    def unpack(packed: Plain) -> Value:
        items = unpack_all(only(list, packed))
        return items if kind is list else tuple(items) if kind is tuple else as_set(kind, items)

    def order(packed: list[Any]) -> Plain:
        items = map(order_one or as_it_is, packed)
        return in_order(list(items), to_json) if sort else list(items)

    order_one, order_all = item.order, order if item.order else None
    return Form(pack=pack, unpack=unpack, kinds=_LIST, accepts=kind, order=order_all, exact=item.exact)


def fixed(items: Sequence[Form]) -> Form:
    """Return the form of a tuple with a declared type for each place."""
    packs, unpacks = [item.pack for item in items], [item.unpack for item in items]
    orders = [item.order or as_it_is for item in items]

    def convert(values: Sequence[Any], converts: Sequence[Convert]) -> list[Any]:
        if len(values) != len(converts):
            raise Misfit(f"expected {len(converts)} items, found {len(values)}")
        return [_at(f"[{index}]", converts[index], value) for index, value in enumerate(values)]

    return Form(
        pack=lambda value: convert(only(tuple, value), packs),
        unpack=lambda packed: tuple(convert(only(list, packed), unpacks)),
        kinds=_LIST,
        accepts=tuple,
        order=(lambda packed: convert(packed, orders)) if any(item.order for item in items) else None,
        exact=all(item.exact for item in items),
    )


def mapping(kind: type[Any], key: Form, value: Form, *, sort: bool = True) -> Form:
    """Return the form of a mapping: an object if its keys become text, else pairs; sorted if order means nothing."""
    text = sort and key.kinds == _STR
    as_is = bool(kind is dict and key.plain == _STR and value.plain)
    pack_keys, unpack_keys = _each(key.pack, key.plain), _each(key.unpack, key.plain)
    pack_values, unpack_values = _each(value.pack, value.plain), _each(value.unpack, value.plain)
    pairs = fixed([key, value])
    order_pair, order_value = pairs.order or as_it_is, value.order or as_it_is

    def pack(mapped: Value) -> Plain:
        mapped = only(kind, mapped)
        if as_is and _STR.issuperset(map(type, mapped)) and value.plain.issuperset(map(type, mapped.values())):
            return mapped
        entries = zip(pack_keys(mapped.keys()), pack_values(mapped.values(), mapped), strict=True)
        return dict(entries) if text else [list(entry) for entry in entries]

    def unpack(packed: Plain) -> Value:
        if not text:
            return kind([pairs.unpack(entry) for entry in only(list, packed)])
        values = only(dict, packed).values()
        if as_is and value.plain.issuperset(map(type, values)):
            return packed
        return kind(zip(unpack_keys(packed.keys()), unpack_values(values, packed), strict=True))

    def order(packed: Plain) -> Plain:
        if text:
            return {name: order_value(packed[name]) for name in in_order(packed)}
        entries = [order_pair(entry) for entry in packed]
        return sorted(entries, key=lambda entry: to_json(entry[0])) if sort else entries

    kinds, exact = DICT if text else _LIST, key.exact and value.exact
    return Form(pack=pack, unpack=unpack, kinds=kinds, accepts=kind, order=order, exact=exact)


def union(choices: Sequence[tuple[str, Form]]) -> Form:
    """Return the form of one of several types: as it is where its kind of JSON tells which, else with its name."""
    name = " | ".join(choice for choice, _ in choices)
    named = dict(choices)
    if len(named) < len(choices):
        named = {f"{choice} {index}": form for index, (choice, form) in enumerate(choices)}
    kinds: Kinds = frozenset(kind for form in named.values() for kind in form.kinds)
    told = sum(len(form.kinds) for form in named.values()) == len(kinds)
    by_kind = {kind: choice for choice, form in named.items() for kind in form.kinds}
    classes = {form.accepts for form in named.values()}
    by_class = {each: sorted(named.items(), key=lambda entry: entry[1].accepts is not each) for each in classes}

    def pack(value: Value) -> Plain:
        kind = class_of(value)
        problem: Misfit | None = None
        for choice, form in by_class.get(kind) or named.items():
            try:
                return form.pack(value) if told else [choice, form.pack(value)]
            except Misfit as misfit:
                problem = problem or (misfit if form.accepts is kind else None)
        raise problem or wrong(name, value)

    def chosen(packed: Plain) -> tuple[Form, Plain]:
        if told and type(packed) in by_kind:
            return named[by_kind[type(packed)]], packed
        tag, *part = packed if not told and class_of(packed) is list and packed else (None,)
        if class_of(tag) is not str or tag not in named or len(part) != 1:
            raise wrong(name, packed)
        return named[tag], part[0]

    def unpack(packed: Plain) -> Value:
        form, part = chosen(packed)
        return form.unpack(part)

    def order(packed: Plain) -> Plain:
        form, part = chosen(packed)
        part = form.order(part) if form.order else part
        return part if told else [packed[0], part]

    return Form(
        pack=pack,
        unpack=unpack,
        kinds=kinds if told else _LIST,
        order=order if any(form.order for form in named.values()) else None,
        plain=kinds if told and all(form.plain for form in named.values()) else _NONE,
        exact=all(form.exact for form in named.values()),
    )


def choice(form: Form, values: Sequence[Value]) -> Form:
    """Return the form of a few values among those of `form`."""
    allowed: set[tuple[type[Any], Value]] = {(type(value), value) for value in values}

    def check(value: Value) -> Value:
        if not any(type(value) is kind for kind, _ in allowed) or (type(value), value) not in allowed:
            raise Misfit(f"expected one of {', '.join(map(repr, values))}, found something else")
        return value

    def pack(value: Value) -> Plain:
        return form.pack(check(value))

    def unpack(packed: Plain) -> Value:
        return check(form.unpack(packed))

    return replace(form, pack=pack, unpack=unpack, accepts=None, plain=_NONE)


def only(kind: type[Any], value: Value) -> Value:
    """Return `value`, which must be of exactly one class; raises `Misfit`."""
    if type(value) is not kind:
        raise wrong(render(kind), value)
    return value


def as_it_is(value: Value) -> Value:
    """Return `value`."""
    return value


def _each(convert: Convert, plain: Kinds) -> Callable[..., Any]:
    """Return a function that converts values and finds out where one does not fit; they may be plain JSON already."""

    def convert_all(values: Collection[Any], keys: Iterable[object] | None = None) -> Collection[Any]:
        if plain and all_of(plain, values):
            return values
        try:
            return [convert(value) for value in values]
        except Misfit:
            for key, value in zip(range(len(values)) if keys is None else keys, values, strict=True):
                _at(f"[{key!r}]", convert, value)
            raise

    return convert_all


def _at(step: str, convert: Convert, value: object) -> Value:
    try:
        return convert(value)
    except Misfit as misfit:
        raise misfit.at(step) from None


def _moment_text(value: datetime | time) -> str:
    """Return ISO 8601, then the zone's name in brackets, then `#1` for the second of two equal hours."""
    zone = value.tzinfo
    name = f"[{zone.key}]" if isinstance(zone, ZoneInfo) and zone.key else ""
    if zone is not None and not name and type(zone) not in (timezone, TzInfo):
        hint = "Use zoneinfo.ZoneInfo(name), datetime.UTC or datetime.timezone."
        raise Misfit(f"a zone of type {render(type(zone))} would not come back", hint=hint)
    return f"{value.isoformat()}{name}{'#1' if value.fold else ''}"


def _moment(kind: type[datetime | time], text: str) -> datetime | time:
    iso, _, zone = text.removesuffix("#1").removesuffix("]").partition("[")
    found = kind.fromisoformat(iso)
    return found.replace(tzinfo=ZoneInfo(zone) if zone else found.tzinfo, fold=int(text.endswith("#1")))


BUILTIN: Mapping[object, Form] = {
    **{kind: scalar(kind) for kind in (NoneType, bool, int, str)},
    float: _real(),
    bytes: converted(bytes, str, to_base64, from_base64),
    date: converted(date, str, date.isoformat, date.fromisoformat),
    datetime: converted(datetime, str, _moment_text, lambda text: _moment(datetime, text)),
    time: converted(time, str, _moment_text, lambda text: _moment(time, text)),
    timedelta: converted(timedelta, int, lambda it: it // timedelta.resolution, lambda n: n * timedelta.resolution),
    Decimal: converted(Decimal, str, str, Decimal),
    UUID: converted(UUID, str, str, UUID),
    complex: converted(complex, list, lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
}
