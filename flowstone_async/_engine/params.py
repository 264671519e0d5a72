"""Params of a declared type: checked, stored as JSON. Imported only for pipelines that have them: it needs pydantic."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, Literal, cast

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json
from typing_extensions import override

from flowstone_async._engine.params_type import RunParams
from flowstone_async.definition.names import suggestion
from flowstone_async.definition.params import params_fields
from flowstone_async.errors import ConfigError, ParamsError
from flowstone_async.redaction import Redactor


class ParamsType(RunParams):
    """A pipeline's params type: a dataclass or a pydantic model.

    Args:
        type_: The type.
        redactor: Learns the secrets of whatever is parsed, so that no error or log shows them.
    """

    def __init__(self, type_: type, redactor: Redactor | None = None) -> None:
        self.type = type_
        self._redactor = redactor or Redactor()

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return adapter_of(self.type)

    @cached_property
    def _known(self) -> frozenset[str]:
        """Names by which a mapping may give fields: their own, and aliases."""
        fields: Mapping[str, Any] = getattr(self.type, "model_fields", {})
        aliases = {alias for each in fields.values() for alias in _aliases(each)}
        return frozenset({*params_fields(self.type), *aliases})

    @override
    def parse(self, given: object) -> Any:
        """Return params of the declared type, the caller's object untouched.

        Args:
            given: An instance, a mapping, or None for the defaults.

        Raises:
            ParamsError: Fields are missing, invalid or unknown (all of them listed).
        """
        if isinstance(given, self.type):
            return self._validated(_fields(given))
        if given is not None and not isinstance(given, Mapping):
            raise ParamsError(f"params must be {self.type.__name__} or a mapping, not {type(given).__name__}")
        return self._validated(dict(cast("Mapping[str, object]", given or {})))

    def _validated(self, given: dict[str, object]) -> Any:
        names = params_fields(self.type)
        faults = [_Fault(str(name), "unknown field", _hint(name, names)) for name in given if name not in self._known]
        try:
            fields = {name: value for name, value in given.items() if name in self._known}
            parsed = self._adapter.validate_python(fields, by_alias=True, by_name=True)
        except ValidationError as error:
            raise self._refused([*faults, *self._faults(error)]) from None
        if faults:
            raise self._refused(faults)
        self._learn(parsed)
        return parsed

    def _learn(self, params: Any) -> None:
        """Let the redactor know the secrets: by type, and by name; a text that is a default is in the code anyway."""
        defaults = self._defaults
        for name, value in self._plain(params).items():
            if not isinstance(value, str) or value != defaults.get(name):
                self._redactor.learn_in(value, named=self._redactor.names_secret(name))

    def _faults(self, error: ValidationError) -> list[_Fault]:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        whole = self.type.__name__
        return [_Fault(".".join(map(str, each["loc"])) or whole, each["msg"], None) for each in found]

    def _refused(self, faults: list[_Fault]) -> ParamsError:
        lines = "; ".join(f"{fault.field}: {fault.problem}" for fault in faults)
        hints = [fault.hint for fault in faults if fault.hint]
        return ParamsError(
            f"params do not fit {self.type.__name__}: {lines}",
            details={"fields": {fault.field: fault.problem for fault in faults}},
            hint=" ".join(hints) or f"It has: {', '.join(params_fields(self.type))}.",
        )

    @override
    def dump(self, params: Any) -> str:
        """Return params as the JSON text that is stored with a run; secrets are left out of it.

        Raises:
            ConfigError: They cannot be stored, or would come back as something else.
        """
        plain = self._plain(params)
        try:
            text = to_json(_in_order(plain, self._plain(params, mode="json")), inf_nan_mode="constants").decode()
            back = self._plain(self._loaded(text))
        except (ValueError, TypeError) as error:
            reason = error.message if isinstance(error, ParamsError) else str(error)
            raise self._unstorable(_odd(plain) or "", reason) from None
        for name, value in plain.items():
            if not _has_secret(value) and not _same(value, back.get(name)):
                shown = [_shown(self._redactor.value({name: each})[name]) for each in (value, back.get(name))]
                raise self._unstorable(name, f"{shown[0]} would come back as {shown[1]}")
        return text

    @override
    def secrets(self, params: Any) -> tuple[str, ...]:
        """Return the names of the fields that hold secrets, which are not stored.

        An empty one hides nothing, and the default of a field is in the code of whoever continues the run.
        """
        secret = [name for name, value in self._plain(params).items() if _has_secret(value)]
        hidden = self._hidden_defaults
        return tuple(name for name in secret if name not in hidden or hidden[name] != getattr(params, name))

    @cached_property
    def _hidden_defaults(self) -> Mapping[str, object]:
        """The defaults that hold secrets, by field."""
        return {name: default for name, default in self._defaults.items() if _has_secret(_unpacked(default))}

    @cached_property
    def _defaults(self) -> Mapping[str, object]:
        """The defaults, by field; fields without one have a mark of dataclasses or pydantic there."""
        fields: Mapping[str, Any] | None = getattr(self.type, "model_fields", None)
        if fields is None:
            fields = {each.name: each for each in dataclasses.fields(self.type)}
        return {name: each.default for name, each in fields.items()}

    def _plain(self, params: Any, *, mode: Literal["python", "json"] = "python") -> dict[str, Any]:
        """Return params as a mapping by field name, nested dataclasses and models as mappings too."""
        return self._adapter.dump_python(params, mode=mode, round_trip=True, by_alias=False, warnings=False)

    def _unstorable(self, field: str, reason: str) -> ConfigError:
        where = f"field {field!r} of params" if field else "params"
        return ConfigError(
            f"{where} cannot be stored with the run: {reason}",
            details={"field": field or None},
            hint="Annotate it with the type it has, or use fields of plain types.",
        )

    @override
    def defaults_json(self) -> str | None:
        """Return the params of a run that gives none, as JSON text; None where fields are required."""
        try:
            return self.dump(self.parse(None))
        except ParamsError:
            return None

    @override
    def load(self, text: str) -> Any:
        """Return the params that were stored with a run, of the declared type.

        Raises:
            ParamsError: The stored text no longer fits the type.
        """
        loaded = self._loaded(text)
        self._learn(loaded)
        return loaded

    def _loaded(self, text: str) -> Any:
        try:
            loaded = self._validated_json(text)
            return self._with_hidden_defaults(loaded, json.loads(text)) if self._hidden_defaults else loaded
        except ValidationError as error:
            raise self._refused(self._faults(error)) from None

    def _validated_json(self, text: str) -> Any:
        return self._adapter.validate_json(text, by_alias=False, by_name=True)

    def _with_hidden_defaults(self, loaded: Any, stored: dict[str, Any]) -> Any:
        """Put defaults that hold secrets in place of the asterisks that are stored for them."""
        others = {name: value for name, value in stored.items() if name not in self._hidden_defaults}
        shown = self._plain(self._validated_json(json.dumps(others)), mode="json")
        kept = {name: value for name, value in stored.items() if name in others or value != shown[name]}
        return loaded if len(kept) == len(stored) else self._validated_json(json.dumps(kept))


@dataclasses.dataclass(frozen=True, slots=True)
class _Fault:
    field: str
    problem: str
    hint: str | None


@lru_cache(maxsize=256)
def adapter_of(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _aliases(field: Any) -> list[str]:
    return [each for each in (field.alias, field.validation_alias) if isinstance(each, str)]


def _hint(name: object, known: tuple[str, ...]) -> str | None:
    return suggestion(name, known) if isinstance(name, str) else None


def _fields(given: Any) -> dict[str, object]:
    """Return the fields of an instance, copied; what was not set is left to the defaults."""
    if isinstance(given, BaseModel):
        known = type(given).model_fields
        return {name: copy.deepcopy(value) for name, value in given.__dict__.items() if name in known}
    return {each.name: copy.deepcopy(getattr(given, each.name)) for each in dataclasses.fields(given) if each.init}


def _has_secret(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_secret(each) for each in cast("Mapping[object, object]", value).values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_has_secret(each) for each in cast("list[object]", value))
    kind: Any = value.__class__
    return hasattr(kind, "get_secret_value") and value.get_secret_value() not in ("", b"")


def _unpacked(value: Any) -> Any:
    """Return a value with a model or dataclass as the mapping of its fields, so that secrets in it are found."""
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return adapter_of(type(value)).dump_python(value, round_trip=True, warnings=False)
    return value


def _in_order(plain: object, dumped: object) -> object:
    """Return JSON-compatible values with what was a set in an order of its own: sets have none across processes."""
    if isinstance(plain, set | frozenset) and isinstance(dumped, list):
        return sorted(cast("list[object]", dumped), key=to_json)
    if isinstance(plain, Mapping) and isinstance(dumped, dict):
        one, other = cast("Mapping[object, object]", plain), cast("dict[str, object]", dumped)
        if len(one) == len(other):
            pairs = zip(other.items(), one.values(), strict=True)
            return {name: _in_order(value, item) for (name, item), value in pairs}
    if isinstance(plain, list | tuple) and isinstance(dumped, list):
        values, items = cast("list[object]", plain), cast("list[object]", dumped)
        if len(values) == len(items):
            return [*map(_in_order, values, items)]
    return cast("object", dumped)


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal and of the same types at every depth; NaN equals itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        mapped = cast("Mapping[object, object]", one)
        return mapped.keys() == other.keys() and all(_same(value, other[key]) for key, value in mapped.items())
    if isinstance(one, list | tuple):
        items = cast("list[object]", one)
        return len(items) == len(other) and all(map(_same, items, other))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


def _odd(plain: Mapping[str, Any]) -> str | None:
    """Return the name of the first field that has no JSON form at all."""
    for name, value in plain.items():
        try:
            to_json(value)
        except (PydanticSerializationError, ValueError, TypeError):
            return name
    return None


def _shown(value: object) -> str:
    return f"{type(value).__name__} {value!r}"
