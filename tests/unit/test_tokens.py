"""Tokens of gates: derived, told from forged ones, good across a change of the secret (SIG-01, SIG-02, SIG-10, SIG-11)."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async._engine.tokens import chosen, gate_of, key_id, token_of
from flowstone_async.errors import ConfigError, ForgedToken, MalformedToken

SECRET, OTHER = b"s" * 16, b"o" * 32
GATE = "01234567-89ab-4def-8123-456789abcdef"

secrets = st.binary(min_size=16, max_size=64)
gates = st.uuids().map(str)


@given(secrets, gates)
def test_a_token_leads_back_to_its_gate(secret: bytes, gate: str) -> None:
    token = token_of(secret, gate)
    assert token == token_of(secret, gate)
    assert gate_of([secret], token) == gate
    assert token.startswith("v1.")
    assert "/" not in token
    assert token.isascii()


@given(gates, gates)
def test_no_two_gates_share_one(one: str, other: str) -> None:
    assert (token_of(SECRET, one) == token_of(SECRET, other)) == (one == other)


@given(st.text())
def test_what_is_no_token_is_malformed(text: str) -> None:
    with pytest.raises(MalformedToken):
        gate_of([SECRET], text)


@given(st.integers(0, 78), st.characters(codec="utf-8"))
def test_a_token_that_was_changed_is_refused(place: int, character: str) -> None:
    token = token_of(SECRET, GATE)
    changed = token[:place] + character + token[place + 1 :]
    if changed != token:
        with pytest.raises((MalformedToken, ForgedToken)):
            gate_of([SECRET], changed)


def test_a_token_of_another_secret_or_gate_is_forged() -> None:
    token = token_of(SECRET, GATE)
    version, _, mac = token.split(".")
    for forged in (token_of(OTHER, GATE), f"{version}.{UUID(int=7).hex}.{mac}"):
        with pytest.raises(ForgedToken):
            gate_of([SECRET], forged)
    with pytest.raises(ForgedToken):
        gate_of([], token)


def test_only_the_very_token_will_do() -> None:
    token = token_of(SECRET, GATE)
    for changed in (token.upper(), f"{token}\n", f" {token}", token[:-1], f"{token}="):
        with pytest.raises((MalformedToken, ForgedToken)):
            gate_of([SECRET], changed)


def test_a_secret_that_was_replaced_is_good_for_its_tokens() -> None:
    assert gate_of([OTHER, SECRET], token_of(SECRET, GATE)) == GATE
    assert len({key_id(SECRET), key_id(OTHER)}) == 2
    assert key_id(SECRET) == key_id(bytes(SECRET))


def test_a_secret_must_be_long_enough() -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        token_of(b"short", GATE)
    with pytest.raises(ConfigError, match="at least 16"):
        gate_of([SECRET, b"short"], token_of(SECRET, GATE))
    with pytest.raises(ConfigError, match="at least 16"):
        key_id(b"")


@given(st.text(min_size=1, max_size=128))
def test_a_chosen_token_is_any_text(text: str) -> None:
    assert len(chosen(text)) == 32
    assert chosen(text) != chosen(text + ".")


@pytest.mark.parametrize("token", ["", "x" * 513, "ä" * 257, "\ud800"])
def test_a_chosen_token_has_1_to_512_bytes(token: str) -> None:
    with pytest.raises(ConfigError, match="token="):
        chosen(token)
    assert len({chosen("x" * 512), chosen("ä" * 256), chosen("a/b.c")}) == 3


@pytest.mark.parametrize("change", [str, str.upper, lambda token: f" {token}", lambda token: token[:40]], ids=range(4))
def test_nobody_chooses_what_looks_like_a_token_of_ours(change: Callable[[str], str]) -> None:
    """Damaged, it would be taken for one that was chosen, and kept for a gate that never comes."""
    with pytest.raises(ConfigError, match="looks like"):
        chosen(change(token_of(SECRET, GATE)))
    assert chosen("v1.2") != chosen("v1.3")
