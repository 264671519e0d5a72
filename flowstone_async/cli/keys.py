"""Partition keys typed on the command line, read as the asset declares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from flowstone_async.cli.usage import UsageError
from flowstone_async.definition.graph import Graph
from flowstone_async.definition.key_range import KeyRange
from flowstone_async.definition.key_set import KeySet
from flowstone_async.definition.key_text import parse_key
from flowstone_async.definition.keys import PartitionKey
from flowstone_async.definition.typed_keys import annotated, key_sets
from flowstone_async.errors import ConfigError, PartitionError

Key: TypeAlias = "PartitionKey | None"
Keys: TypeAlias = "KeyRange[PartitionKey]"

_ONE = "Run it for one key: flowstone run ... -p KEY; or declare a set on the asset."


def read_key(graph: Graph, asset: str, text: str | None) -> Key:
    """Return the key that `-p` names, or None without one.

    Args:
        graph: The pipeline's.
        asset: Name of an asset of it.
        text: What was typed, or None.

    Raises:
        UsageError: It is a range, or no key of the asset.
    """
    found = read_keys(graph, asset, text)
    if isinstance(found, KeyRange):
        raise UsageError(f"-p {text}: this command takes one key, not a range", "Give one key, or use backfill.")
    return found


def read_keys(graph: Graph, asset: str, text: str | None) -> Key | Keys:
    """Return the key that `-p` names, or a `KeyRange` for `FIRST..LAST`, or None without either.

    Raises:
        UsageError: It is neither a key of the asset nor a range of its keys.
    """
    node = graph.nodes[asset]
    own = node.definition.partitions
    if text is None:
        if own is not None and own.dimensions:
            raise UsageError(
                f"asset {asset!r} has partitions ({own.describe()}), and none was named",
                f"Name one: -p {_example(own)}; or use backfill for many.",
            )
        return None
    sets = list(key_sets(graph, node))
    if not sets and ".." in text:
        raise UsageError(f"-p {text}: asset {asset!r} declares no partitions, so that it has no range of them", _ONE)
    try:
        return _read_as_one_of(sets, text) if sets else parse_key(text, annotated(graph, node))
    except PartitionError as error:
        told = not sets or sets[0].describe() in error.message
        where = "" if told else f"The keys of {asset!r} are {sets[0].describe()}. "
        raise UsageError(f"-p {text}: {error.message}", f"{where}{error.hint or ''}".strip() or None) from error
    except ConfigError as error:
        raise UsageError(f"-p {text}: {error.message}", error.hint) from error


def read_range(graph: Graph, asset: str, text: str) -> Keys:
    """Return the keys that `backfill -p` names, as a range, which one key is too.

    Raises:
        UsageError: They are no keys of the asset, or it has none of its own to order them.
    """
    found = read_keys(graph, asset, text)
    if isinstance(found, KeyRange):
        return found
    keys = next((each for each in key_sets(graph, graph.nodes[asset]) if each.contains(found)), None)
    if keys is None:
        raise UsageError(f"-p {text}: asset {asset!r} declares no partitions, so that it has no range of them", _ONE)
    return keys.only(found)


def _read_as_one_of(sets: Sequence[KeySet[PartitionKey]], text: str) -> Key | Keys:
    problem: PartitionError | None = None
    for keys in sets:
        try:
            return _read(keys, text)
        except PartitionError as error:
            problem = problem or error
    raise problem or PartitionError(f"{text!r} is no key")


def _read(keys: KeySet[PartitionKey], text: str) -> Key | Keys:
    try:
        return keys.validate(keys.parse(text))
    except PartitionError:
        if ".." not in text:
            raise
    return keys.parse_range(text)


def _example(keys: KeySet[PartitionKey]) -> str:
    try:
        return keys.format(keys.key_at(0))
    except (ConfigError, PartitionError):
        return "KEY"
