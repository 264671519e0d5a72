"""Assets that ask people: the question, who answers, and what is made of the answer.

The body of such an asset is a function of ours around the question. It takes what the question takes, what the
functions beside it take, and the context, through which the engine asks (`_engine/approving/asking.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Annotated, Any, Literal, get_origin

from typing_extensions import TypedDict, override

from flowstone_async.approvals import ApprovalOptions, ApprovalOptionsGiven, Decision, problems_of, read_approval
from flowstone_async.definition.annotations import resolve
from flowstone_async.definition.asset import AssetDefinition, Condition, Scope
from flowstone_async.definition.assignable import Annotation, bare, union_of
from flowstone_async.definition.binding import Binding, ContextBinding, DependencyBinding
from flowstone_async.definition.body import Body, name_of, signature_of, way_of
from flowstone_async.definition.context import Context, call_of
from flowstone_async.definition.finding import Finding
from flowstone_async.definition.gathered import Gathered
from flowstone_async.definition.injection import EMPTY, Found, Place, bind, split_annotation, union_members
from flowstone_async.definition.kind import PlainKind
from flowstone_async.definition.policy import CachePolicy, Retry
from flowstone_async.definition.stream import Stream

CONTEXT = "*context"
"""Under which the function around the question takes the context; no parameter is called so."""


class AskingOptions(ApprovalOptionsGiven, total=False):
    """Options of `@pipe.approval`, beside its form and its partitions; `None` means "not given".

    Attributes:
        name: What it is called; the function's name without it.
        description: What it is, for people; the first paragraph of the docstring without it.
        tags: Labels to select by.
        owner: Whom to ask.
        metadata: Facts for people and tools.
        io: I/O manager that keeps its decisions, or the name of one.
        cache: When a decision is reused: True, as long as what was shown is the same; False never; or a `Cache`.
        retry: How often the question is tried again if it fails. An answer stands.
        when: Function that must answer True for the question to be asked.
        unless: Function that must answer False for the question to be asked.
        renamed_from: Its earlier name, whose decisions and history it takes over.
    """

    name: str | None
    description: str | None
    tags: tuple[str, ...] | list[str] | None
    owner: str | None
    metadata: Mapping[str, object] | None
    io: object
    cache: CachePolicy | None
    retry: Retry | Literal[False] | None
    when: Condition | None
    unless: Condition | None
    renamed_from: str | None


OWN = frozenset(ApprovalOptionsGiven.__annotations__)
KNOWN = frozenset(AskingOptions.__annotations__) | OWN


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """What makes the asset's value of a decision.

    Attributes:
        decision: Its parameter that takes the decision; None if there is none.
        scope: Names that were local where it was defined.
    """

    function: Callable[..., Any]
    decision: str | None
    scope: Scope


@dataclass(slots=True, eq=False)
class Handlers:
    """The functions that were decorated with `on_approve` and `on_reject`.

    Attributes:
        changed: Told that there is another one.
    """

    changed: Callable[[], None]
    approve: Handler | None = None
    reject: Handler | None = None

    def all(self) -> Iterator[tuple[str, Handler]]:
        """Yield them by what they are called in messages."""
        if self.approve is not None:
            yield "on_approve", self.approve
        if self.reject is not None:
            yield "on_reject", self.reject


@dataclass(frozen=True, slots=True)
class InputTypes:
    """Metadata of the type of a decision: the types of its inputs, as a `TypedDict`."""

    types: Any


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ApprovalKind(PlainKind):
    """People are asked, and the decision gives the value.

    Attributes:
        question: The function that was decorated.
        initial: Proposes the form.
    """

    question: Body
    options: ApprovalOptions
    initial: Callable[..., Any] | None
    handlers: Handlers = field(repr=False)

    label = "approval"

    @override
    def value_type(self, returns: object) -> object:
        """Return what is known without what the question takes."""
        return self.read_type(returns)

    @override
    def read_type(self, value_type: object) -> object:
        """Return the decision, with its form; or what the functions beside the question make of it."""
        if self.handlers.approve is not None or self.handlers.reject is not None:
            return value_type
        form: Any = NoneType if self.options.form is None else self.options.form
        return Decision[form]


def read_kind(
    question: Body, options: Mapping[str, Any], changed: Callable[[], None]
) -> tuple[ApprovalKind, Body, tuple[Finding, ...]]:
    """Return the kind of an asset that asks, its body, and what is wrong with its options (`FS109`)."""
    form, initial = options.get("form"), options.get("initial")
    own = {name: options.get(name) for name in OWN}
    wrong = [f"{problem}." for problem in problems_of(own)]
    read = ApprovalOptions() if wrong else read_approval(own)
    if way_of(question) != "coroutine":
        wrong.append("a question is asked by an async function, which returns text, Ask(...) or None.")
    if form is not None and not isinstance(bare(form), type):
        wrong.append(f"form={form!r}: give a pydantic model, a dataclass or another type.")
        form = None
    if initial is not None and not callable(initial):
        wrong.append(f"initial={initial!r}: give a function of dependencies that returns the form.")
        initial = None
    if initial is not None and form is None:
        wrong.append("initial= proposes a form, and there is none: say form=.")
    asked = replace(read, form=form)
    kind = ApprovalKind(question=question, options=asked, initial=initial, handlers=Handlers(changed))
    return kind, _body(question, kind), tuple(Finding("FS109", each) for each in wrong)


def _body(question: Body, kind: ApprovalKind) -> Body:
    async def asked(**arguments: Any) -> Any:
        context: Context = arguments.pop(CONTEXT)
        durable = call_of(context).durable
        assert durable is not None  # noqa: S101 - it runs on the engine's event loop
        return await durable.ask(kind, context, arguments)

    return functools.wraps(question)(asked)


def handler(function: Callable[..., Any], scope: Scope) -> Handler:
    """Return what makes the asset's value of a decision."""
    return Handler(function, decision_parameter(function, scope), scope)


