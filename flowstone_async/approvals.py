"""Approvals: what is asked of people, and what they decide.

`@pipe.approval` and `ctx.approval` make requests, `approve` and `reject` of an engine or a pipeline decide them; see
docs/approvals.md.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar, cast

from typing_extensions import TypedDict

from flowstone_async.config import LONGEST, STORABLE, Duration, seconds, unstorable
from flowstone_async.errors import ConfigError

F_co = TypeVar("F_co", covariant=True)
F = TypeVar("F")

TIMEOUT = "24h"
INPUTS = object()
"""Metadata of the field that holds inputs, whose types only the asset knows that asks."""
LONGEST_TEXT = 10_000
_LONGEST_ROLE = 200


@dataclass(frozen=True, kw_only=True)
class Decision(Generic[F_co]):
    """What a person decided, or that nobody had to.

    Attributes:
        approved: Whether the answer was yes.
        needed: Whether anybody was asked.
        by: Who decided; `"timeout"` if nobody did and that counts as a yes; None if nobody was asked.
        at: When, aware; None likewise.
        reason: Why, if that was said.
        form: The form as it was filled; None without one, or if nobody filled it.
        initial: The form as it was proposed, if it was.
        modified: Whether the form differs from that.
        inputs: The approval's own dependencies by parameter: the very values that were shown.
    """

    approved: bool
    needed: bool = True
    by: str | None = None
    at: datetime | None = None
    reason: str | None = None
    form: F_co = field(default=cast("Any", None))
    initial: F_co | None = None
    modified: bool = False
    inputs: Annotated[Mapping[str, Any], INPUTS] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Ask:
    """A question with what to look at: what the body of `@pipe.approval` returns, if text alone does not do.

    Attributes:
        text: The question.
        show: Shown with it: anything that has a JSON form, or a text of its own; secrets are hidden.
    """

    text: str
    show: object = None


@dataclass(frozen=True, slots=True)
class Extend:
    """What to do when nobody has decided in time: wait longer.

    Attributes:
        by: How much later the deadline is each time.
        times: How often; all of it must end before the year 9999.
    """

    by: Duration
    times: int = 1


@dataclass(frozen=True, slots=True)
class After:
    """Whom to turn to when a request is old.

    Attributes:
        age: How old, from when it was made.
        to: Roles that may decide from then on, as well.
        notify: Who is told then.
    """

    age: Duration
    to: Sequence[str] = ()
    notify: Sequence[Notifier] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequested:
    """A request that waits for somebody: what notifiers are called with.

    Attributes:
        id: Of the request: what `approve` and `reject` take.
        text: The question; secrets are hidden in it, and in `show`.
        show: What is to be looked at, as plain JSON.
        partition: Key of the asset, as a real object.
        item: Key of the item of a scatter that asks, as plain JSON (of a batch, those of its items); None if none does.
        roles: Who may decide; nobody in particular if it is empty.
        schema: JSON schema of the form, if there is one.
        initial: The form as it is proposed, as plain JSON.
        opened_at: When it was made.
        due: When it expires; None never.
        escalation: None at first; then the number of the `After` that has come, from 0.
        url: Link to a page that shows the request, and decides it by what is sent from there: once, until it expires.
            None where the engine has no `base_url` or no `secret`. Whoever has it can see the request, and decide it
            if it has no roles: send it to nobody else.
    """

    id: str
    text: str
    show: Any
    pipeline: str
    asset: str
    partition: Any
    run_id: str
    name: str
    roles: tuple[str, ...]
    schema: Mapping[str, Any] | None
    initial: Any
    opened_at: datetime
    due: datetime | None
    escalation: int | None = None
    url: str | None = field(default=None, repr=False)
    item: Any = None


Notifier: TypeAlias = Callable[[ApprovalRequested], Awaitable[object]]
OnTimeout: TypeAlias = Literal["reject", "approve"] | Extend


class ApprovalOptionsGiven(TypedDict, total=False):
    """Options of approvals; `None` means "not given".

    Attributes:
        timeout: How long it may take, 24 hours without it; False never expires.
        roles: Who may decide, where people log in; anybody who has without them.
        notify: Async functions that are told, each once; one that fails is tried 3 times.
        on_timeout: What it means that nobody decided in time: `"reject"`, which is so without it, `"approve"`, or
            `Extend(...)`, which moves the deadline first.
        escalate: Whom to turn to when the request is old.
    """

    timeout: Duration | Literal[False] | None
    roles: Sequence[str] | None
    notify: Sequence[Notifier] | None
    on_timeout: OnTimeout | None
    escalate: Sequence[After] | None


class InlineOptions(ApprovalOptionsGiven, total=False):
    """Options of `ctx.approval`, beside the form.

    Attributes:
        show: What is to be looked at: anything that has a JSON form, or a text of its own; secrets are hidden.
        name: What the request is called; `"approval"` without it.
        key: What tells it from other requests of that name, as for `step`.
    """

    show: object
    name: str | None
    key: str | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """An `After`, read: its age in seconds."""

    age: float
    to: tuple[str, ...]
    notify: tuple[Notifier, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalOptions:
    """How a decision is asked for, read.

    Attributes:
        form: Type of the form; None for none.
        timeout: Seconds until the first deadline; None never expires.
        approves: Whether a deadline that passes is a yes.
        extend: Seconds that the deadline moves each time, and how often.
        escalate: By age.
    """

    form: Any = None
    timeout: float | None = 86_400.0
    roles: tuple[str, ...] = ()
    notify: tuple[Notifier, ...] = ()
    approves: bool = False
    extend: tuple[float, int] | None = None
    escalate: tuple[Escalation, ...] = ()

    @property
    def total(self) -> float | None:
        """Seconds until it expires for good."""
        if self.timeout is None or self.extend is None:
            return self.timeout
        length, times = self.extend
        return self.timeout + length * times


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """One question that a body asks.

    Attributes:
        initial: The form as it is proposed.
    """

    text: str
    show: object
    name: str
    initial: object
    options: ApprovalOptions


def problems_of(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with options of an approval, and behind the last `: ` the way out, without a full stop."""
    timeout = options.get("timeout")
    first = yield from _length("timeout", TIMEOUT if timeout is None else timeout, endless=True)
    yield from _roles("roles", options.get("roles"))
    yield from _notifiers("notify", options.get("notify"))
    yield from _on_timeout(options.get("on_timeout"), first, endless=timeout is False)
    escalate = options.get("escalate")
    if escalate is None:
        return
    if not isinstance(escalate, list | tuple) or not all(isinstance(each, After) for each in cast("Any", escalate)):
        yield f'escalate={escalate!r}: give a list of After("4h", to=[...], notify=[...])'
        return
    for each in cast("Sequence[After]", escalate):
        age = yield from _length("After", each.age)
        yield from _roles("to", each.to)
        yield from _notifiers("notify", each.notify)
        if not each.to and not each.notify:
            yield f"After({each.age!r}): it changes nothing: give to= or notify="
        if age is not None and first is not None and age >= first:
            limit = TIMEOUT if timeout is None else timeout
            yield f"After({each.age!r}) is not before timeout={limit!r}: give a lesser age, or more time"


