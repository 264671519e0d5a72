"""Keys that are added to dynamic partition sets at run time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Protocol, TypeVar, cast

from flowstone_async._engine.catalog import Catalog
from flowstone_async.definition.dynamic import Dynamic
from flowstone_async.definition.keys import decode_key, encode_key
from flowstone_async.definition.listed_keys import KnownKeys
from flowstone_async.errors import ConfigError
from flowstone_async.store.protocol import Store

K = TypeVar("K")


class Keyed(Protocol):
    """A session, as far as dynamic keys need it."""

    catalogs: dict[str, Catalog]

    @property
    def store(self) -> Store:
        """Where the keys are kept."""
        ...


def identities(catalog: Catalog) -> Mapping[Dynamic[Any], str]:
    """Return the dynamic sets of a pipeline and what the store keeps their keys under."""
    if catalog.dynamic is None:
        found: dict[Any, str] = {}
        for node in catalog.graph.nodes.values():
            declared = node.definition.partitions
            owner = f"{catalog.graph.pipeline}.{node.name}"
            for each in () if declared is None else declared.dynamic_sets:
                found.setdefault(each, each.identity(owner))
        catalog.dynamic = found
    return cast("Mapping[Dynamic[Any], str]", catalog.dynamic)


async def known_keys(store: Store, catalog: Catalog) -> KnownKeys | None:
    """Return the keys of a pipeline's dynamic sets; None where it has none, which costs no query."""
    sets = identities(catalog)
    if not sets:
        return None
    known = {each: await store.partition_keys.known(name) for each, name in sets.items()}
    return KnownKeys({each: [decode_key(key) for key in keys] for each, keys in known.items()})


class DynamicKeys(Generic[K]):
    """The keys of one dynamic partition set: `engine.partitions(tenants)`."""

    def __init__(self, partition_set: Dynamic[Any], session: Callable[[], AbstractAsyncContextManager[Keyed]]) -> None:
        if not isinstance(partition_set, Dynamic):
            raise ConfigError(f"partitions({partition_set!r}) takes a Dynamic set", hint="Others are fixed in code.")
        self._set, self._session = partition_set, session

    async def add(self, *keys: K) -> int:
        """Add keys; return how many were new. From then on they are valid partitions, in every process.

        Raises:
            PartitionError: A key is not of the set's type.
        """
        encoded = [encode_key(self._checked(key)) for key in keys]
        async with self._session() as session:
            return max([await session.store.partition_keys.add(name, encoded) for name in self._identities(session)])

    async def remove(self, *keys: K) -> int:
        """Remove keys; return how many were there. What is stored for them stays until it is invalidated."""
        encoded = [encode_key(self._checked(key)) for key in keys]
        async with self._session() as session:
            removed = [await session.store.partition_keys.remove(name, encoded) for name in self._identities(session)]
            return max(removed)

    async def list(self) -> tuple[K, ...]:
        """Return the keys in the order in which they were added."""
        async with self._session() as session:
            known = [await session.store.partition_keys.known(name) for name in self._identities(session)]
        return tuple(cast("K", decode_key(key)) for key in dict.fromkeys(key for each in known for key in each))

    def _checked(self, key: K) -> Any:
        return self._set.memberships(key)[0].key

    def _identities(self, session: Keyed) -> Sequence[str]:
        """Return what the keys are kept under: without a name of its own, a set has one for each pipeline."""
        named = [identities(catalog).get(self._set) for catalog in session.catalogs.values()]
        found = tuple(dict.fromkeys(each for each in named if each is not None))
        if not found:
            raise ConfigError(f"no asset declares partitions={self._set!r}", hint="Declare it on one: partitions=...")
        return found
