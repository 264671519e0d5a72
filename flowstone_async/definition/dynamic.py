"""Partition keys that are added and removed at run time."""

from __future__ import annotations

from typing import TypeVar, cast, final, get_args

from typing_extensions import override

from flowstone_async.definition.enumerated import EnumeratedKeys
from flowstone_async.definition.key_set import KeySet, Membership
from flowstone_async.definition.key_text import fits, parse_key, type_text
from flowstone_async.definition.keys import PartitionKey
from flowstone_async.definition.listed_keys import KnownKeys, ListedKeys, not_looked_up
from flowstone_async.errors import ConfigError

K = TypeVar("K", bound=PartitionKey)


@final
class Dynamic(EnumeratedKeys[K]):
    """Keys that are added and removed at run time, through `engine.partitions(...)`; ordered as they were added.

    The definition holds no keys: questions about them take `known`, what the store was asked before.

    Args:
        name: What the store keeps the keys under. Two sets of one name and type are the same set. Without one, the
            set is known by the first asset that declares it, and equal to no other.

    Example:
        >>> tenants = Dynamic[str]("tenants")
        >>> tenants.contains("acme", KnownKeys({tenants: ["acme"]}))
        True
    """

    __slots__ = ("__orig_class__", "_name")

    def __init__(self, name: str | None = None) -> None:
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigError(f"Dynamic({name!r}): a name is a text", hint='Write Dynamic[str]("tenants").')
        self._name = name

    @property
    def name(self) -> str | None:
        """What the store keeps the keys under, or None if that is the name of an asset."""
        return self._name

    @property
    @override
    def key_type(self) -> object:
        """The type that the brackets name.

        Raises:
            ConfigError: There are none, or they name a type that keys cannot have.
        """
        alias: object = getattr(self, "__orig_class__", None)
        if alias is None:
            raise ConfigError("Dynamic() does not say what its keys are", hint="Write Dynamic[str]().")
        named: object = get_args(alias)[0]
        fits(None, named)
        return named

    @property
    @override
    def dynamic_sets(self) -> tuple[KeySet[object], ...]:
        return (self,)

    @override
    def memberships(self, key: object) -> tuple[Membership, ...]:
        return (Membership(partition_set=self, key=self.typed(key)),)

    @override
    def listed(self, known: KnownKeys | None = None) -> ListedKeys[K]:
        if known is None:
            raise not_looked_up(self)
        return cast("ListedKeys[K]", known.listed(self))

    @override
    def parse(self, text: str) -> K:
        return cast("K", parse_key(text, self.key_type))

    @property
    @override
    def remedy(self) -> str:
        return "Add it with engine.partitions(...).add(key)."

    @override
    def describe(self) -> str:
        return f"dynamic {type_text(self.key_type)} keys{f' {self._name!r}' if self._name else ''}"

    @override
    def identity(self, owner: str | None = None) -> str:
        name = self._name or owner
        if name is None:
            raise ConfigError("this Dynamic set has no name", hint='Give it one: Dynamic[str]("tenants").')
        return f"dynamic:{type_text(self.key_type)}:{name}"

    @override
    def __eq__(self, other: object) -> bool:
        if self is other or self._name is None or not isinstance(other, Dynamic):
            return self is other
        theirs = cast("Dynamic[PartitionKey]", other)
        return theirs.name == self._name and theirs.key_type == self.key_type

    @override
    def __hash__(self) -> int:
        return object.__hash__(self) if self._name is None else hash(("dynamic", self._name))

    @override
    def __repr__(self) -> str:
        return f"Dynamic[{type_text(self.key_type)}]({'' if self._name is None else repr(self._name)})"
