"""What the body of a scatter in batches is called with."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from typing_extensions import override

from flowstone_async._engine.scatter.chunks import LocalChunk, Todo
from flowstone_async._engine.scatter.errors import no_longer_ours
from flowstone_async._engine.scatter.flushing import Flushing
from flowstone_async._engine.scatter.keys import Keys
from flowstone_async._engine.scatter.packing import as_key, content_of, hash_of
from flowstone_async.definition.batch import Batch
from flowstone_async.definition.batching import Batching
from flowstone_async.errors import StorageError
from flowstone_async.io.codec import codec_for
from flowstone_async.store.batches import split_from
from flowstone_async.store.scatters import ScatterRecord, Scatters

_SHARED = "shared"


class BatchFunctions(NamedTuple):
    """The option `batch`, with its functions: what they take of dependencies is given.

    Attributes:
        returns: The type of what `shared` returns; None where it is not known.
    """

    batching: Batching[Any]
    size: Callable[[Any], Any] | None
    group: Callable[[Any], Any] | None
    shared: Callable[..., Any] | None
    returns: object


class BatchKeys(Keys):
    """The keys of batches: those of their items."""

    def items(self, chunk: LocalChunk, todo: Todo) -> tuple[Any, ...]:
        """Return the keys of the items of a batch that is to be run."""
        if chunk.page.keys is None:
            return todo.item
        position, place = split_from(todo.position)
        keys = self.stored(chunk.page, chunk.page.keys)[position - chunk.page.first]
        return tuple(map(as_key, keys if place is None else [keys[place]]))

    @override
    def of(self, chunk: LocalChunk, todo: Todo) -> tuple[Any, str]:
        batch: Batch[Any] = todo.item
        if self._key is False:
            return batch.keys, str(todo.number)
        if chunk.page.keys is None:
            contents = self._items.contents(self._items.pack(list(batch)))
        else:
            contents = [content_of(key) for key in batch.keys]
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
        batch = Batch[Any](
            todo.item,
            number=todo.number,
            of=None if self.scattering is None else self.scattering.total,
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
        return functions.batching.shared
    codec = codec_for(functions.returns, names=names)
    facts = json.loads(record.facts)
    if _SHARED not in facts:
        made = functions.shared()
        if inspect.isawaitable(made):
            made = await made
        try:
            text = codec.encode(made).decode()
        except StorageError as error:
            raise StorageError(
                f"what shared= of {name} returned cannot be recorded: {error.message}",
                details=error.details,
                hint=error.hint or "Annotate what it returns, with a type that can be stored.",
            ) from error
        decided = await store.decide(record.id, fence, json.dumps({**facts, _SHARED: text}))
        if decided is None:
            raise no_longer_ours(name)
        facts = json.loads(decided)
    return codec.decode(facts[_SHARED].encode())
