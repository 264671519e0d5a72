"""One stored value against its inputs: fresh, stale, or not to be told yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias

from flowstone_async.config import seconds
from flowstone_async.definition.binding import ParamFieldBinding, ParamsBinding
from flowstone_async.definition.code_hash import CodeHash
from flowstone_async.definition.graph import Node
from flowstone_async.types import AssetKey, Materialization

Verdict: TypeAlias = Literal["fresh", "missing", "stale", "maybe"]


class Judgement(NamedTuple):
    """Whether a stored value may be reused, and why or why not."""

    verdict: Verdict
    reason: str = ""


FRESH = Judgement("fresh", "fresh")
MISSING = Judgement("missing", "never computed")

_AGAIN = {
    "absent:skipped": "depends on whether {} is skipped again",
    "absent:failed": "input {} failed when this was computed and is tried again",
    "absent:missing": "input {} was not stored when this was computed and is tried again",
}


class Facts(NamedTuple):
    """What freshness is judged by, beside the record.

    Attributes:
        version: The asset's declared version (or, for a constant, the value's fingerprint).
        code: Hash and place of the code now; asked only where it counts.
        params: Fingerprint of a params field, `"*"` for all; None where nobody says with which params it would run.
        now: On the store's clock.
    """

    version: str | None
    code: Callable[[], CodeHash]
    params: Callable[[str], str] | None
    now: datetime


def judge_alone(node: Node, current: Materialization | None, facts: Facts) -> Judgement:
    """Judge everything but the upstreams: existence, policy, version, age, code, params."""
    if current is None:
        return MISSING
    policy = node.definition.cache
    if policy is False:
        return Judgement("stale", "cache=False: computed in every run")
    if policy == "exists":
        return FRESH
    if current.version != facts.version:
        return Judgement("stale", f"version {_shown(facts.version)}, stored with {_shown(current.version)}")
    cache = node.cache
    if cache.ttl is not None and facts.now - current.committed_at >= timedelta(seconds=seconds(cache.ttl)):
        return Judgement("stale", f"older than its ttl {cache.ttl}")
    if cache.on_code_change == "rerun" and (changed := changed_code(current, facts.code())) is not None:
        return Judgement("stale", f"code changed since in {changed}")
    return _judge_params(node, current, facts)


def changed_code(current: Materialization, code: CodeHash) -> str | None:
    """Return function and line of the code if it is not what a stored value was computed by."""
    return None if current.code_hash == code.hash else f"{code.function} (line {code.line})"


def _shown(version: str | None) -> str:
    return "none" if version is None else repr(version)


def _judge_params(node: Node, current: Materialization, facts: Facts) -> Judgement:
    declared = taken_params(node)
    if cache_keyed(node):
        return FRESH
    recorded = [each for each in current.inputs if each.kind == "param"]
    if not declared and not recorded:
        return FRESH
    names = {each.name for each in recorded}
    for name in declared:
        if name not in names:
            return Judgement("stale", f"takes params {name} since")
    for each in recorded:
        if each.name not in declared and not (each.name == "*" and node.takes_context):
            return Judgement("stale", f"no longer takes params {each.name}")
        if facts.params is not None and facts.params(each.name) != each.fingerprint:
            return Judgement("stale", "params changed" if each.name == "*" else f"param {each.name!r} changed")
    return FRESH


def cache_keyed(node: Node) -> bool:
    """Tell whether a function of the asset stands for all its inputs."""
    return node.cache.key is not None


def taken_params(node: Node) -> tuple[str, ...]:
    """Return the params fields that a body declares to take, or what makes a scatter's items; `"*"` for all."""
    if not any(isinstance(each, ParamsBinding | ParamFieldBinding) for each in node.taken):
        return ()
    found = [
        "*" if isinstance(b, ParamsBinding) else b.field
        for b in node.taken
        if isinstance(b, ParamsBinding | ParamFieldBinding)
    ]
    return tuple(dict.fromkeys(found))


def judge_inputs(current: Materialization, now: Mapping[AssetKey, str], unseen: Iterable[AssetKey] = ()) -> Judgement:
    """Judge the upstreams: those the value was computed from against those of now.

    Args:
        current: The stored value's record.
        now: Upstream key -> fingerprint, or `"absent:<why>"`, for those that are settled.
        unseen: Upstream keys that are not looked at (their values are gone, or cannot be told yet).
    """
    recorded = {each.key: each.fingerprint for each in current.inputs if each.kind == "asset" and each.key is not None}
    known = set(unseen)
    for key, fingerprint in now.items():
        before = recorded.get(key)
        if before is None:
            return Judgement("stale", f"input {_named(key)} was added")
        if before != fingerprint:
            return Judgement("stale", f"input {_named(key)} changed")
    for key in known:
        if key not in recorded:
            return Judgement("stale", f"input {_named(key)} was added")
    if len(recorded) > len(now) + len(known):
        gone = next(key for key in recorded if key not in now and key not in known)
        return Judgement("stale", f"input {_named(gone)} was removed")
    return FRESH


def absent_inputs(current: Materialization) -> dict[AssetKey, Judgement]:
    """Return the upstreams that a stored value was computed without, and what each says of it.

    A run that computes upstreams asks for these again: nothing else would ever bring the value up to date. An upstream
    that was there and is gone is another matter, since nothing tells that it would come out differently now.
    """
    return {
        each.key: Judgement("maybe", _AGAIN[each.fingerprint].format(_named(each.key)))
        for each in current.inputs
        if each.key is not None and each.fingerprint in _AGAIN
    }


def _named(key: AssetKey) -> str:
    return repr(key.asset) if not key.partition else f"{key.asset!r} [{key.partition}]"
