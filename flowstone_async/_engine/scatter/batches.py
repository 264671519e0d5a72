"""What the body of a scatter in batches is called with."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from typing_extensions import override

from flowstone_async._engine.scatter.chunks import UNTOLD, LocalChunk, Todo
from flowstone_async._engine.scatter.errors import no_longer_ours
from flowstone_async._engine.scatter.facts import facts_of
from flowstone_async._engine.scatter.flushing import Flushing
from flowstone_async._engine.scatter.key_forms import KeyForm, of_batches
from flowstone_async._engine.scatter.keys import Keys
from flowstone_async._engine.scatter.packing import Items, as_key, hash_of
from flowstone_async.definition.batch import Batch
from flowstone_async.definition.bound_scatter import BoundBatching
from flowstone_async.errors import ConfigError, StorageError
from flowstone_async.io.codec import Codec, codec_for
from flowstone_async.store.batches import split_from
from flowstone_async.store.scatters import ScatterRecord, Scatters


class BatchFunctions(NamedTuple):
    """The functions of the option `batch`: what they take of dependencies is given."""

    bound: BoundBatching
    size: Callable[[Any], Any] | None
    group: Callable[[Any], Any] | None
    shared: Callable[..., Any] | None


class BatchKeys(Keys):
    """The keys of batches: those of their items.

    Args:
        items: Encodes items.
        key: The option `key`.
        form: How the keys of single items are stored; None for plain values.
    """

    def __init__(self, items: Items, key: object, form: KeyForm | None = None) -> None:
        super().__init__(items, key, form)
        self._stored = of_batches(self._form)

    def items(self, chunk: LocalChunk, todo: Todo) -> tuple[Any, ...]:
        """Return the keys of the items of a batch that is to be run."""
        if todo.key is not UNTOLD:
            return tuple(map(as_key, todo.key))
        if chunk.page.keys is None:
            return todo.item
        position, place = split_from(todo.position)
        keys = self.stored(chunk.page, chunk.page.keys)[position - chunk.page.first]
        return keys if place is None else (keys[place],)

    @override
    def of(self, chunk: LocalChunk, todo: Todo) -> tuple[Any, str]:
        batch: Batch[Any] = todo.item
        if self._key is False:
            return batch.keys, str(todo.number)
        if chunk.page.keys is None and todo.key is UNTOLD:
            contents = self._items.contents(self._items.pack(list(batch)))
        else:
            contents = self._form.contents(batch.keys)
        return batch.keys, hash_of(b"\n".join(contents))


class Batches:
    """Makes batches for bodies.

    Args:
        keys: Their keys.
        shared: What they share.

    Attributes:
        scattering: What knows how many there are.
    """

    def __init__(self, keys: BatchKeys, shared: object) -> None:
        self.keys = keys
        self._shared = shared
        self.scattering: Flushing | None = None

    def given(self, chunk: LocalChunk, todo: Todo) -> Todo:
        """Return what is to be run with the batch as the body receives it."""
        total = None if self.scattering is None else self.scattering.total
        batch = Batch[Any](
            todo.item,
            number=todo.number,
            of=None if total is None else max(total, todo.number + 1),  # others may have split more off by now
            shared=self._shared,
            keys=self.keys.items(chunk, todo),
        )
        return todo._replace(item=batch)


async def recorded_shared(
    functions: BatchFunctions,
    store: Scatters,
    record: ScatterRecord,
    fence: int,
    name: str,
    names: Mapping[str, object] | None,
) -> object:
    """Return what all batches share: a function of the user's is called once, and what it returned is on record.

    Raises:
        StorageError: It cannot be.
        LeaseLost: Somebody else reads the scatter.
    """
    if functions.shared is None:
        return functions.bound.batching.shared
    if facts_of(record).shared is None:
        made = functions.shared()
        if inspect.isawaitable(made):
            made = await made
        try:
            text = _codec(functions.bound, names).encode(made).decode()
        except StorageError as error:
            raise StorageError(
                f"what shared= of {name} returned cannot be recorded: {error.message}",
                details=error.details,
                hint=error.hint or "Annotate what it returns, with a type that can be stored.",
            ) from error
        facts = json.dumps({**json.loads(record.facts), "shared": text})
        decided = await store.decide(record.id, fence, record.facts, facts)
        if decided is None:
            raise no_longer_ours(name)
        record = record._replace(facts=decided)
    return shared_on_record(functions.bound, record, name, names)


def shared_on_record(
    bound: BoundBatching, record: ScatterRecord, name: str, names: Mapping[str, object] | None
) -> object:
    """Return what all batches share, for whoever has not begun the scatter.

    Raises:
        ConfigError: Whoever has begun it has not recorded it.
        StorageError: It does not fit what `shared` is annotated to return here.
    """
    if bound.shared is None:
        return bound.batching.shared
    text = facts_of(record).shared
    if text is None:
        raise ConfigError(
            f"{name} was begun by code in which nothing is shared", hint="Deploy the same code everywhere."
        )
    return _codec(bound, names).decode(text.encode())


def _codec(bound: BoundBatching, names: Mapping[str, object] | None) -> Codec:
    return codec_for(None if bound.shared is None else bound.shared.returns, names=names)
