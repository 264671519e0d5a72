"""The form of a decision: a record, whose inputs have types that only the asset knows which asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flowstone_async.approvals import INPUTS
from flowstone_async.definition.approval import InputTypes
from flowstone_async.io.copying import record
from flowstone_async.io.fingerprint import Form


def input_types(metadata: tuple[object, ...]) -> InputTypes | None:
    """Return the types of inputs that an annotation brings."""
    return next((each for each in metadata if isinstance(each, InputTypes)), None)


def decision_form(
    annotation: object, inputs: InputTypes, of: Callable[[Any], Form], names: Mapping[str, object]
) -> Form:
    """Return the form of `Decision[F]` with inputs of these types.

    Args:
        annotation: The decision, with the type of its form.
        inputs: The types.
        of: Gives the form of a field, by its type.
        names: As for `record`.
    """

    def field(declared: Any) -> Form:
        return of(inputs.types if INPUTS in getattr(declared, "__metadata__", ()) else declared)

    form = record(annotation, field, names)
    assert form is not None  # noqa: S101 - it is a dataclass
    return form
