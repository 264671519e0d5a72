"""Params that come as text or JSON, read as the pipeline's params type declares each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast, get_type_hints

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError


def field_types(type_: type[object]) -> Mapping[str, object]:
    """Return the declared types of a params type, by field."""
    if issubclass(type_, BaseModel):
        return {name: field.annotation for name, field in type_.model_fields.items()}
    return get_type_hints(type_, include_extras=True)


def from_json_values(type_: type[object] | None, given: Mapping[str, object] | None) -> Mapping[str, object] | None:
    """Return params that came as JSON, each as its declared type: JSON has no dates and no sets.

    What does not fit stays as it is, for the params type to refuse together with all other mistakes.
    """
    if given is None or type_ is None:
        return given
    types = field_types(type_)
    return {name: _read(value, types[name]) if name in types else value for name, value in given.items()}


def _read(value: object, type_: object) -> object:
    try:
        return TypeAdapter(cast("type[object]", type_)).validate_json(json.dumps(value))
    except (PydanticUserError, ValidationError):
        return value
