"""The params of runs, as every run has them: what a params type owes, and fingerprints by field."""

from __future__ import annotations

import copy
import json
from functools import cached_property
from hashlib import blake2b
from typing import Any

from typing_extensions import override

from flowstone_async._engine.params_type import RunParams
from flowstone_async.definition.params import params_fields
from flowstone_async.errors import ParamsError
from flowstone_async.redaction import Redactor


class NoParams(RunParams):
    """The params of a pipeline that declares none."""

    @override
    def parse(self, given: object) -> Any:
        if given is not None:
            raise ParamsError(
                "params were given, but this pipeline declares none", hint="Say Pipeline(name, params=YourModel)."
            )

    @override
    def dump(self, params: Any) -> str:
        return "{}"

    @override
    def secrets(self, params: Any) -> tuple[str, ...]:
        return ()

    @override
    def defaults_json(self) -> str | None:
        return "{}"

    @override
    def load(self, text: str) -> Any:
        return None


def params_of(type_: type | None, redactor: Redactor | None = None) -> RunParams:
    """Return how the params of a pipeline with that params type are checked and stored.

    Args:
        type_: The params type; None for a pipeline that has none.
        redactor: Learns their secrets.
    """
    if type_ is None:
        return NoParams()
    from flowstone_async._engine.params import ParamsType  # it needs pydantic, which most programs need not load

    return ParamsType(type_, redactor)


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
        from flowstone_async._engine.params import adapter_of  # likewise

        fields = {name: copy.deepcopy(getattr(params, name)) for name in params_fields(wanted)}
        return adapter_of(wanted).validate_python(fields, by_alias=False, by_name=True)
    return copy.deepcopy(params)
