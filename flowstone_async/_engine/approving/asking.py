"""What the body of an asset that asks does: the question, a request, and what is made of the answer.

The question is a step: what it said, and what it was about, is on record before anybody is asked, so that a body which
is called again asks the same, and decides on what was shown.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flowstone_async._engine.approving.requests import BY_TIMEOUT, plain_of
from flowstone_async._engine.replay.facts import BodyFacts
from flowstone_async._engine.services import Services
from flowstone_async.approval_errors import ApprovalTimedOut, Rejected
from flowstone_async.approvals import Ask, Asking, Decision, question
from flowstone_async.definition.approval import ApprovalKind, Handler, shown_inputs
from flowstone_async.definition.body import signature_of
from flowstone_async.definition.context import Context
from flowstone_async.definition.graph import Node
from flowstone_async.durable import Durable, StepOptions
from flowstone_async.errors import StorageError
from flowstone_async.io.codec import Codec, codec_for
from flowstone_async.store.gates import StoredGate
from flowstone_async.store.protocol import Store

STEP = "question"


class Asker(Durable, Protocol):
    """The body that asks."""

    facts: BodyFacts
    services: Services


async def ask(body: Asker, kind: ApprovalKind, context: Context, arguments: Mapping[str, Any]) -> Any:
    """Return the value of an asset that asks people."""
    return await _Asking(body, kind, context, arguments).value()


class _Asking:
    def __init__(self, body: Asker, kind: ApprovalKind, context: Context, arguments: Mapping[str, Any]) -> None:
        self._body, self._kind, self._context, self._arguments = body, kind, context, arguments
        names = body.facts.names.names
        types = shown_inputs(kind, body.facts.bindings)
        self._codecs = {name: codec_for(annotation, names=names) for name, annotation in types.items()}
        self._form = codec_for(kind.options.form, names=names)

    async def value(self) -> Any:
        async def question() -> dict[str, Any]:
            return await self._asked()

        found: dict[str, Any] = await self._body.step(question, (), {}, StepOptions(name=STEP))
        inputs = {name: _decoded(self._codecs[name], plain) for name, plain in found["inputs"].items()}
        handlers, decision = self._kind.handlers, Decision[Any](approved=True, needed=False, inputs=inputs)
        if found["text"] is not None:
            initial = None if found["initial"] is None else _decoded(self._form, found["initial"])
            asking = Asking(
                text=found["text"],
                show=found["show"],
                name=self._body.facts.asset,
                initial=initial,
                options=self._kind.options,
            )
            try:
                given = await self._body.approval(asking, None)
            except Rejected as error:
                if handlers.reject is None:
                    raise
                return await self._handled(handlers.reject, refusal(error, initial, inputs))
            decision = with_inputs(given, inputs)
            self._context.metadata(approved_by=decision.by, modified=decision.modified)
        return decision if handlers.approve is None else await self._handled(handlers.approve, decision)

    async def _asked(self) -> dict[str, Any]:
        """Call the question, and return what is on record of it."""
        kind, redactor = self._kind, self._body.services.redactor
        said = await _called(kind.question, self._arguments)
        asked = said if isinstance(said, Ask) or said is None else Ask(said)
        inputs = {name: _encoded(codec, name, self._arguments[name]) for name, codec in self._codecs.items()}
        found: dict[str, Any] = {"text": None, "show": None, "initial": None, "inputs": inputs}
        if asked is None:
            return found
        found["text"], found["show"] = question(asked.text), plain_of(asked.show, redactor)
        if kind.initial is not None:
            found["initial"] = _encoded(self._form, "initial=", await _called(kind.initial, self._arguments))
        return found

    async def _handled(self, handler: Handler, decision: Decision[Any]) -> Any:
        """Call what makes the value; what was shown is what it gets."""
        given = {**self._arguments, **decision.inputs}
        if handler.decision is not None:
            given[handler.decision] = decision
        return await _called(handler.function, given)


async def _called(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    known = signature_of(function).parameters
    value = function(**{name: each for name, each in arguments.items() if name in known})
    return await value if inspect.isawaitable(value) else value


def with_inputs(decision: Decision[Any], inputs: Mapping[str, Any]) -> Decision[Any]:
    """Return a decision with what was shown."""
    return Decision(
        approved=decision.approved,
        by=decision.by,
        at=decision.at,
        reason=decision.reason,
        form=decision.form,
        initial=decision.initial,
        modified=decision.modified,
        inputs=inputs,
    )


def refusal(error: Rejected, initial: Any, inputs: Mapping[str, Any]) -> Decision[Any]:
    """Return a no as the decision that it is."""
    by = BY_TIMEOUT if isinstance(error, ApprovalTimedOut) else error.by
    return Decision(approved=False, by=by, at=error.at, reason=error.reason, initial=initial, inputs=inputs)


def _encoded(codec: Codec, name: str, value: object) -> str:
    try:
        return codec.encode(value)[1:].decode()
    except StorageError as error:
        raise StorageError(
            f"{name} of a request for approval cannot be kept: {error.message}",
            hint="What is shown is on record with the request: annotate it with its type, plain data or a model.",
        ) from error


async def inputs_on_record(store: Store, node: Node, stored: StoredGate) -> dict[str, Any]:
    """Return what was shown with a request of an asset that asks, from the record of its question."""
    definition = node.definition
    if not isinstance(definition.kind, ApprovalKind):
        return {}
    records = await store.steps.recorded(stored.gate.run_id, stored.gate.body)
    found = next((each.value for each in records if each.kind == "step" and each.key == f"{STEP}#0"), None)
    if found is None:
        return {}
    types, names = shown_inputs(definition.kind, node.bindings), definition.scope.names
    question: Any = codec_for(dict[str, Any]).decode(found)
    plain: dict[str, str] = question["inputs"]
    return {name: _decoded(codec_for(types[name], names=names), text) for name, text in plain.items() if name in types}


def _decoded(codec: Codec, text: str) -> Any:
    return codec.decode(b" " + text.encode())
