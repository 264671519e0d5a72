"""Objects taken apart into their fields, put together again, compared and copied.

A record is what dataclasses, pydantic models, named tuples and typed dicts have in common: fields with declared
types. Objects are restored from their fields as `copy` and `pickle` do it, so that no constructor or validator runs a
second time. Only a dataclass with `__post_init__` is constructed, for it may keep attributes that are no fields, and a
model with private attributes runs `model_post_init`; such an object is compared with what it came from.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum
from functools import cached_property
from types import NoneType
from typing import Annotated, Any, Protocol

import typing_extensions
from pydantic_core import from_json, to_json

from flowstone_async.definition.assignable import Annotation, is_kind, optional_keys, render, substitute, type_arguments
from flowstone_async.errors import StorageError
from flowstone_async.io import fingerprint as forms
from flowstone_async.io.fingerprint import Convert, Form, Misfit, Plain, Value
from flowstone_async.io.remedies import remedy_for_readers

TRUSTED = object()
"""Metadata of a field that was validated when its object was made, and is not validated again."""

_EXTRA = "__extra__"


class Copier(Protocol):
    """What can make an independent copy of a value; a `Codec` can."""

    def copy(self, value: object) -> object:
        """Return a copy that shares nothing mutable with `value`; raises `StorageError`."""
        ...


def copy_value(value: object, codec: Copier | None = None) -> object:
    """Return an independent copy: by codec, else by `copy.deepcopy`; what cannot change is returned as it is.

    Args:
        value: Any object.
        codec: The codec of its declared type, or None.

    Raises:
        StorageError: Neither way can copy the value.
    """
    if type(value) in forms.BUILTIN or isinstance(value, Enum):
        return value
    if codec is not None:
        try:
            return codec.copy(value)
        except StorageError:
            pass
    try:
        return copy.deepcopy(value)
    except Exception as error:  # __deepcopy__ and __reduce__ are anybody's code
        raise StorageError(
            f"a value of type {render(type(value))} cannot be copied for each of its readers",
            details={"type": render(type(value))},
            hint=remedy_for_readers(value),
        ) from error


def same(one: Value, other: Value) -> bool:
    """Tell whether two values are equal and of the same types, at any depth; NaN equals NaN."""
    if one is other:
        return True
    kind = forms.class_of(one)
    if type(other) is not kind:
        return False
    if issubclass(kind, float):
        return repr(one) == repr(other)
    if issubclass(kind, dict):
        return len(one) == len(other) and all(key in other and same(one[key], other[key]) for key in one)
    if issubclass(kind, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__pydantic_fields__"):
        return same(_attributes(one), _attributes(other))
    try:
        return bool(one == other)
    except Exception:  # __eq__ is anybody's code
        return False


def _attributes(value: Value) -> dict[str, Value]:
    cached = _cached(forms.class_of(value))
    found: dict[str, Value] = {n: it for n, it in getattr(value, "__dict__", {}).items() if n not in cached}
    found |= {name: getattr(value, name, None) for name in getattr(value, "__dataclass_fields__", ())}
    return found | {n: getattr(value, n, None) or None for n in ("__pydantic_extra__", "__pydantic_private__")}


def _cached(kind: type[Any]) -> frozenset[str]:
    return frozenset(
        name for base in kind.__mro__ for name, it in vars(base).items() if isinstance(it, cached_property)
    )


def record(annotation: object, of: Callable[[Any], Form], names: Mapping[str, object]) -> Form | None:
    """Return the form of the objects of a class that are their fields, or None for another type.

    Args:
        annotation: Any annotation: a class, or a generic class with type arguments.
        of: Gives the form of a field, by its type.
        names: What the annotations of the class may name besides what its module knows.

    Raises:
        NameError: The type of a field cannot be found.
    """
    kind: Annotation = typing.get_origin(annotation) or annotation
    if "pydantic" in sys.modules and is_kind(kind, sys.modules["pydantic"].BaseModel):
        fields = _model(kind)
    elif dataclasses.is_dataclass(kind):
        fields = _dataclass(kind, _hints(annotation, kind, names))
    elif is_kind(kind, tuple) and hasattr(kind, "_fields"):
        fields = _named_tuple(kind, _hints(annotation, kind, names))
    elif typing_extensions.is_typeddict(kind):
        fields = _typed_dict(kind, _hints(annotation, kind, names))
    else:
        return None
    return _form(fields, {name: of(declared) for name, declared in fields.types.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fields:
    """What the kinds of records have in common.

    Attributes:
        kind: The exact class of the objects.
        types: The declared type of each field, in a fixed order.
        take: Return an object's fields; raises `Misfit` for attributes that are none.
        rebuild: Make an object from its fields.
        defaults: How to fill in a field that a stored object does not have yet.
        optional: Fields that an object need not have.
        exact: Whether what `rebuild` makes needs no look.
    """

    kind: type[Any]
    types: Mapping[str, Any]
    take: Callable[[Any], Mapping[str, Any]]
    rebuild: Callable[[dict[str, Any]], Any]
    defaults: Mapping[str, Callable[[], object]] = field(default_factory=dict[str, Callable[[], object]])
    optional: frozenset[str] = frozenset()
    exact: bool = True


def _form(fields: _Fields, each: Mapping[str, Form]) -> Form:
    packs = [(name, form.pack) for name, form in each.items()]
    unpacks = [(name, form.unpack) for name, form in each.items()]
    orders = [(name, form.order or forms.as_it_is) for name, form in each.items()]
    kind, take, rebuild = fields.kind, fields.take, fields.rebuild

    def missing(name: str) -> Value:
        if name in fields.defaults:
            return fields.defaults[name]()
        raise Misfit(f"{render(kind)} has a field {name!r} now, which the stored value lacks")

    def pack(value: Value) -> Plain:
        packed = _each_field(packs, take(forms.only(kind, value)))
        if len(packed) < len(packs) and (unset := each.keys() - packed.keys() - fields.optional):
            raise Misfit(f"field {min(unset)!r} of {render(kind)} is not set")
        return packed

    def unpack(packed: Plain) -> Value:
        state = _each_field(unpacks, forms.only(dict, packed))
        if len(state) < len(unpacks):
            state |= {name: missing(name) for name in each.keys() - state.keys() - fields.optional}
        return rebuild(state)

    return Form(
        pack=pack,
        unpack=unpack,
        kinds=frozenset[type[Any]]({dict}),
        accepts=kind,
        order=(lambda packed: _each_field(orders, packed)) if any(form.order for form in each.values()) else None,
        exact=fields.exact and all(form.exact for form in each.values()),
    )


def _each_field(converts: list[tuple[str, Convert]], state: Mapping[str, Value]) -> dict[str, Value]:
    done: dict[str, Value] = {}
    name = ""
    try:
        for name, convert in converts:
            if name in state:
                done[name] = convert(state[name])
    except Misfit as misfit:
        raise misfit.at(f".{name}") from None
    return done


def _dataclass(kind: Annotation, hints: Mapping[str, Any]) -> _Fields:
    declared = {each.name: each for each in dataclasses.fields(kind)}
    validated: Mapping[str, Any] = getattr(kind, "__pydantic_fields__", {})
    descriptors = any(hasattr(getattr(kind, name, None), "__set__") for name in declared)
    direct = not descriptors and all(each.init for each in declared.values())  # others may stand in the class alone
    wanted = {name for name, each in inspect.signature(kind).parameters.items() if each.default is each.empty}
    constructs = hasattr(kind, "__post_init__") and wanted <= declared.keys()  # an InitVar is not kept
    known = _cached(kind) | declared.keys()

    def take(value: Value) -> Mapping[str, Any]:
        attributes = getattr(value, "__dict__", {})
        if not constructs and len(attributes) > len(declared) and (strangers := attributes.keys() - known):
            hint = "Declare it: `name: type = field(init=False, repr=False)`."
            raise Misfit(f"attribute {min(strangers)!r} of {render(kind)} is not one of its fields", hint=hint)
        if direct:
            return attributes
        return {name: getattr(value, name) for name in declared if hasattr(value, name)}

    def rebuild(state: dict[str, Value]) -> Value:
        if constructs:
            made = kind(**{name: state[name] for name, each in declared.items() if each.init})
        else:
            made = kind.__new__(kind)
        if not descriptors:
            made.__dict__.update(state)
        else:
            for name, value in state.items():
                object.__setattr__(made, name, value)
        return made

    return _Fields(
        kind=kind,
        types={n: Annotated[hints[n], TRUSTED] if n in validated else hints[n] for n in sorted(declared)},
        take=take,
        rebuild=rebuild,
        defaults=_dataclass_defaults(declared) | _model_defaults(validated),
        exact=not constructs and kind.__new__ is object.__new__,
    )


def _dataclass_defaults(declared: Mapping[str, dataclasses.Field[Any]]) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    for name, each in declared.items():
        if each.default_factory is not dataclasses.MISSING:
            found[name] = each.default_factory
        elif each.default is not dataclasses.MISSING:
            found[name] = _always(each.default)
    return found


def _model_defaults(fields: Mapping[str, Any]) -> dict[str, Callable[[], object]]:
    return {
        name: lambda info=info: info.get_default(call_default_factory=True, validated_data={})
        for name, info in fields.items()
        if not info.is_required()
    }


def _always(value: object) -> Callable[[], object]:
    return lambda: value


def _model(kind: Annotation) -> _Fields:
    if not kind.__pydantic_complete__:
        kind.model_rebuild()
    infos: Mapping[str, Any] = kind.model_fields
    more = kind.model_config.get("extra") == "allow"
    hook = bool(kind.__pydantic_post_init__)

    def take(value: Value) -> Mapping[str, Any]:
        extra = value.__pydantic_extra__ if more else None
        return {**value.__dict__, _EXTRA: extra} if extra else value.__dict__

    def rebuild(state: dict[str, Value]) -> Value:
        extra = state.pop(_EXTRA, {} if more else None)
        made = kind.__new__(kind)
        made.__setstate__(
            {
                "__dict__": state,
                "__pydantic_extra__": extra,
                "__pydantic_fields_set__": {*state, *(extra or ())},
                "__pydantic_private__": None,
            }
        )
        if hook:
            kept = dict(state)
            made.model_post_init(None)
            made.__dict__.update(kept)
        return made

    types: dict[str, Any] = {_EXTRA: dict[str, object]} if more else {}
    for name in sorted(infos):
        declared = NoneType if infos[name].annotation is None else infos[name].annotation
        types[name] = Annotated[(declared, *infos[name].metadata, TRUSTED)]
    return _Fields(
        kind=kind,
        types=types,
        take=take,
        rebuild=rebuild,
        defaults=_model_defaults(infos),
        optional=frozenset({_EXTRA}),
        exact=not hook,
    )


def _named_tuple(kind: Annotation, hints: Mapping[str, Any]) -> _Fields:
    names: tuple[str, ...] = kind._fields
    return _Fields(
        kind=kind,
        types={name: hints.get(name, object) for name in sorted(names)},
        take=lambda value: dict(zip(names, value, strict=True)),
        rebuild=lambda state: kind._make(state[name] for name in names),
        defaults={name: _always(value) for name, value in kind._field_defaults.items()},
    )


def _typed_dict(kind: Annotation, hints: Mapping[str, Any]) -> _Fields:
    def take(value: dict[str, Any]) -> Mapping[str, Any]:
        if strangers := value.keys() - hints.keys():
            raise Misfit(f"{render(kind)} has no key {min(map(repr, strangers))}")
        return value

    return _Fields(
        kind=dict,
        types={name: hints[name] for name in sorted(hints)},
        take=take,
        rebuild=lambda state: state,
        optional=optional_keys(kind, hints),
    )


def _hints(annotation: object, kind: Annotation, names: Mapping[str, object]) -> dict[str, Any]:
    """Return the types of a class's fields, with the type arguments of the annotation put in."""
    known = {**names, kind.__name__: kind}
    resolved = typing_extensions.get_type_hints(kind, localns=known, include_extras=True)
    owners = {name: base for base in reversed(kind.__mro__) for name in inspect.get_annotations(base)}
    arguments = {
        base: dict(zip(getattr(base, "__parameters__", ()), given, strict=False))
        for base, given in type_arguments(annotation).items()
    }
    return {name: substitute(hint, arguments.get(owners.get(name, kind), {})) for name, hint in resolved.items()}


