"""An item that is a mapping without a declared model: immutable, hashable, read by key or by attribute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, Self, cast

from typing_extensions import override


class Item(dict[str, Any]):
    """An immutable, hashable mapping whose keys can be read as attributes too. It equals the plain dict.

    What it holds is as immutable: mappings in it are items, lists are tuples that equal the list, sets are frozen. What
    a dict has by itself (`items`, `keys`, `values`, `get`, `copy`, `pop`, …) is not hidden by a key of that name.

    Example:
        >>> item = Item({"url": "http://x", "size": {"width": 3}})
        >>> item.url, item["url"], item.size.width
        ('http://x', 'http://x', 3)
    """

    __slots__ = ()

    def __init__(self, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **more: Any) -> None:
        super().__init__({key: frozen(value) for key, value in dict(values, **more).items()})

    @override
    def copy(self) -> dict[str, Any]:
        """Return a plain dict, all that is in it plain too, which may be changed."""
        return {key: thawed(value) for key, value in self.items()}

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        known = ", ".join(map(str, self)) or "none"
        raise AttributeError(f"this item has no {name!r}; its keys are: {known}", name=name, obj=self)

    @override
    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name!r}: {_REFUSED}", name=name, obj=self)

    @override
    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name!r}: {_REFUSED}", name=name, obj=self)

    @override
    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(key for key in self if str(key).isidentifier())})

    @override
    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] - a dict has none
        return hash(frozenset(self.items()))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    @override
    def __repr__(self) -> str:
        return f"Item({super().__repr__()})"

    def _refuse(self: Any, *_args: Any, **_more: Any) -> NoReturn:
        raise TypeError(_REFUSED)

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class ItemList(tuple[Any, ...]):
    """A list inside an `Item`: immutable, and equal to the list."""

    __slots__ = ()

    @override
    def __eq__(self, other: object) -> bool:
        return super().__eq__(tuple(cast("list[Any]", other)) if isinstance(other, list) else other)

    @override
    def __ne__(self, other: object) -> bool:
        return not self == other

    @override
    def __hash__(self) -> int:
        return super().__hash__()

    @override
    def __repr__(self) -> str:
        return repr(list(self))


_REFUSED = "an item is immutable; item.copy() is a plain dict"


def frozen(value: Any) -> Any:
    """Return plain data so that it cannot be changed and has a hash: mappings, lists, tuples and sets, at any depth."""
    if isinstance(value, Item | ItemList):
        return cast("Any", value)
    if isinstance(value, Mapping):
        return Item(cast("Mapping[str, Any]", value))
    found = _FROZEN.get(type(cast("object", value)))
    return value if found is None else found(value)


def thawed(value: Any) -> Any:
    """Return what `frozen` was given, as plain dicts and lists; sets stay frozen."""
    if isinstance(value, Item):
        return value.copy()
    if isinstance(value, ItemList):
        return [thawed(each) for each in value]
    return tuple(map(thawed, cast("tuple[Any, ...]", value))) if type(value) is tuple else value


_FROZEN: Mapping[type, Callable[[Any], Any]] = {
    list: lambda items: ItemList(map(frozen, items)),
    tuple: lambda items: tuple(map(frozen, items)),
    set: lambda items: frozenset(map(frozen, items)),
    bytearray: bytes,
}
