"""Values that cannot be kept are refused where they are given."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any

import pytest
from annotated_types import Gt

from flowstone_async import (
    After,
    ApprovalGate,
    ApprovalRequested,
    Ask,
    ConfigError,
    Context,
    Extend,
    Pipeline,
    SignalGate,
    User,
    notify,
)
from flowstone_async._engine.approving.deciding import answer
from flowstone_async._engine.approving.requests import Request, facts_of, plain_of
from flowstone_async._engine.gates.payloads import Payloads
from flowstone_async._engine.gates.sender import Sender
from flowstone_async._engine.gates.type_names import NOWHERE
from flowstone_async.config import instant, seconds, text
from flowstone_async.durable import key_of_call
from flowstone_async.redaction import Redactor
from tests.unit.definition.reading import problems


@pytest.mark.parametrize("value", ["9999999d", 1e12, timedelta.max])
def test_a_duration_that_ends_after_the_last_year(value: object):
    with pytest.raises(ConfigError, match="ends after the year 9999"):
        seconds(value, what="timeout")  # pyright: ignore[reportArgumentType]


def test_the_longest_duration():
    assert seconds("2900000d") == timedelta(days=2_900_000).total_seconds()


@pytest.mark.parametrize(
    "extend", [Extend("1500000d", times=2), Extend("1d", times=10**400), Extend(timedelta.resolution, times=10**400)]
)
def test_deadlines_that_move_beyond_the_last_year(extend: Extend):
    """APPR-09: however the times add up."""
    with pytest.raises(ConfigError, match="beyond the year 9999"):
        ApprovalGate("?", value=1, timeout="1h", on_timeout=extend)
    with pytest.raises(ConfigError, match="beyond the year 9999"):
        ApprovalGate("?", value=1, timeout="2900000d", on_timeout=Extend("1ms"))


def test_deadlines_that_move_up_to_the_last_year():
    gate = ApprovalGate("?", value=1, timeout="1900000d", on_timeout=Extend("500000d", times=2))
    total, opened_at = gate.asking.options.total, datetime(2026, 1, 1, tzinfo=UTC)
    assert total is not None
    assert (opened_at + timedelta(seconds=total)).year == 9965


@pytest.mark.parametrize("by", [1.0, 5e-324])
def test_the_last_deadline_stands_however_small_the_moves(by: float):
    opened_at, none = datetime(2026, 1, 1, tzinfo=UTC), None
    request = Request(
        text="?",
        show=none,
        has_form=False,
        schema=none,
        initial=none,
        proposed=False,
        roles=(),
        escalate=(),
        timeout=60.0,
        extend=(by, 3),
        approves=False,
    )
    assert request.due(opened_at, opened_at + timedelta(hours=1)) == opened_at + timedelta(seconds=60 + 3 * by)
    assert request.due(opened_at, opened_at + timedelta(seconds=59)) == opened_at + timedelta(seconds=60)


@pytest.mark.parametrize(
    "value",
    [
        *(datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC), datetime(2026, 1, 1), 5, "2026-01-01"),  # noqa: DTZ001
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=12))),
    ],
)
def test_an_instant_that_cannot_be_stored(value: object):
    with pytest.raises(ConfigError, match="until="):
        instant(value, what="until")


def test_an_instant_is_taken_to_utc():
    given = datetime(9998, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12)))
    assert (instant(given, what="until"), instant(given, what="until").tzinfo) == (given, UTC)


UNSTORABLE = ["\0", "a\0b", "\ud800", "a\udcff"]


@pytest.mark.parametrize("given", UNSTORABLE)
def test_text_that_cannot_be_stored(given: str):
    """APPR-12, SIG-13: wherever a person's text comes in."""
    refused = pytest.raises(ConfigError, match="NUL|half of a surrogate pair|is no name")
    with refused:
        text(given, what="by")
    with refused:
        answer(approved=True, by=given)
    with refused:
        answer(approved=False, by="ada", reason=given)
    with refused:
        ApprovalGate(f"all of it {given}?", value=1)
    with refused:
        ApprovalGate("?", value=1, roles=["release", given])
    with refused:
        ApprovalGate("?", value=1, roles=["release"], escalate=[After("1h", to=[given])])
    with refused:
        User(given)
    with refused:
        Sender(actor=given)


def test_text_that_can_be_stored():
    said = answer(approved=True, by="Žofie 👍", reason="\x01 \n ok")
    assert (said.by, said.reason) == ("Žofie 👍", "\x01 \n ok")
    assert ApprovalGate("grün? 👍", value=1, roles=["ředitel"]).asking.text == "grün? 👍"