def validated(annotation: Annotation, inner: Form | None) -> Form:
    """Return the form of a type that pydantic knows, or of a type that it puts more conditions on.

    Args:
        annotation: The type as pydantic reads it.
        inner: The form of its values, or None if only pydantic can tell.

    Raises:
        TypeError: Pydantic does not know the type, or would not bring its values back.
    """
    import pydantic

    kind: Annotation = typing.get_origin(annotation) or annotation
    importer: Annotation = pydantic.ImportString
    imports = any(isinstance(each, importer) for each in getattr(annotation, "__metadata__", ()))
    if imports or kind in (type, importer, typing.get_origin(Callable[..., Any])):
        raise TypeError(f"{render(annotation)} is code, which is never stored")
    if is_kind(kind, pydantic.Secret | pydantic.SecretStr | pydantic.SecretBytes):
        raise TypeError(f"{render(annotation)} is a secret, which is never stored: make it a resource or a param")
    config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")
    try:
        adapter = pydantic.TypeAdapter[Any](annotation, config=None if inner else config)
    except Exception as error:  # __get_pydantic_core_schema__ is anybody's code
        raise TypeError(f"nothing is known about how to store {render(annotation)}") from error
    # Pydantic would lose the time zone of its own kinds of datetime.
    inner = inner or forms.BUILTIN.get({"date": date, "datetime": datetime}.get(adapter.core_schema["type"]))

    def pack(value: Value) -> object:
        try:
            checked = adapter.validate_python(value, strict=True)
            packed = inner or from_json(adapter.dump_json(checked, warnings="error"))
        except Exception as error:  # validators and serializers are anybody's code
            raise Misfit(_complaint(error)) from None
        if inner and not same(checked, value):
            raise Misfit("its validator changes it")
        return inner.pack(value) if inner else packed

    if inner:
        return dataclasses.replace(inner, pack=pack, plain=frozenset())
    return Form(
        pack=pack,
        unpack=lambda packed: adapter.validate_json(to_json(packed)),
        kinds=forms.JSON_KINDS,
        order=forms.ordered,
        exact=False,
    )


def _complaint(error: Exception) -> str:
    """Return what pydantic complains of, without the value, which may be a secret."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return type(error).__name__
    first = errors(include_input=False, include_url=False, include_context=False)[0]
    return f"{''.join(f'[{step!r}]' for step in first['loc'])} {first['msg']}".strip()
