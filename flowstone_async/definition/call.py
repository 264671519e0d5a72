"""Calling a handle directly: the body alone, as a unit test does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.body import signature_of
from flowstone_async.definition.marker import MARKERS


def call_body(definition: AssetDefinition, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
    """Call the body with the arguments given.

    Raises:
        TypeError: An argument that a run would have injected was not given.
    """
    signature = signature_of(definition.body)
    given = signature.bind_partial(*args, **kwargs).arguments
    missing = [
        name
        for name, parameter in signature.parameters.items()
        if name not in given
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and (parameter.default is parameter.empty or isinstance(parameter.default, MARKERS))
    ]
    if missing:
        names = ", ".join(f"`{name}=`" for name in missing)
        raise TypeError(f"{definition.name}() misses {names}: pass {names} or run it through a pipeline")
    return definition.body(*args, **kwargs)
