"""What the command line says of errors: CLI-06, ERR-05."""

from __future__ import annotations

import io

import pytest

from flowstone_async import DependencyNotReady
from flowstone_async.cli.failure import tell
from flowstone_async.cli.output import Output


def _told(error: DependencyNotReady) -> str:
    messages = io.StringIO()
    tell(Output(io.TextIOWrapper(io.BytesIO()), messages, terminal=False), error, verbose=False)
    return messages.getvalue()


@pytest.mark.parametrize(
    ("missing", "external", "own", "other"),
    [
        (["mine.own"], [], True, False),
        (["one.a"], ["one.a"], False, True),
        (["mine.own", "one.a"], ["one.a"], True, True),
    ],
)
def test_only_own_values_are_computed_by_leaving_no_deps_out(
    missing: list[str], external: list[str], *, own: bool, other: bool
) -> None:
    """ASSET-16: those of another pipeline are computed there."""
    error = DependencyNotReady("not stored", details={"missing": missing, "external": external}, hint="of Python")
    text = _told(error)
    assert ("leave --no-deps out" in text) is own
    assert ("on the same store: one.a." in text) is other
    assert "of Python" not in text


def test_what_a_body_raises_keeps_its_own_hint() -> None:
    """ERR-04: it knows better."""
    assert "Ask Ada." in _told(DependencyNotReady("not there yet", hint="Ask Ada."))
