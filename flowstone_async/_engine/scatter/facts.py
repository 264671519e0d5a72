"""What was decided when a scatter began: it holds after a restart, and for what goes on from it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from flowstone_async._engine.scatter.errors import no_longer_ours
from flowstone_async.definition.scatter import ResultForm
from flowstone_async.errors import StorageError
from flowstone_async.sources.source import Source
from flowstone_async.store.scatters import ScatterRecord, Scatters
from flowstone_async.types import AssetKey, Input


class Settled(NamedTuple):
    """What is decided of its source when a scatter begins, once and for all.

    Attributes:
        recorded: What the functions among its options returned, as JSON-compatible values.
        source: With these values in place; None where there are none, or they are on record already.
    """

    recorded: object
    source: Source[Any] | None


class ScatterFacts(NamedTuple):
    """What is stored with a scatter.

    Attributes:
        results: How its results are stored; None where that is not on record.
        version: The version of the asset that its results are of; None where those are yet to come.
        code: Likewise the hash of the code.
        source: What its items came from.
        inputs: What else it was computed from.
        called: A hash of what must be the same wherever its bodies are called; that of the worker that reads it now.
        options: What the functions among the options of its source returned.
        batched: Whether its items are batches; None where that is not on record.
        shared: What batches share, encoded; None where nothing is on record.
    """

    results: ResultForm | None = None
    version: tuple[str | None] | None = None
    code: str | None = None
    source: tuple[Input, ...] = ()
    inputs: tuple[Input, ...] = ()
    called: str | None = None
    options: object = None
    batched: bool | None = None
    shared: str | None = None

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
            called=found.get("called"),
            options=found.get("options"),
            batched=found.get("batched"),
            shared=found.get("shared"),
        )

    def text(self) -> str:
        """Return the facts as they are stored."""
        return json.dumps(self._asdict())

    def after(self, before: ScatterFacts, *, sealed: bool) -> ScatterFacts:
        """Return what holds for results of two scatters, of which this one went on from the other.

        The earlier inputs come last: they decide whether the value is fresh.

        Args:
            before: What holds for what was kept.
            sealed: Whether all items were read before.
        """
        source = before.source if sealed and before.source else (*self.source, *before.source)
        return self._replace(
            results=before.results or self.results,
            version=before.version or self.version,
            code=before.code or self.code,
            source=source,
            inputs=(*self.inputs, *before.inputs),
            options=self.options if before.options is None else before.options,
            batched=self.batched if before.batched is None else before.batched,
            shared=self.shared if before.shared is None else before.shared,
        )


async def calling(called: str, store: Scatters, record: ScatterRecord, fence: int, name: str) -> ScatterRecord:
    """Put on record what bodies of a scatter are called with from now on, where it is not what they were before.

    Raises:
        LeaseLost: Somebody else reads the scatter.
    """
    facts = json.loads(record.facts)
    if facts.get("called") == called:
        return record
    decided = await store.decide(record.id, fence, record.facts, json.dumps({**facts, "called": called}))
    if decided is None:
        raise no_longer_ours(name)
    return record._replace(facts=decided)


def facts_of(scatter: ScatterRecord) -> ScatterFacts:
    """Return what holds for the results of a scatter, those that it has kept included."""
    own = ScatterFacts.read(scatter.facts)
    return own if scatter.before is None else own.after(ScatterFacts.read(scatter.before), sealed=False)


def form_of(scatter: ScatterRecord) -> ResultForm | None:
    """Return how the results of a scatter are stored; None where that is not on record."""
    return facts_of(scatter).results


def refuse_otherwise_stored(scatter: ScatterRecord, name: str, *, batches: bool) -> None:
    """Refuse a scatter that was stored when it was defined otherwise: its pages would be read as something else.

    Args:
        scatter: As it is stored.
        name: What it is called, for people.
        batches: Whether its items are in batches as it is defined now.

    Raises:
        StorageError: They are stored otherwise.
    """
    stored = facts_of(scatter).batched
    if stored is not None and stored is not batches:
        ways = ("item by item", "in batches")
        raise StorageError(
            f"{name} is stored {ways[stored]}, and is defined {ways[batches]} now",
            hint="Compute it again: run it with force=True.",
            retryable=False,
        )


def _input(found: list[Any]) -> Input:
    kind, name, fingerprint, key, materialization = found
    return Input(kind, name, fingerprint, None if key is None else AssetKey(*key), materialization)
