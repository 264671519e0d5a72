"""What a params type declares: its fields, their types, and whether it can stand in for another."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from flowstone_async.definition.assignable import assignable, render
from flowstone_async.definition.finding import Finding


def is_params_type(params: object) -> bool:
    """Tell whether a type can declare params: a dataclass or a pydantic model."""
    return isinstance(params, type) and (hasattr(params, "model_fields") or dataclasses.is_dataclass(params))


def params_fields(params: type | None) -> tuple[str, ...]:
    """Return the field names of a params type."""
    model: Mapping[str, Any] | None = getattr(params, "model_fields", None)
    if model is not None:
        return tuple(model)
    return tuple(each.name for each in dataclasses.fields(params)) if dataclasses.is_dataclass(params) else ()


def field_types(params: type) -> Mapping[str, object]:
    """Return the annotated types of the fields, as objects; without those that cannot be read here."""
    model: Mapping[str, Any] | None = getattr(params, "model_fields", None)
    if model is not None:
        return {name: field.annotation for name, field in model.items()}
    try:
        hints = typing.get_type_hints(params, include_extras=True)
    except (NameError, TypeError):
        return {each.name: each.type for each in dataclasses.fields(params) if not isinstance(each.type, str)}
    return {name: hints[name] for name in params_fields(params) if name in hints}


def uncovered(params: type, wanted: type) -> str | None:
    """Return why params of one type cannot be given as another, or None if they can.

    They can if they have all its fields, of types that fit.
    """
    if issubclass(params, wanted):
        return None
    needed, given = field_types(wanted), field_types(params)
    missing = [name for name in params_fields(wanted) if name not in params_fields(params)]
    if missing:
        return f"it misses {', '.join(map(repr, missing))}"
    for name, kind in needed.items():
        if name in given and not assignable(given[name], kind):
            return f"its {name!r} is {render(given[name])}, not {render(kind)}"
    return None if params_fields(wanted) else "it is another type"


def check_params(params: type, annotation: object, *, parameter: str) -> Iterator[Finding]:
    """Find a parameter for all params whose annotation the pipeline's params do not fit."""
    if assignable(params, annotation):
        return
    head = f"({parameter}: {render(annotation)}) but the pipeline's params are {params.__name__}"
    if not is_params_type(annotation):
        yield Finding("FS104", f"{head}.")
        return
    assert isinstance(annotation, type)  # noqa: S101 - for the type checker
    reason = uncovered(params, annotation)
    if reason is not None:
        yield Finding("FS113", f"{head}, which do not cover it: {reason}.")


def check_field(params: type, name: str, annotation: object, *, parameter: str) -> Iterator[Finding]:
    """Find a parameter for one field whose annotation the field does not fit."""
    declared = field_types(params).get(name)
    if declared is not None and not assignable(declared, annotation):
        yield Finding("FS104", f"({parameter}: {render(annotation)}) but params field {name!r} is {render(declared)}.")


def no_params_type(params: object) -> Iterator[Finding]:
    """Yield what is wrong with what a pipeline was given as the type of its params (`FS109`)."""
    if params is not None and not is_params_type(params):
        yield Finding("FS109", f"params={params!r}: give a pydantic model or a dataclass, not an instance of it.")


def uncovered_params(outer: str, params: type | None, other: str, inner: type | None) -> Iterator[Finding]:
    """Yield why a pipeline with some params cannot include another one, with `inner` (`FS113`)."""
    if inner is None:
        return
    head = f"included pipeline {other!r} has params {inner.__name__}"
    if params is None:
        text = f"{head}, but pipeline {outer!r} has none."
        yield Finding("FS113", text, f"Say Pipeline({outer!r}, params={inner.__name__}).")
        return
    reason = uncovered(params, inner)
    if reason is not None:
        text = f"{head}, which {params.__name__} of pipeline {outer!r} does not cover: {reason}."
        yield Finding("FS113", text)
