"""What was computed from what: upstreams, invalidation with everything below, renaming."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from flowstone_async.store.memory.key import Key, Keys
from flowstone_async.store.memory.memory import Memory
from flowstone_async.store.records import Removed
from flowstone_async.types import AssetKey, Input, Materialization


def edges(materialization: Materialization) -> tuple[tuple[AssetKey, str], ...]:
    """Return the direct inputs of a materialization that are materializations themselves, each once."""
    found = {
        (source.key, source.materialization): None
        for source in materialization.inputs
        if source.kind == "asset" and source.key is not None and source.materialization is not None
    }
    return tuple(found)


def invalidate(memory: Memory, names: Collection[AssetKey], *, cascade: bool) -> list[Removed]:
    """Take current materializations away; see `Store.invalidate`."""
    removed: list[Removed] = []
    at = memory.clock.now()
    for name in _with_dependants(memory.keys, names) if cascade else dict.fromkeys(names):
        key = memory.keys.by_name.get(name)
        before = memory.replace(key, None, at) if key is not None else None
        if key is not None and before is not None:
            removed.append(Removed(name, before))
            memory.changed(key)
    return removed


def _with_dependants(keys: Keys, names: Iterable[AssetKey]) -> Iterable[AssetKey]:
    """Return the names and those of everything computed from them, breadth first, each once."""
    below: defaultdict[AssetKey, list[AssetKey]] = defaultdict(list)
    for key in keys.by_materialization.values():
        if key.current is not None:
            for upstream, _ in edges(key.current):
                below[upstream].append(key.name)
    reached = dict.fromkeys(names)
    queue = list(reached)
    for name in queue:
        new = [dependant for dependant in below.get(name, ()) if dependant not in reached]
        reached.update(dict.fromkeys(new))
        queue.extend(dict.fromkeys(new))
    return reached


def rename(memory: Memory, pipeline: str, old: str, new: str) -> int:
    """Carry an asset over to another name; see `Store.rename`."""
    keys = memory.keys
    asset = keys.assets.get((pipeline, old))
    moved: dict[AssetKey, AssetKey] = {}
    for key in list(asset.keys.values()) if asset is not None else ():
        name = key.name._replace(asset=new)
        if name not in keys.by_name:
            _move(memory, key, name)
            moved[key.name] = name
    if moved:
        for key in keys.by_materialization.values():
            _repoint(key, moved)
    return len(moved)


def _move(memory: Memory, key: Key, name: AssetKey) -> None:
    """Move value and history of a key; a claim stays, for the run that holds it knows only the old name."""
    keys = memory.keys
    target = keys.known(name)
    target.follow(key)
    if not target.asset.durations:
        target.asset.durations.extend(key.asset.durations)
    current = keys.replace(key, None, None)
    if current is not None:
        keys.replace(target, current._replace(key=name), None)
    key.clear()
    if key.holder is None:
        keys.remove(key)
    memory.changed(key)
    memory.changed(target)


def _repoint(key: Key, moved: dict[AssetKey, AssetKey]) -> None:
    current = key.current
    if current is None or not any(source.key in moved for source in current.inputs):
        return
    key.current = current._replace(inputs=tuple(_followed(source, moved) for source in current.inputs))
    key.view = None


def _followed(source: Input, moved: dict[AssetKey, AssetKey]) -> Input:
    return source if source.key is None else source._replace(key=moved.get(source.key, source.key))