@pytest.mark.parametrize("key", [5.5, True, b"a", ["a"], object(), "k" * 201, 10**200])
def test_a_key_that_tells_nothing_apart(key: object):
    with pytest.raises(ConfigError, match="told from others"):
        key_of_call(key)


@pytest.mark.parametrize("key", ["", "\0\ud800", 0, -(10**199), None])
def test_a_key_that_tells_calls_apart(key: object):
    assert key_of_call(key) == key


@pytest.mark.parametrize(("model", "token", "what"), [(None, None, "type of its payload"), (str, 5, "is text")])
def test_a_gate_of_nothing(model: Any, token: Any, what: str):
    """SIG-11: said where it is made."""
    with pytest.raises(ConfigError, match=what) as caught:
        SignalGate(model, token=token)
    assert caught.value.hint
    assert SignalGate(type(None)).name == "NoneType"


class Loud:
    """Tells people, as an object."""

    async def __call__(self, requested: ApprovalRequested) -> None:
        raise NotImplementedError


async def _tell(requested: ApprovalRequested, to: str = "") -> None:
    raise NotImplementedError


@functools.wraps(_tell)
def _wrapped(*args: Any) -> Any:
    raise NotImplementedError


def _plain(requested: ApprovalRequested) -> None:
    raise NotImplementedError


WRONG: list[tuple[str, Any]] = [
    *[("roles", each) for each in ("release", ["release", 5], [""], [" "], {"release"}, 5, [None])],
    *[("notify", each) for each in (_tell, [_plain], [print], [Loud], ["#deploys"], [None], {_tell}, 5)],
]


@pytest.mark.parametrize(("option", "value"), WRONG, ids=map(str, range(len(WRONG))))
def test_options_of_requests_of_the_wrong_type(option: str, value: Any):
    """APPR-12, APPR-13: returned, as an asset, and in an escalation."""
    given: dict[str, Any] = {option: value}
    with pytest.raises(ConfigError, match=f"{option}="):
        ApprovalGate("?", value=1, **given)
    after: dict[str, Any] = {"to": value} if option == "roles" else given
    with pytest.raises(ConfigError, match="to=|notify="):
        ApprovalGate("?", value=1, escalate=[After("1h", **after)])
    pipe: Any = Pipeline("p")

    @pipe.approval(**given)
    async def asks() -> str:
        raise NotImplementedError

    [found] = problems(pipe)
    assert found.startswith(f"FS109 asks: {option}=")


@pytest.mark.parametrize(
    "told",
    [_tell, Loud(), functools.partial(_tell, to="x"), _wrapped, notify.slack("#deploys")],
    ids=["function", "object", "partial", "wrapped", "ready-made"],
)
def test_whoever_can_be_told(told: Any):
    pipe = Pipeline("p")

    @pipe.approval(notify=[told], roles=("release",), escalate=[After("1h", notify=[told])])
    async def asks(ctx: Context) -> str:
        raise NotImplementedError

    assert problems(pipe) == []
    assert ApprovalGate("?", value=1, escalate=[After("1h", to=None, notify=[told])]).asking.options.escalate  # pyright: ignore[reportArgumentType]


class Said:
    """Has a text of its own."""

    def __str__(self) -> str:
        return "said"


class Silent:
    """Has none."""


def test_what_is_shown_has_a_form_or_a_text():
    """APPR-01: else it is refused; secrets are hidden."""
    hidden = Redactor()
    for value, shown in [({"a": Said()}, {"a": "said"}), (Said(), "said"), ({1, 2}, [1, 2]), (None, None), (0, 0)]:
        assert plain_of(value, hidden) == shown
    wrong: Sequence[object] = [Silent(), [Silent()], print, Silent, "\ud800", _tell, b"\xff"]
    for value in wrong:
        with pytest.raises(ConfigError, match=f"show= of type {type(value).__name__} cannot be shown") as caught:
            plain_of(value, hidden)
        assert caught.value.hint
    assert Ask("?", show=Silent()).show


@pytest.mark.parametrize(
    ("form", "said"), [(5, "a form of type 5 could not be stored"), (list[Annotated[int, Gt(1)]], "forms of type")]
)
def test_a_form_that_is_no_type(form: Any, said: str):
    """APPR-11: of what it is said is the form."""
    asking = ApprovalGate("?", value=1, form=form, name="trade").asking
    with pytest.raises(ConfigError, match=f"approval 'trade': {said}") as caught:
        facts_of(asking, Payloads(), Redactor(), secret=None, home=NOWHERE)
    assert caught.value.hint
