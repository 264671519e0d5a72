"""Values that a test gives in place of what assets would compute: looked at, and copied for each reader."""

from __future__ import annotations

from typing import cast

from flowstone_async._engine.request import digest
from flowstone_async.definition.assignable import render
from flowstone_async.definition.gathered import Gathered, given_results
from flowstone_async.definition.graph import Node
from flowstone_async.errors import ConfigError, StorageError
from flowstone_async.io.codec import Codec, codec_for
from flowstone_async.io.copying import copy_value


def accepted(node: Node, value: object) -> tuple[object, str | None]:
    """Return a value as bodies get it, and its fingerprint: of a scatter its results, as a `Gathered` or a list.

    Raises:
        ConfigError: It is not what the asset produces.
    """
    if node.scatter is not None:
        return _results(node, value)
    return value, _fingerprint(node, _codec(node), value, f"asset {node.name!r} produces {render(node.value_type)}")


def copied(value: object) -> object:
    """Return a copy of a value that a test gave, for a reader of its own."""
    given = given_results(value)
    if given is None:
        return copy_value(value)
    return Gathered.of(map(copy_value, given.given), failures=given.failed)


def _results(node: Node, value: object) -> tuple[object, str | None]:
    kind = render(node.value_type)
    results: object = Gathered.of(cast("list[object]", value)) if isinstance(value, list | tuple) else value
    given = given_results(results)
    if given is None:
        found = (
            "results that are stored" if isinstance(value, Gathered) else f"a {type(cast('object', value)).__name__}"
        )
        expected = f"{node.name!r} is a scatter of which each result is {kind}"
        raise ConfigError(
            f"values={{{node.name!r}: ...}}: {expected}, and this is {found}",
            asset=node.name,
            hint="Give a list of results, or Gathered.of(results, failures=...).",
        )
    codec = _codec(node)
    prints = [
        _fingerprint(node, codec, result, f"result {place} of scatter {node.name!r} is to be {kind}")
        for place, result in enumerate(given.given)
    ]
    known = None if given.failed or None in prints else digest(*prints)
    return results, known


def _codec(node: Node) -> Codec:
    return codec_for(node.value_type, names=node.definition.scope.names)


def _fingerprint(node: Node, codec: Codec, value: object, expected: str) -> str | None:
    try:
        return codec.prepare(value).fingerprint
    except StorageError as error:
        raise ConfigError(f"values={{{node.name!r}: ...}}: {expected}: {error.message}", asset=node.name) from error