def read_approval(options: Mapping[str, Any]) -> ApprovalOptions:
    """Return options of an approval, read.

    Raises:
        ConfigError: Some are wrong; all of them are named.
    """
    problems = [each.rpartition(": ") for each in problems_of(options)]
    if problems:
        ways = dict.fromkeys(f"{way[0].upper()}{way[1:]}." for _, _, way in problems)
        raise ConfigError("; ".join(wrong for wrong, _, _ in problems), hint=" ".join(ways))
    timeout, on_timeout = options.get("timeout"), options.get("on_timeout")
    escalations = [
        Escalation(age=seconds(each.age), to=tuple(each.to or ()), notify=tuple(each.notify or ()))
        for each in options.get("escalate") or ()
    ]
    return ApprovalOptions(
        form=options.get("form"),
        timeout=None if timeout is False else seconds(TIMEOUT if timeout is None else timeout),
        roles=tuple(options.get("roles") or ()),
        notify=tuple(options.get("notify") or ()),
        approves=on_timeout == "approve",
        extend=(seconds(on_timeout.by), on_timeout.times) if isinstance(on_timeout, Extend) else None,
        escalate=tuple(sorted(escalations, key=lambda each: each.age)),
    )


def check_inline(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options of `ctx.approval`.

    Raises:
        TypeError: There is none of that name.
    """
    unknown = set(options) - set(InlineOptions.__annotations__) - set(ApprovalOptionsGiven.__annotations__)
    if unknown:
        raise TypeError(f"approval() got an unexpected keyword argument {min(unknown)!r}")
    return options


def question(text: object) -> str:
    """Return a question.

    Raises:
        ConfigError: It is no text, or empty, or very long.
    """
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST_TEXT:
        shown = repr(text)[:100]
        raise ConfigError(
            f"an approval asks a question, which is text of 1 to {LONGEST_TEXT:,} characters, not {shown}",
            hint="Give what is to be looked at as show=.",
        )
    reason = unstorable(text)
    if reason is not None:
        raise ConfigError(f"the question {text[:100]!r} cannot be stored: it holds {reason}", hint=STORABLE)
    return text


def _length(option: str, value: Any, *, endless: bool = False) -> Generator[str, None, float | None]:
    if endless and value is False:
        return None
    try:
        return seconds(value, what=option)
    except ConfigError as error:
        yield f"{option}={value!r}: {str(error.hint).rstrip('.')}"
    return None


def _roles(option: str, value: object) -> Iterator[str]:
    if value is None:
        return
    roles = cast("Sequence[object]", value) if isinstance(value, list | tuple) else [None]
    if not all(isinstance(each, str) and each.strip() and len(each) <= _LONGEST_ROLE for each in roles):
        yield f"{option}={value!r}: give a list of names of roles, each of 1 to {_LONGEST_ROLE} characters"
    elif any(map(unstorable, cast("Sequence[str]", roles))):
        yield f"{option}={value!r}: leave out NUL and halves of surrogate pairs"


def _notifiers(option: str, value: object) -> Iterator[str]:
    if value is None:
        return
    notifiers = cast("Sequence[object]", value) if isinstance(value, list | tuple) else [None]
    if not all(map(_is_async, notifiers)):
        yield f"{option}={value!r}: give a list of async functions that take an ApprovalRequested"


def _is_async(value: Any) -> bool:
    while isinstance(value, functools.partial):
        value = cast("Any", value).func
    kind: Any = type(cast("object", value))
    called: Any = value if inspect.isroutine(value) else getattr(kind, "__call__", None)  # noqa: B004 - not bound
    return called is not None and inspect.iscoroutinefunction(inspect.unwrap(called))


def _on_timeout(value: object, first: float | None, *, endless: bool) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, Extend):
        by = yield from _length("Extend", value.by)
        times: object = value.times
        if isinstance(times, bool) or not isinstance(times, int) or times < 1:
            yield f"Extend(times={times!r}): give a whole number of 1 or more"
        elif by is not None and first is not None and times > (LONGEST - first) / by:
            yield f"Extend({value.by!r}) so often moves the deadline beyond the year 9999: at most 2900000d in all"
    elif value not in ("reject", "approve"):
        yield f'on_timeout={value!r}: allowed are "reject", "approve" and Extend("4h", times=3)'
    if endless and value != "reject":
        yield f"on_timeout={value!r}, but timeout=False never expires: leave one of them out"