def decision_parameter(function: Callable[..., Any], scope: Scope, *, behind: int = 0) -> str | None:
    """Return which parameter takes the decision: by annotation, by name, else the first one that is not annotated.

    Args:
        function: Which function.
        scope: Where it was defined.
        behind: How many parameters come first that take something else.
    """
    types = resolve(function, scope).types
    names = list(signature_of(function).parameters)[behind:]
    annotated = [each for each in names if _is_decision(split_annotation(types.get(each, EMPTY))[0])]
    named = [each for each in names if each == "decision"]
    found = [*annotated, *named, *(each for each in names[:1] if each not in types)]
    return found[0] if found else None


def bind_approval(definition: AssetDefinition, kind: ApprovalKind, place: Place) -> Found:
    """Resolve what the question takes, and the functions beside it."""
    found = bind(kind.question, definition.scope, place)
    bindings = {each.parameter: each for each in found.bindings}
    problems = list(found.problems)
    beside: list[tuple[str, Callable[..., Any], Scope, Place]] = []
    if kind.initial is not None:
        beside.append(("initial", kind.initial, definition.scope, replace(place, bare_context=True)))
    for part, each in kind.handlers.all():
        aside = frozenset(() if each.decision is None else (each.decision,))
        beside.append((part, each.function, each.scope, replace(place, aside=aside)))
    for part, function, scope, where in beside:
        more = bind(function, scope, where)
        problems += [_of_part(each, f"{part} {name_of(function)}") for each in more.problems]
        for binding in more.bindings:
            known = bindings.setdefault(binding.parameter, binding)
            if not _alike(known, binding):
                text = f"{part} {name_of(function)} takes another {binding.parameter!r} than the question."
                problems.append(
                    Finding("FS106", text, "Give the parameter another name, with dep(...) as its default.")
                )
    bindings[CONTEXT] = ContextBinding(parameter=CONTEXT)
    return replace(found, bindings=tuple(bindings.values()), problems=tuple(problems))


def _of_part(finding: Finding, part: str) -> Finding:
    return finding._replace(message=f"{part}{'' if finding.message.startswith('(') else ': '}{finding.message}")


def _alike(one: Binding, other: Binding) -> bool:
    if isinstance(one, DependencyBinding) and isinstance(other, DependencyBinding):
        return (one.upstream, one.external, one.over, one.wanted) == (
            other.upstream,
            other.external,
            other.over,
            other.wanted,
        )
    return type(one) is type(other)


def shown_inputs(kind: ApprovalKind, bindings: tuple[Binding, ...]) -> dict[str, Any]:
    """Return the question's own dependencies with their types; without those that are read bit by bit."""
    own = signature_of(kind.question).parameters
    edges = (each for each in bindings if isinstance(each, DependencyBinding) and each.parameter in own)
    found = {each.parameter: object if each.annotation in (EMPTY, None) else each.annotation for each in edges}
    return {name: annotation for name, annotation in found.items() if not _is_read_bit_by_bit(annotation)}


def value_type_of(definition: AssetDefinition, found: Found) -> object:
    """Return the type of what an asset stores, from what binding its body gave."""
    kind = definition.kind
    if not isinstance(kind, ApprovalKind):
        return kind.value_type(found.returns)
    approve, reject = kind.handlers.approve, kind.handlers.reject
    value: Any = _returned(approve) if approve is not None else _decision_type(kind, found)
    if reject is None:
        return value
    other: Any = _returned(reject)
    if value is None or other is None:
        return None
    return value if other == value else union_of([value, other])


def _returned(of: Handler) -> object:
    return resolve(of.function, of.scope).types.get("return")


def _decision_type(kind: ApprovalKind, found: Found) -> object:
    form: Any = kind.options.form
    filled: Annotation = NoneType if form is None else form | None
    types = TypedDict("inputs", shown_inputs(kind, found.bindings), total=False)  # type: ignore[operator]
    return Annotated[Decision[filled], InputTypes(types)]


def _is_decision(annotation: object) -> bool:
    return any((get_origin(each) or each) is Decision for each in union_members(annotation))


def _is_read_bit_by_bit(annotation: object) -> bool:
    return any((get_origin(each) or each) in (Stream, Gathered) for each in union_members(annotation))
