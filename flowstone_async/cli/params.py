"""Params typed on the command line, read as the pipeline's params type declares them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from flowstone_async._engine.run_params import params_of
from flowstone_async._engine.typed_params import field_types
from flowstone_async.cli.usage import UsageError


def read_params(type_: type[object] | None, given: Sequence[str], cwd: Path) -> object:
    """Return the params of a run, of the pipeline's params type; None where it has none.

    Args:
        type_: The pipeline's params type, or None.
        given: `name=value` and `@file`, a later file over an earlier one and names over files.
        cwd: What file names are relative to.

    Raises:
        UsageError: A text is neither of the two forms, a file cannot be read, or a name comes twice.
        ParamsError: Fields are missing, invalid or unknown; all of them are told.
    """
    types: Mapping[str, object] = {} if type_ is None else field_types(type_)
    values: dict[str, object] = {}
    named: dict[str, object] = {}
    for text in given:
        if text.startswith("@"):
            values |= _from_file(cwd / Path(text[1:]).expanduser(), text)
            continue
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--param {text}: there is no =", "Write --param name=value, or --param @file.json.")
        if name in named:
            raise UsageError(f"--param {name} is given twice", "Give it once.")
        named[name] = _read(value, types[name]) if name in types else value
    values |= named
    if type_ is None and not given:
        return None
    return params_of(type_).parse(values or None if type_ is None else values)


def _from_file(file: Path, text: str) -> Mapping[str, object]:
    try:
        found: object = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--param {text}: {error}", "Name a file with a JSON object of params.") from error
    if not isinstance(found, dict):
        raise UsageError(f"--param {text}: the file holds no JSON object", 'Write {"name": value, ...} in it.')
    return cast("dict[str, object]", found)


def _read(text: str, type_: object) -> object:
    """Return what a text says as a type: the text itself where it is one, or else the JSON that it holds.

    What fits neither way stays text, for the params type to refuse together with all other mistakes.
    """
    try:
        adapter: TypeAdapter[object] = TypeAdapter(cast("type[object]", type_))
    except PydanticUserError:
        return text
    try:
        return adapter.validate_python(text)
    except ValidationError:
        pass
    try:
        return adapter.validate_json(text)
    except ValidationError:
        return text
