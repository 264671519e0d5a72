"""The params of runs: checked against the pipeline's params type, stored as JSON, hashed by field."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from functools import cached_property
from hashlib import blake2b
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from flowstone_async.definition.names import suggestion
from flowstone_async.definition.params import params_fields
from flowstone_async.errors import ConfigError, ParamsError

class ParamsType:
    """A pipeline's params type: a dataclass, a pydantic model, or none at all."""

    def __init__(self, type_: type | None) -> None:
        self.type = type_

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.type)

    def parse(self, given: object) -> Any:
        """Return params of the declared type, the caller's object untouched.

        Args:
            given: An instance, a mapping, or None for the defaults.

        Raises:
            ParamsError: Fields are missing, invalid or unknown (all of them listed), or the pipeline declares none.
        """
        if self.type is None:
            if given is not None:
                raise ParamsError(
                    "params were given, but this pipeline declares none", hint="Say Pipeline(name, params=YourModel)."
                )
            return None
        if isinstance(given, self.type):
            fields = given.model_dump() if isinstance(given, BaseModel) else _fields(given)
            return self._validated(fields if not isinstance(given, BaseModel) else given.model_copy(deep=True))
        if given is not None and not isinstance(given, Mapping):
            raise ParamsError(f"params must be {self.type.__name__} or a mapping, not {type(given).__name__}")
        return self._validated(dict(given or {}))

    def _validated(self, given: Any) -> Any:
        assert self.type is not None  # noqa: S101 - asked before, for the type checker
        known = params_fields(self.type)
        unknown = [name for name in given if name not in known] if isinstance(given, dict) else []
        faults = [_Fault(name, "unknown field", suggestion(name, known)) for name in unknown]
        try:
            fields = {k: v for k, v in given.items() if k in known} if isinstance(given, dict) else given
            parsed = self._adapter.validate_python(fields)
        except ValidationError as error:
            faults += [_Fault(".".join(map(str, e["loc"])), e["msg"], None) for e in error.errors(include_url=False)]
            raise self._refused(faults) from None
        if faults:
            raise self._refused(faults)
        return parsed

    def _refused(self, faults: list[_Fault]) -> ParamsError:
        assert self.type is not None  # noqa: S101 - asked before, for the type checker
        lines = "; ".join(f"{fault.field}: {fault.problem}" for fault in faults)
        hints = [fault.hint for fault in faults if fault.hint]
        return ParamsError(
            f"params do not fit {self.type.__name__}: {lines}",
            details={"fields": {fault.field: fault.problem for fault in faults}},
            hint=" ".join(hints) or f"It has: {', '.join(params_fields(self.type))}.",
        )

    def dump(self, params: Any) -> str:
        """Return params as the JSON text that is stored with a run.

        Raises:
            ConfigError: They cannot be stored.
        """
        if self.type is None:
            return "{}"
        try:
            return self._adapter.dump_json(params).decode()
        except (ValueError, TypeError) as error:
            raise ConfigError(f"params cannot be stored: {error}", hint="Use fields of plain types.") from error

    def defaults_json(self) -> str:
        """Return the params of a run that gives none, as JSON text; `{}` where fields are required."""
        try:
            return self.dump(self.parse(None))
        except ParamsError:
            return "{}"

    def load(self, text: str) -> Any:
        """Return the params that were stored with a run, of the declared type.

        Raises:
            ParamsError: The stored text no longer fits the type.
        """
        if self.type is None:
            return None
        try:
            return self._adapter.validate_json(text)
        except ValidationError as error:
            faults = [_Fault(".".join(map(str, e["loc"])), e["msg"], None) for e in error.errors(include_url=False)]
            raise self._refused(faults) from None


@dataclasses.dataclass(frozen=True, slots=True)
class _Fault:
    field: str
    problem: str
    hint: str | None


def _fields(given: Any) -> dict[str, object]:
    return {each.name: copy.deepcopy(getattr(given, each.name)) for each in dataclasses.fields(given) if each.init}


class Prints:
    """Fingerprints of params, by field; `"*"` is all of them. Made on first use."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: dict[str, str] = {}

    @cached_property
    def _parsed(self) -> dict[str, object]:
        return json.loads(self._text)

    def __call__(self, field: str) -> str:
        """Return the fingerprint of a field, 16 bytes in hexadecimal."""
        found = self._found.get(field)
        if found is None:
            value = self._parsed if field == "*" else self._parsed.get(field)
            plain = json.dumps(value, sort_keys=True, separators=(",", ":"))
            found = self._found[field] = blake2b(plain.encode(), digest_size=16).hexdigest()
        return found


def as_wanted(params: Any, wanted: object) -> Any:
    """Return a copy of params for one body, as the type it wants (an included pipeline's own)."""
    if isinstance(wanted, type) and params_fields(wanted) and not isinstance(params, wanted):
        return wanted(**{name: copy.deepcopy(getattr(params, name)) for name in params_fields(wanted)})
    return copy.deepcopy(params)
