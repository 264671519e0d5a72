"""The gates that a body may return: whether its annotation and options say the same, and what handlers take."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast, get_args

from flowstone_async.definition.annotations import resolve
from flowstone_async.definition.approval import ApprovalKind, decision_parameter
from flowstone_async.definition.asset import AssetDefinition, Handler, HandlerPart
from flowstone_async.definition.assignable import Annotation, assignable, bare, render, union_of
from flowstone_async.definition.binding import Binding, DependencyBinding
from flowstone_async.definition.body import name_of, signature_of, way_of
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.graph import BoundGate, BoundHandler
from flowstone_async.definition.injection import EMPTY, Found, Place, bind, split_annotation, union_members
from flowstone_async.definition.kind import PlainKind, StreamKind, item_type
from flowstone_async.definition.returned_gate import ReturnedGate, gates_in, requests_in, without_gates
from flowstone_async.definition.scatter import ScatterKind
from flowstone_async.signals import Rearm

_SIGNALS: tuple[HandlerPart, ...] = ("on_signal", "on_timeout")
_REQUESTS: tuple[HandlerPart, ...] = ("on_approve", "on_reject")
_INLINE = "Wait inline: await ctx.signal(...)."
_ASK_INLINE = "Ask inline: await ctx.approval(...)."


def bind_gate(definition: AssetDefinition, body: Found, place: Place) -> tuple[BoundGate | None, tuple[Finding, ...]]:
    """Resolve the parameters of what is called once a gate has ended that the body returned.

    Args:
        definition: The asset.
        body: What binding its body gave.
        place: Where it stands.

    Returns:
        The gate, None if the body may return none; and what is wrong with it (`FS170`, `FS171`).
    """
    kind = definition.kind
    gate = kind.gate if isinstance(kind, PlainKind | ScatterKind) else None
    problems = list(_strange_requests(definition, body))
    asks = bool(_requests(definition, body)) and not problems
    problems += [] if gate is not None else [*_unasked(definition, body)]
    known = (*(_SIGNALS if gate is not None else ()), *(_REQUESTS if asks else ()))
    problems += _needless(definition, known)
    if not known:
        return None, tuple(problems)
    handlers = _Handlers(definition, gate, body, place)
    if gate is not None:
        problems += _misfits(gate, body)
    bound = {part: handlers.bind(part, problems) for part in known}
    if gate is not None and not problems and bound["on_signal"] is None:
        problems += _unmade(definition, gate, body)
    model, most = (None, 0) if gate is None else (gate.model, gate.max_rearms)
    made = BoundGate(signals=gate is not None, model=model, max_rearms=most, asks=asks, **bound)
    return made, tuple(problems)


def _requests(definition: AssetDefinition, body: Found) -> tuple[Annotation, ...]:
    kind = definition.kind
    return requests_in(item_type(body.returns) if isinstance(kind, StreamKind) else body.returns)


def _strange_requests(definition: AssetDefinition, body: Found) -> Iterator[Finding]:
    """Find requests in the annotation of a body that may return none, or not for that type."""
    kind, found = definition.kind, _requests(definition, body)
    if not found:
        return
    shown = render(found[0])
    if not isinstance(kind, PlainKind | ScatterKind) or isinstance(kind, ApprovalKind):
        yield Finding("FS170", f"it may return {shown}, which a {kind.label} cannot.", _ASK_INLINE)
    elif definition.gathers is not None:
        yield Finding("FS170", f"it may return {shown}, which a gathering body cannot.", _ASK_INLINE)
    elif definition.run_in is not None:
        yield Finding("FS170", f"it may return {shown}, which a body in a {definition.run_in} cannot.", _ASK_INLINE)
    elif (value := without_gates(body.returns)) is None:
        text = f"the body returns {shown}, which does not say of what type the value is."
        yield Finding("FS170", text, f"Annotate it `T | {shown}`, T for the value of the asset.")
    else:
        for each in found:
            wrong = [argument for argument in get_args(each) if not assignable(argument, value)]
            if wrong:
                text = f"the body returns {render(each)}, but the value is {render(value)}."
                yield Finding("FS170", text, f"Annotate it `{render(value)} | ApprovalGate[{render(value)}]`.")


def _unmade(definition: AssetDefinition, gate: ReturnedGate, body: Found) -> Iterator[Finding]:
    """Find a payload that is to be the value, and cannot."""
    value = without_gates(body.returns)
    if not assignable(gate.model, value):
        text = f"without on_signal the payload is the value, but {render(gate.model)} is no {render(value)}."
        yield Finding("FS171", text, f"Say @{definition.local_name}.on_signal, or annotate the payload.")


def _unasked(definition: AssetDefinition, body: Found) -> Iterator[Finding]:
    """Find gates in the annotation of a body that may return none."""
    kind = definition.kind
    returns = item_type(body.returns) if isinstance(kind, StreamKind) else body.returns
    gates = gates_in(returns)
    if not gates or any(each.code == "FS170" for each in definition.problems):
        return
    if not isinstance(kind, PlainKind | ScatterKind):
        yield Finding("FS170", f"it may return {render(gates[0])}, which a {kind.label} cannot.", _INLINE)
    elif definition.gathers is not None:
        yield Finding("FS170", f"it may return {render(gates[0])}, which a gathering body cannot.", _INLINE)
    else:
        model = render(get_args(gates[0])[0]) if get_args(gates[0]) else "YourModel"
        text = f"it may return {render(gates[0])}, but there is no signal=."
        said = f"@pipe.{kind.label}({'..., ' * isinstance(kind, ScatterKind)}signal={model})"
        yield Finding("FS170", text, f"Say {said}, without which the gate would be its value.")


def _needless(definition: AssetDefinition, known: tuple[HandlerPart, ...]) -> Iterator[Finding]:
    """Find handlers of an asset whose body returns no such gate."""
    if any(each.code == "FS170" for each in definition.problems):
        return
    for part, given in definition.handlers.given.items():
        name = name_of(given[-1].function)
        if part in known:
            continue
        if part in _SIGNALS:
            text = f"{part} {name} of an asset without signal=, whose body returns no gate."
            yield Finding("FS171", text, f"Say @pipe.{definition.kind.label}(signal=...), or take it away.")
        else:
            text = f"{part} {name} of an asset whose body returns no request for approval."
            yield Finding("FS171", text, "Annotate the body `T | ApprovalGate[T]`, or take it away.")


def _misfits(gate: ReturnedGate, body: Found) -> Iterator[Finding]:
    """Find what does not fit between `signal=` and what the body says it returns."""
    if any(each.message.startswith("(...)") for each in body.problems):  # its annotation cannot be read: reported
        return
    model, gates = render(gate.model), gates_in(body.returns)
    if not gates:
        says = "the body does not say what it returns" if body.returns is None else f"not in {render(body.returns)}"
        text = f"signal={model}, but {says}."
        yield Finding("FS170", text, f"Annotate it `T | SignalGate[{model}]`, T for the value of the asset.")
    elif without_gates(body.returns) is None:
        text = f"the body returns {render(body.returns)}, which does not say of what type the value is."
        yield Finding("FS170", text, f"Annotate it `T | SignalGate[{model}]`, T for the value of the asset.")
    else:
        for each in gates:
            if [bare(argument) for argument in get_args(each)] != [bare(gate.model)]:
                text = f"signal={model}, but the body returns {render(each)}."
                yield Finding("FS170", text, f"Say SignalGate[{model}] there, or another signal=.")


@dataclass(frozen=True, slots=True)
class _Handlers:
    definition: AssetDefinition
    gate: ReturnedGate | None
    body: Found
    place: Place

    def bind(self, part: HandlerPart, problems: list[Finding]) -> BoundHandler | None:
        """Resolve the parameters of one handler, if there is one; what is wrong with it is added to `problems`."""
        given = self.definition.handlers.given.get(part, [])
        if not given:
            return None
        handler = given[-1]
        if len(given) > 1:
            both = " and ".join(f"{name_of(each.function)} ({each.location})" for each in given[-2:])
            problems.append(Finding("FS171", f"two functions are {part}: {both}.", "Take one of them away."))
        if way_of(handler.function) != "coroutine":
            text = f"{part} {name_of(handler.function)} is no coroutine function."
            problems.append(Finding("FS171", text, "Make it async def."))
        given_by_place = _first(handler)
        if isinstance(self.definition.kind, ScatterKind):
            item, given_by_place = given_by_place[:1], given_by_place[1:]
            problems.extend(self._item_misfits(part, handler, item))
            aside = frozenset(item)
        else:
            aside = frozenset[str]()
        if part == "on_signal":
            problems.extend(self._payload_misfits(handler, given_by_place[:1]))
            aside |= frozenset(given_by_place[:1])
        decision = None
        if part in _REQUESTS:
            decision = decision_parameter(handler.function, handler.scope, behind=len(aside))
        if decision is not None:
            aside |= {decision}
        found = bind(handler.function, handler.scope, replace(self.place, aside=aside, deps={}, given={}))
        problems.extend(_of(part, each) for each in found.problems)
        problems.extend(self._value_misfits(part, handler, found.returns))
        return BoundHandler(
            function=handler.function,
            part=part,
            bindings=found.bindings,
            edges=tuple(self._edges(part, found.bindings, problems)),
            decision=decision,
        )

    def _item_misfits(self, part: HandlerPart, handler: Handler, item: tuple[str, ...]) -> Iterator[Finding]:
        what = "item" if cast("ScatterKind", self.definition.kind).batch is None else "batch"
        own = next(iter(_first(Handler(self.definition.body, self.definition.scope, self.definition.location))), None)
        if not item:
            text = f"{part} {name_of(handler.function)} has no parameter for the {what}."
            yield Finding("FS171", text, f"Take it first{', then the payload' * (part == 'on_signal')}.")
        elif own is not None:
            given = split_annotation(resolve(self.definition.body, self.definition.scope).types.get(own, EMPTY))[0]
            annotation = split_annotation(resolve(handler.function, handler.scope).types.get(item[0], EMPTY))[0]
            if EMPTY not in (given, annotation) and not assignable(given, annotation):
                text = f"{part}({item[0]}: {render(annotation)}) but the {what} is {render(given)} in the body."
                yield Finding("FS171", text, f"Annotate it {render(given)}; it is what comes first.")

    def _payload_misfits(self, handler: Handler, payload: tuple[str, ...]) -> Iterator[Finding]:
        assert self.gate is not None  # noqa: S101 - for the type checker: only such an asset has on_signal
        model = render(self.gate.model)
        after = "after the item" if isinstance(self.definition.kind, ScatterKind) else "first"
        if not payload:
            text = f"on_signal {name_of(handler.function)} has no parameter for the payload."
            yield Finding("FS171", text, f"Take it {after}: done: {model}.")
            return
        annotation, _ = split_annotation(resolve(handler.function, handler.scope).types.get(payload[0], EMPTY))
        if not assignable(self.gate.model, annotation):
            text = f"on_signal({payload[0]}: {render(annotation)}) but the payload is {model}."
            yield Finding("FS171", text, f"Annotate it {model}; it is what comes {after}.")

    def _value_misfits(self, part: HandlerPart, handler: Handler, returns: object) -> Iterator[Finding]:
        value = without_gates(self.body.returns)
        if returns is None or value is None:
            return
        rest = [each for each in union_members(returns) if part != "on_timeout" or each is not Rearm]
        if rest and not assignable(union_of(rest), value):
            text = f"{part} {name_of(handler.function)} returns {render(returns)}, but the value is {render(value)}."
            yield Finding("FS171", text)

    def _edges(
        self, part: HandlerPart, bindings: tuple[Binding, ...], problems: list[Finding]
    ) -> Iterator[tuple[DependencyBinding, DependencyBinding]]:
        """Pair the edges of a handler with those of the body, by which they are filled."""
        own = [each for each in self.body.bindings if isinstance(each, DependencyBinding)]
        for each in bindings:
            if not isinstance(each, DependencyBinding):
                continue
            same = [edge for edge in own if _end(edge) == _end(each)]
            if same:
                yield each, same[0]
            else:
                text = f"{part}({each.parameter}) takes {each.upstream!r}, and the body does not, or not alike."
                problems.append(
                    Finding("FS171", text, "Take it alike in the body: that is what makes the value stale.")
                )


def _end(edge: DependencyBinding) -> tuple[object, ...]:
    return edge.upstream, edge.external, edge.over, edge.optional, edge.admits_failed, edge.admits_skipped


def _of(part: HandlerPart, finding: Finding) -> Finding:
    between = "" if finding.message.startswith("(") else ": "
    return finding._replace(message=f"{part}{between}{finding.message}")


def _first(handler: Handler) -> tuple[str, ...]:
    """Return the parameters that are given by their places: an item and the payload, as far as they may be."""
    try:
        parameters = signature_of(handler.function).parameters.values()
    except (TypeError, ValueError):
        return ()
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(each.name for each in parameters if each.kind in places)[:2]
