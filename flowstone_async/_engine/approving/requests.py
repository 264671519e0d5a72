"""What is on record of a request for approval, and of what was decided: both as JSON, read by any process.

A request is a gate of kind `approval`; its facts say what is asked, and its payload is the decision. The deadline of
the gate is the last one: one that moves (`Extend`) is computed, so that nobody need run for it to move.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from types import NoneType
from typing import Any

from pydantic_core import to_json

from flowstone_async._engine.gates.payloads import Payloads
from flowstone_async._engine.gates.type_names import Home
from flowstone_async.approvals import Asking, Decision
from flowstone_async.definition.assignable import Annotation
from flowstone_async.definition.keys import decode_key
from flowstone_async.errors import ConfigError, PayloadInvalid
from flowstone_async.io import pieces
from flowstone_async.redaction import Redactor
from flowstone_async.store.gates import StoredGate

BY_TIMEOUT = "timeout"
MOST_SHOWN = 64 * 1024
_CUT = 2_000
_NO_SECRET = bytes(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is on record of a request.

    Attributes:
        show: Plain JSON.
        schema: JSON schema of the form; None without one, or where it is very long.
        initial: Plain JSON, as it is encoded.
        proposed: Whether a form was proposed.
        roles: From the beginning.
        escalate: Age in seconds, and the roles that are added then.
        timeout: Seconds until the first deadline; None never expires.
        extend: Seconds by which it moves each time, and how often.
        approves: Whether a deadline that passes is a yes.
        item: Key of the item of a scatter that asks, as plain JSON; None if none does.
    """

    text: str
    show: Any
    has_form: bool
    schema: Mapping[str, Any] | None
    initial: Any
    proposed: bool
    roles: tuple[str, ...]
    escalate: tuple[tuple[float, tuple[str, ...]], ...]
    timeout: float | None
    extend: tuple[float, int] | None
    approves: bool
    item: Any = None

    def roles_at(self, age: float) -> tuple[str, ...]:
        """Return the roles that may decide when the request is so old; anybody's, if there are none."""
        if not self.roles:
            return ()
        more = (role for after, to in self.escalate if after <= age for role in to)
        return tuple(dict.fromkeys((*self.roles, *more)))

    def due(self, opened_at: datetime, now: datetime) -> datetime | None:
        """Return the deadline that stands at a time."""
        if self.timeout is None:
            return None
        due = opened_at + timedelta(seconds=self.timeout)
        if self.extend is None or now < due:
            return due
        length, times = self.extend
        late = (now - due).total_seconds()
        moved = times if late >= length * times else int(late // length) + 1
        return due + timedelta(seconds=length * moved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was decided, as it is on record.

    Attributes:
        form: Plain JSON, as it is encoded; None without one.
        filled: Whether there is a form.
    """

    approved: bool
    by: str
    reason: str | None = None
    form: Any = None
    filled: bool = False
    modified: bool = False

    def payload(self) -> bytes:
        """Return it as the payload of its gate: equal ones as equal bytes."""
        return b" " + pieces.dump(asdict(self))


def facts_of(
    asked: Asking, payloads: Payloads, redactor: Redactor, *, secret: bytes | None, home: Home, item: object = None
) -> str:
    """Return what is stored of a request (`Gate.facts`).

    Raises:
        ConfigError: Forms of that type cannot be stored, or the proposed one does not fit.
    """
    options = asked.options
    model: Annotation = NoneType if options.form is None else options.form
    try:
        known: dict[str, Any] = json.loads(payloads.gate_facts(model, secret=secret or _NO_SECRET, home=home))
    except ConfigError as error:
        text = error.message.replace("a signal of type", "a form of type", 1).replace("payloads of", "forms of", 1)
        raise ConfigError(f"approval {asked.name!r}: {text}", hint=error.hint) from error
    initial = None
    if asked.initial is not None:
        try:
            initial = pieces.load(payloads.encode(model, asked.initial, home))
        except PayloadInvalid as error:
            raise ConfigError(
                f"initial= of approval {asked.name!r} does not fit its form: {error.message}",
                details=error.details,
                hint="Propose an object of the type of form=, or the plain data of one.",
            ) from error
    request = {
        "text": redactor.text(asked.text),
        "show": plain_of(asked.show, redactor),
        "form": options.form is not None,
        "schema": _schema(options.form),
        "initial": initial,
        "proposed": asked.initial is not None,
        "roles": options.roles,
        "escalate": [[each.age, each.to] for each in options.escalate],
        "timeout": options.timeout,
        "extend": options.extend,
        "approves": options.approves,
        **({} if item is None else {"item": plain_of(item, redactor)}),
    }
    of_type = {"type": known["type"], "home": known["home"]}
    return json.dumps({**of_type, "approval": request}, separators=(",", ":"))


def request_of(stored: StoredGate) -> Request:
    """Return what is on record of a request."""
    found: dict[str, Any] = json.loads(stored.gate.facts)["approval"]
    extend = found["extend"]
    return Request(
        text=found["text"],
        show=found["show"],
        has_form=found["form"],
        schema=found["schema"],
        initial=found["initial"],
        proposed=found["proposed"],
        roles=tuple(found["roles"]),
        escalate=tuple((age, tuple(to)) for age, to in found["escalate"]),
        timeout=found["timeout"],
        extend=None if extend is None else (extend[0], extend[1]),
        approves=found["approves"],
        item=found.get("item"),
    )


def verdict_of(stored: StoredGate) -> Verdict | None:
    """Return what was decided; None if nothing was, or nobody did in time and that is a no."""
    outcome = stored.outcome
    if outcome is not None and outcome.how == "signalled":
        return read_verdict(outcome.payload or b"")
    if stored.state == "expired":
        request = request_of(stored)
        return by_timeout(request) if request.approves else None
    return None


def by_timeout(request: Request) -> Verdict:
    """Return what is decided where a deadline that passes is a yes: with the form that was proposed."""
    return Verdict(approved=True, by=BY_TIMEOUT, form=request.initial, filled=request.proposed)


def read_verdict(data: bytes) -> Verdict:
    """Return what a payload says."""
    return Verdict(**pieces.load(data))


def record_of(verdict: Verdict, at: datetime, request: Request) -> bytes:
    """Return what a body has on record of a decision: all that it is made of again."""
    facts = {**asdict(verdict), "at": at.isoformat(), "initial": request.initial, "proposed": request.proposed}
    return b" " + pieces.dump(facts)


def decision_of(data: bytes, payloads: Payloads, model: Annotation, home: Home) -> Decision[Any]:
    """Return a decision as people get it, from what `record_of` returned.

    Raises:
        StorageError: The form cannot be read: its type has changed.
    """
    found: dict[str, Any] = pieces.load(data)

    def form(plain: object) -> Any:
        return payloads.decode(model, b" " + pieces.dump(plain), home)

    return Decision(
        approved=found["approved"],
        by=found["by"],
        at=datetime.fromisoformat(found["at"]),
        reason=found["reason"],
        form=form(found["form"]) if found["filled"] else None,
        initial=form(found["initial"]) if found["proposed"] else None,
        modified=found["modified"],
    )


def told(stored: StoredGate) -> dict[str, Any]:
    """Return facts of a gate for an error."""
    key = stored.gate.asset
    return {"asset": key.asset, "partition": decode_key(key.partition), "run_id": stored.gate.run_id}


def plain_of(show: object, redactor: Redactor) -> Any:
    """Return something to look at as plain JSON of bounded size, secrets hidden.

    Raises:
        ConfigError: It has no JSON form, and no text that would tell people anything.
    """
    if show is None:
        return None
    try:
        text = to_json(redactor.value(show), fallback=_text_of, inf_nan_mode="constants").decode()
    except (ValueError, TypeError, RecursionError) as error:
        reason = str(error).removeprefix("Error serializing to JSON: ")
        raise ConfigError(
            f"show= of type {type(show).__name__} cannot be shown: {reason}",
            hint="Give plain data, a dataclass or a model, with text that can be stored.",
        ) from error
    hidden = redactor.text(text)
    try:
        plain = json.loads(hidden)
    except ValueError:  # hiding has cut through its form
        plain = hidden
    if len(hidden) > MOST_SHOWN:
        return f"{hidden[:_CUT]}… ({len(hidden):,} characters)"
    return plain


def _text_of(value: object) -> str:
    """Return the text of what has no JSON form, if that is more than where it lies in memory."""
    kind = type(value)
    speaks = kind.__str__ is not object.__str__ or kind.__repr__ is not object.__repr__
    if not speaks or inspect.isawaitable(value) or inspect.isroutine(value) or isinstance(value, type):
        raise TypeError(f"{kind.__name__} has no JSON form")
    return str(value)


def _schema(form: Any) -> Any:
    """Return the JSON schema of a form; None where there is none, or it is very long."""
    if form is None:
        return None
    from pydantic import TypeAdapter

    try:
        found = TypeAdapter[Any](form).json_schema()
    except Exception:  # schemas of fields are anybody's code
        return None
    return found if len(json.dumps(found, default=str)) <= MOST_SHOWN else None
