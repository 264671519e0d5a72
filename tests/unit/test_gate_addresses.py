"""Where the other side sends signals to (SIG-14)."""

from __future__ import annotations

import pytest

from flowstone_async import Engine, Pipeline
from flowstone_async._engine.gates.addresses import base_url_of, url_of
from flowstone_async._engine.tokens import token_of
from flowstone_async.errors import ConfigError

TOKEN = token_of(b"s" * 32, "0193a5a0-0000-7000-8000-000000000001")


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("https://flow.example.org", "https://flow.example.org"),
        ("https://flow.example.org/app/", "https://flow.example.org/app"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://[::1]:8000/a%20b", "http://[::1]:8000/a%20b"),
    ],
)
def test_a_gate_s_address_is_below_the_engine_s(given: str, base: str) -> None:
    assert url_of(base_url_of(given), TOKEN) == f"{base}/hooks/signal/{TOKEN}"


@pytest.mark.parametrize(
    "given",
    [
        *("", "flow.example.org", "ftp://flow.example.org", "https://", "https:///path", "/hooks", 7, b"https://a"),
        *(
            "https://a?b=c",
            "https://a?",
            "https://a#b",
            "https://a#",
            "https://ada:pw@a",
            "https://a:port",
            "https://a:0",
        ),
        *("https://a b", "https://a\n", "https://[a", "https://späť.example"),
    ],
)
def test_what_is_no_address_is_refused_by_the_engine(given: object) -> None:
    with pytest.raises(ConfigError, match="base_url") as caught:
        Engine(Pipeline("any"), base_url=given)  # type: ignore[arg-type]
    assert "pw" not in str(caught.value)


def test_without_an_address_there_is_no_url() -> None:
    assert base_url_of(None) is None
    with pytest.raises(ConfigError, match=r"base_url=.*gate\.token"):
        url_of(None, TOKEN)


def test_a_token_that_the_other_side_chose_has_no_url() -> None:
    """SIG-11: it can be guessed."""
    with pytest.raises(ConfigError, match="chose"):
        url_of("https://flow.example.org", "task/7")
