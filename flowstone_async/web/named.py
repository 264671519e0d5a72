"""From what a request names to what the engine has: an asset, a key, a run."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flowstone_async._engine.catalog import Catalog
from flowstone_async._engine.handle import RunHandle
from flowstone_async._engine.targets import find
from flowstone_async.definition.keys import PartitionKey
from flowstone_async.definition.typed_keys import typed_key
from flowstone_async.errors import ConfigError, PartitionError, RunNotFound
from flowstone_async.planning.units import partition_for
from flowstone_async.web.operation import Call
from flowstone_async.web.refusal import Problem, unfit


def asset_of(call: Call[Any, Any], name: str) -> tuple[Catalog, str]:
    """Return the pipeline and name of an asset.

    Raises:
        AssetNotFound: There is none.
        Refused: Several pipelines have one of that name.
    """
    try:
        return find(call.session.catalogs, name)
    except ConfigError as error:
        raise unfit([Problem("asset", error.message)], "request", hint=error.hint) from error


def key_of(catalog: Catalog, name: str, text: str | None, *, where: str) -> Any:
    """Return the key that a text stands for, for an asset.

    Args:
        catalog: The pipeline's.
        name: Of the asset.
        text: As people type it; None for none.
        where: The field that it comes from.

    Raises:
        Refused: It is no key of the asset.
    """
    try:
        return partition_for(catalog.node(name), typed(catalog, name, text))
    except (PartitionError, ConfigError) as error:
        raise unfit([Problem(where, error.message)], "partition", hint=error.hint) from error


def typed(catalog: Catalog, name: str, text: str | None) -> PartitionKey | None:
    """Return the key of a run that a text stands for.

    Raises:
        PartitionError: It is none.
    """
    return typed_key(catalog.graph, name, text)


async def run_of(call: Call[Any, Any]) -> RunHandle[Any]:
    """Return the run that the path names, if it is of a pipeline that the engine has.

    Raises:
        RunNotFound: There is none.
    """
    run_id = call.path["run_id"]
    if not is_id(run_id):
        raise RunNotFound(f"no run {run_id[:100]!r} in this store", hint="GET /api/v1/runs lists them.")
    handle = await call.engine.find(run_id)
    if handle.ref.pipeline not in call.session.catalogs:
        raise RunNotFound(f"no run {run_id!r} of the pipelines of this app", hint="GET /api/v1/runs lists them.")
    return handle


def is_id(text: str) -> bool:
    """Tell whether a text has the form of an id of ours."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def pipeline_of(call: Call[Any, Any], names: list[str]) -> tuple[Catalog, list[str]]:
    """Return the one pipeline that some assets are of, and their names.

    Raises:
        AssetNotFound: There is one that no pipeline has.
        Refused: They are of several pipelines.
    """
    found = [asset_of(call, name) for name in names]
    catalog = found[0][0]
    if any(each is not catalog for each, _ in found):
        problem = Problem("body.targets", "they are of several pipelines")
        raise unfit([problem], "body", hint="Submit a run for each pipeline.")
    return catalog, [name for _, name in found]
