"""Options of a scatter as they were given: its kind, and what is wrong with them."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, cast

from flowstone_async.config import seconds
from flowstone_async.definition.asset import CommonOptions
from flowstone_async.definition.batching import Batching
from flowstone_async.definition.body import way_of
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.gathered import ItemOrder
from flowstone_async.definition.handle import AssetRef
from flowstone_async.definition.item_source import (
    AssetSource,
    CustomSource,
    FixedSource,
    FunctionSource,
    ItemReader,
    SourceSpec,
)
from flowstone_async.definition.marker import MARKERS, Dependency
from flowstone_async.definition.option import misuse
from flowstone_async.definition.policy import Duration, Retry
from flowstone_async.definition.returned_gate import ReturnedGate
from flowstone_async.definition.scatter import ResultForm, ScatterKind
from flowstone_async.definition.tolerance import ToleranceOption, misuse_of, tolerance_of
from flowstone_async.limits.rate import Rate
from flowstone_async.sources.source import Source


class ScatterOptions(CommonOptions, total=False):
    """Options of a scatter, beside `source`, `select`, `key`, `batch` and `partitions`, which have types of their own.

    `retry` and `timeout` of the pipeline hold for the items of its scatters too, where these give none: they are for
    assets that give none, and of each attempt. There is no `io`: results are kept in the store.

    Attributes:
        name: What it is called; the function's name without it.
        max_concurrent: Most bodies at once, over all workers [50]; False for no bound.
        rate: How often items (with `batch=` batches) may begin, attempts after the first included, over all workers
            [False: no bound].
            `Rate(..., key=fn)` limits each key by itself; `fn` takes the item, and dependencies by name.
        tolerate: How many items may fail for good [0]: a share of all, from 0 to 1, or a `Tolerance`.
        retry: How often an item is tried [`Retry(3)`]; False is once.
        timeout: Of each attempt at an item [30 min]; False is no limit.
        order: In which a `Gathered` of the results is read [`"source"`]: source order, or `"completion"`.
        page_size: Items that are read and recorded together [1,000].
        results: How results are stored: `"packed"` [default], or `"rows"`, a row for each.
        signal: Type of the payload of a gate that the body may return for an item, in place of its result; it is
            annotated `T | SignalGate[S]` then. See `on_signal` and `on_timeout` of the scatter.
        max_rearms: How often `on_timeout` may open that gate again: 3 times without it.
    """

    name: str | None
    max_concurrent: int | Literal[False] | None
    rate: Rate | Literal[False] | None
    tolerate: ToleranceOption | None
    retry: Retry | Literal[False] | None
    timeout: Duration | Literal[False] | None
    order: ItemOrder | None
    page_size: int | None
    results: ResultForm | None
    signal: object
    max_rearms: int | None


def read_scatter(
    source: object, options: Mapping[str, object], defaults: Mapping[str, object]
) -> tuple[ScatterKind, dict[str, object], tuple[Finding, ...]]:
    """Return the kind that options make, the options of the asset itself, and what is wrong (`FS109`).

    Args:
        source: Where items come from, as given.
        options: Option -> value; None is "not given".
        defaults: Options of the pipeline, checked.
    """
    spec, wrong = _read_source(source)
    given = {name: value for name, value in options.items() if value is not None}
    own = {name: value for name, value in given.items() if name in _OWN}
    messages = {name: tuple(_OWN[name](name, value)) for name, value in own.items()}
    usable = {name: value for name, value in own.items() if not messages[name]}
    inherited = {name: defaults[name] for name in ("retry", "timeout") if name in defaults}
    kind = ScatterKind(source=spec, gate=_gate(options), **_as_fields({**inherited, **usable}))
    findings = (Finding("FS109", f"{message}.") for found in messages.values() for message in found)
    rest = {name: value for name, value in given.items() if name not in _OWN and name not in _GATE}
    return kind, rest, (*wrong, *findings)


def _gate(options: Mapping[str, object]) -> ReturnedGate | None:
    """Return the gate that the body may return; what is wrong with the options is told elsewhere."""
    signal, rearms = (options.get(name) for name in _GATE)
    if signal is None:
        return None
    return ReturnedGate(signal, rearms) if isinstance(rearms, int) else ReturnedGate(signal)


def _as_fields(usable: Mapping[str, object]) -> dict[str, Any]:
    fields: dict[str, Any] = dict(usable)
    for name in ("max_concurrent", "rate"):
        if fields.get(name) is False:
            fields[name] = None
    if "tolerate" in fields:
        fields["tolerate"] = tolerance_of(fields["tolerate"])
    if fields.get("batch") is False:
        fields["batch"] = None
    if fields.get("retry") is False:
        fields["retry"] = Retry(1)
    if "timeout" in fields:
        fields["timeout"] = None if fields["timeout"] is False else seconds(fields["timeout"], what="timeout")
    return fields


# -- the source -----------------------------------------------------------------------------------------------------


def check_source(source: object) -> None:
    """Refuse a function that is no source, as when the decorator is used without its parentheses.

    Raises:
        TypeError: It is one.
    """
    if callable(source) and not isinstance(source, AssetRef | ItemReader | type) and not _gives_items(source):
        raise TypeError(
            f"scatter() takes a source of items, not {source!r}: write @pipe.scatter(items) above the body. "
            f"A function that is a source is an async generator function."
        )


def _gives_items(function: Callable[..., Any]) -> bool:
    return way_of(function) == "async generator"


def _read_source(source: object) -> tuple[SourceSpec, tuple[Finding, ...]]:
    spec = _spec(source)
    if spec is not None:
        return spec, tuple(_misused(spec))
    what, hint = _refused(source)
    return FixedSource(()), (Finding("FS109", f"source={what}.", hint),)


def _spec(source: object) -> SourceSpec | None:
    if isinstance(source, AssetRef):
        return AssetSource(Dependency(asset=cast("AssetRef[Any]", source)))
    if isinstance(source, Dependency):
        return AssetSource(source)
    if isinstance(source, (str, bytes, bytearray, type, *MARKERS)):
        return None
    if isinstance(source, ItemReader):  # a `Source`, or whatever reads as one does
        return CustomSource(cast("ItemReader[Any]", source))
    if callable(source) and _gives_items(source):
        return FunctionSource(cast("Callable[..., AsyncIterable[Any]]", source))
    if isinstance(source, Iterable) and not isinstance(source, Iterator):
        return FixedSource(cast("Iterable[Any]", source))
    return None


def _misused(spec: SourceSpec) -> Iterator[Finding]:
    match spec:
        case AssetSource(dependency=dependency):
            if dependency.optional:
                hint = "Without the optional=True a scatter fails or is skipped with its source."
                yield Finding("FS109", "source=dep(..., optional=True): a scatter cannot do without its source.", hint)
            if dependency.over is not None:
                hint = "Take the mapping in an async generator function, which yields the items."
                yield Finding("FS109", "source=dep(..., over=...): a mapping from keys to values is no source.", hint)
        case CustomSource(source=Source() as source):
            yield from (Finding("FS109", f"source={source.label}: {problem}.") for problem in source.problems())
        case CustomSource(source=source):
            if way_of(source.read) != "async generator":
                hint = "Write: async def read(self, cursor): ... yield Page(items, cursor)."
                yield Finding("FS109", f"source={source!r}: its `read` is no async generator.", hint)
        case _:
            pass


def _refused(source: object) -> tuple[str, str]:
    """Return a source that cannot be one, with what it is, and the way out."""
    if isinstance(source, str):
        return f"{source!r}: a text is no source", f"For an asset of that name say dep({source!r})."
    if isinstance(source, Iterator | AsyncIterable):
        shown = type(cast("object", source)).__name__
        hint = "Give a collection, or the async generator function itself, uncalled."
        return f"<{shown}>: an iterator gives its items once, but a scatter may run again", hint
    if isinstance(source, type):
        return f"{source.__name__}: a class is no source", f"Give an instance: {source.__name__}(...)."
    hint = "Give a collection, an asset, dep(...), a Source, or an async generator function."
    return f"{source!r}: it has no items", hint


# -- the options ----------------------------------------------------------------------------------------------------


def _bound(option: str, value: object) -> Iterator[str]:
    if value is not False and not _is_positive(value):
        yield f"{option}={value!r}: give a whole number of 1 or more, or False for no bound"


def _rate(option: str, value: object) -> Iterator[str]:
    if isinstance(value, Rate):
        if value.key is not None:
            yield from _function(f"{option} key", value.key)
    elif value is not False:
        named = " (for a limit by name, shared with others, take ctx.limit in the body)" * isinstance(value, str)
        yield f'{option}={value!r}: give a Rate, such as Rate(100, per="1s"), or False for no bound{named}'


def _size(option: str, value: object) -> Iterator[str]:
    if not _is_positive(value):
        yield f"{option}={value!r}: give a whole number of 1 or more"


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _tolerance(option: str, value: object) -> Iterator[str]:
    del option
    return misuse_of(value)


def _word(*allowed: str) -> Callable[[str, object], Iterator[str]]:
    def check(option: str, value: object) -> Iterator[str]:
        if value not in allowed:
            yield f"{option}={value!r}: allowed are {', '.join(map(repr, allowed))}"

    return check


def _key(option: str, value: object) -> Iterator[str]:
    if value is not False:
        yield from _function(option, value)


def _batch(option: str, value: object) -> Iterator[str]:
    if isinstance(value, Batching):
        batching = cast("Batching[Any]", value)
        if isinstance(batching.shared, (AssetRef, *MARKERS)):
            yield "Batching(shared=...) is no value: for an asset's give a function that takes it, shared=lambda a: a"
        else:
            yield from batching.problems()
    elif value is not False:
        yield f"{option}={value!r}: give Batching(...), or False for one item at a time"


def _function(option: str, value: object) -> Iterator[str]:
    if not callable(value) or way_of(value) != "plain" or inspect.iscoroutinefunction(value):
        yield f"{option}={value!r}: give a plain function of an item"


_GATE = ("signal", "max_rearms")
_OWN: Mapping[str, Callable[[str, object], Iterator[str]]] = {
    "max_concurrent": _bound,
    "rate": _rate,
    "tolerate": _tolerance,
    "retry": misuse,
    "timeout": misuse,
    "select": _function,
    "key": _key,
    "order": _word("source", "completion"),
    "page_size": _size,
    "results": _word("packed", "rows"),
    "batch": _batch,
}
