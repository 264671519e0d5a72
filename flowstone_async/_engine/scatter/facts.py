"""What was decided when a scatter began: it holds after a restart, and for what goes on from it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from flowstone_async.definition.scatter import ResultForm
from flowstone_async.types import AssetKey, Input


class ScatterFacts(NamedTuple):
    """What is stored with a scatter.

    Attributes:
        results: How its results are stored; None where that is not on record.
        version: The version of the asset that its results are of; None where those are yet to come.
        code: Likewise the hash of the code.
        source: What its items came from.
        inputs: What else it was computed from.
    """

    results: ResultForm | None = None
    version: tuple[str | None] | None = None
    code: str | None = None
    source: tuple[Input, ...] = ()
    inputs: tuple[Input, ...] = ()

    @staticmethod
    def read(text: str) -> ScatterFacts:
        """Return facts as they were stored; what is not among them is unknown."""
        found: dict[str, Any] = json.loads(text)
        version = found.get("version")
        return ScatterFacts(
            results=found.get("results"),
            version=None if version is None else (version[0],),
            code=found.get("code"),
            source=tuple(map(_input, found.get("source", ()))),
            inputs=tuple(map(_input, found.get("inputs", ()))),
        )

    def text(self) -> str:
        """Return the facts as they are stored."""
        return json.dumps(self._asdict())


def _input(found: list[Any]) -> Input:
    kind, name, fingerprint, key, materialization = found
    return Input(kind, name, fingerprint, None if key is None else AssetKey(*key), materialization)
