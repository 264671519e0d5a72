"""No secret is shown to people or machines that read about runs (SEC-04), and no text forges a log line (SEC-05)."""

from __future__ import annotations

import json
import pickle
import time
import traceback
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr

from flowstone_async.redaction import HIDDEN, Redactor

NAMES = [
    "password",
    "PASSWORD",
    "db_password",
    "PGPASSWORD",
    "token",
    "accessToken",
    "refresh-token",
    "client_secret",
    "Authorization",
    "Proxy-Authorization",
    "cookie",
    "Set-Cookie",
    "api_key",
    "api-key",
    "apiKey",
    "API Key",
    "X-Api-Key",
]


class Login(BaseModel):
    model_config = ConfigDict(extra="allow")

    user: str
    code: SecretStr
    api_key: str = "k-12345"


@dataclass(frozen=True, slots=True)
class Settings:
    host: str
    password: str
    login: Login | None = None
    more: dict[str, object] = field(default_factory=dict)


class Pair(NamedTuple):
    name: str
    token: str


class Stubborn:
    def __copy__(self) -> Stubborn:
        raise RuntimeError


@dataclass
class StubbornSettings(Stubborn):
    password: str


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_under_the_name_of_a_secret_is_hidden(name: str) -> None:
    """SEC-04"""
    value = {"keep": 1, "deep": [{"x": ({name: "hunter2", "y": {name: ["hunter2", {"z": "hunter2"}]}},)}]}
    hidden = Redactor().value(value)
    assert "hunter2" not in repr(hidden)
    assert hidden["keep"] == 1
    assert "hunter2" in repr(value), "the original stays as it is"


@pytest.mark.parametrize(
    "name", ["tokens", "input_tokens", "password_set", "user", "key", "partition_key", "secretary"]
)
def test_numbers_of_tokens_flags_and_other_names_are_kept(name: str) -> None:
    """SEC-04"""
    value = {name: True if name == "password_set" else 42 if name != "secretary" else None}
    assert Redactor().value(value) == value
    assert Redactor().value({"password": 1234}) == {"password": HIDDEN}


def test_secret_types_fields_of_dataclasses_models_and_tuples_are_hidden() -> None:
    """SEC-04"""
    login = Login.model_validate({"user": "ada", "code": "hunter2", "session_cookie": "hunter3"})
    value = [Settings("db", "hunter4", login, {"a": SecretBytes(b"hunter5")}), Pair("x", "hunter6"), {1: login}]
    hidden = Redactor().value(value)
    assert "hunter" not in repr(hidden)
    assert "k-12345" not in repr(hidden)
    assert hidden[0].host == "db"
    assert isinstance(hidden[0].login, Login)
    assert hidden[0].login.user == "ada"
    assert hidden[1].name == "x"
    assert value[0].password == "hunter4"  # pyright: ignore[reportAttributeAccessIssue]
    assert login.code.get_secret_value() == "hunter2"


def test_headers_in_pairs_are_hidden() -> None:
    """SEC-04"""
    headers = [(b"authorization", b"Bearer hunter2"), ("Cookie", "sid=hunter2"), ("Accept", "text/html")]
    assert Redactor().value(headers) == [(b"authorization", HIDDEN), ("Cookie", HIDDEN), ("Accept", "text/html")]


def test_containers_come_back_in_kind_and_as_copies() -> None:
    value: dict[str, Any] = {"a": [1], "b": (1, 2, 3), "c": {1}, "d": frozenset({2}), "e": OrderedDict(x=1), "f": None}
    hidden = Redactor().value(value)
    assert hidden == value
    assert hidden is not value
    assert hidden["a"] is not value["a"]
    assert (type(hidden["b"]), type(hidden["c"]), type(hidden["d"])) == (tuple, set, frozenset)


def test_what_cannot_be_looked_into_is_hidden_or_kept() -> None:
    """SEC-04"""
    looped: list[Any] = []
    looped.append({"again": looped, "password": "hunter2"})
    assert "hunter2" not in repr(Redactor().value(looped))
    assert Redactor().value(StubbornSettings("hunter2")) == HIDDEN
    other = object()
    assert Redactor().value([other]) == [other]


TEXTS = [
    ("postgres://ada:hunter2@db:5432/app is down", "postgres://ada:***@db:5432/app is down"),
    ("redis://:hunter2@db/0", "redis://:***@db/0"),
    ("postgres://ada:hun/ter2@db/app", "postgres://ada:***@db/app"),
    ("postgres://ada:hun@ter2@db/app", "postgres://ada:***@db/app"),
    ("https://hunter2hunter2hunter2@host/x", "https://***@host/x"),
    ("GET /x?token=hunter2&page=2", "GET /x?token=***&page=2"),
    ("GET /x?page=2&api_key=hunter2 HTTP/1.1", "GET /x?page=2&api_key=*** HTTP/1.1"),
    ("next=%2Fx%3Ftoken%3Dhunter2", "next=%2Fx%3Ftoken%3D***"),
    ("password=hunter2, user=ada", "password=***, user=ada"),
    ("connect(password=hunter2)", "connect(password=***)"),
    ("password='hun ter2' user=ada", "password='***' user=ada"),
    ('{"password": "hun\\"ter2", "n": 1}', '{"password": "***", "n": 1}'),
    ('{"accessToken":"hunter2"}', '{"accessToken":"***"}'),
    ('"{\\"secret\\": \\"hunter2\\", \\"n\\": 1}"', '"{\\"secret\\": \\"***\\", \\"n\\": 1}"'),
    ("{'client_secret': 'hunter2', 'n': 2}", "{'client_secret': '***', 'n': 2}"),
    ("{b'token': b'hunter2'}", "{b'token': b'***'}"),
    ('password="hunter2', 'password="***'),
    ('password="hunter2\nnext line', 'password="***\nnext line'),
    ("secret: hunter2", "secret: ***"),
    ("PGPASSWORD=hunter2 psql", "PGPASSWORD=*** psql"),
    ("api key: hunter2", "api key: ***"),
    ("Authorization: Bearer hunter2", "Authorization: ***"),
    ("authorization: Basic aHVudGVyMg==\nAccept: */*", "authorization: ***\nAccept: */*"),
    ("authorization=Bearer hunter2", "authorization=***"),
    ("{'Authorization': 'Bearer hunter2'}", "{'Authorization': '***'}"),
    ("Cookie: a=hunter2; b=hunter2", "Cookie: ***"),
    ("sent Bearer hunter2.abc-def to it", "sent Bearer *** to it"),
]


@pytest.mark.parametrize(("text", "shown"), TEXTS, ids=range(len(TEXTS)))
def test_secrets_in_texts_are_hidden(text: str, shown: str) -> None:
    """SEC-04"""
    assert Redactor().text(text) == shown
    assert "hunter2" not in Redactor().value({"message": [text]})["message"][0]


@pytest.mark.parametrize(
    "text",
    [
        "asset 'sum' needs 'numbers', which no asset in pipeline 'sales' provides.",
        "http://host:8080/path?mail=ada@example.org",
        "mail ada@example.org, see git@github.com:a/b.git",
        "input_tokens=123, output_tokens: 45",
        "    token = get_token(request)",
        '    password = os.environ["DB"]',
        "if token == other:",
        "Token::new()",
        "the bearer of good news",
        "KeyError: 'token'",
        "",
        "ünïcödé ✓",
        "several\nlines\twith tabs",
    ],
)
def test_a_text_without_secrets_stays_as_it_is(text: str) -> None:
    """SEC-04"""
    assert Redactor().text(text) == text


def test_a_secret_in_a_traceback_is_hidden() -> None:
    """SEC-04"""
    try:
        raise ValueError({"url": "postgres://ada:hunter2@db/app", "token": "hunter2"})
    except ValueError as error:
        trace = "".join(traceback.format_exception(error)).replace("hunter2", "hunter" + "2")
    shown = Redactor().text(trace)
    assert "ValueError" in shown
    assert "\n" in shown
    assert "hunter2" not in shown


def test_what_was_seen_as_a_secret_is_found_in_later_texts() -> None:
    """SEC-04"""
    redactor = Redactor()
    redactor.value({"login": SecretStr("open sesame"), "token": SecretBytes(b"abracadabra")})
    assert redactor.text("said open sesame, then abracadabra") == "said ***, then ***"
    assert redactor.value(["open sesame!"]) == ["***!"]
    redactor.learn("sim")
    assert redactor.text("simple") == "simple", "too short to be told from ordinary text"
    assert Redactor().text("open sesame") == "open sesame", "nothing is shared between redactors"


def test_a_known_secret_is_found_however_it_is_spelled() -> None:
    """SEC-04"""
    redactor = Redactor()
    secret = 'pä"ss/w\\ord'
    redactor.value(SecretStr(secret))
    for text in (secret, repr(secret), json.dumps([secret]), f"https://host/?q={quote(secret, safe='')}"):
        assert "ss" not in redactor.text(text)


def test_a_longer_secret_goes_before_one_that_it_contains() -> None:
    redactor = Redactor()
    for secret in ("abcd", "abcdef"):
        redactor.learn(secret)
    assert redactor.text("abcdef") == HIDDEN


def test_it_remembers_a_bounded_number_of_secrets() -> None:
    """G-03"""
    redactor = Redactor()
    for number in range(1_010):
        redactor.learn(f"secret-{number:05}")
    assert redactor.text("secret-00000") == "secret-00000"
    assert redactor.text("secret-01009") == HIDDEN


@pytest.mark.parametrize("extra", ["credit-card", "creditCard", "CREDIT CARD"])
def test_more_names_can_be_given_in_any_spelling(extra: str) -> None:
    """SEC-04: `redact=`"""
    redactor = Redactor([extra])
    assert redactor.value({"credit_card": "4111", "CreditCard": "4111"}) == {"credit_card": "***", "CreditCard": "***"}
    assert redactor.text("credit_card=4111 x creditcard: 4111") == "credit_card=*** x creditcard: ***"
    assert Redactor().value({"credit_card": "4111"}) == {"credit_card": "4111"}


def test_a_redactor_of_no_names_hides_as_ever() -> None:
    assert Redactor(["", " "]).value({"a": "b", "": "c", "token": "x"}) == {"a": "b", "": "c", "token": "***"}


def test_control_characters_are_escaped_but_for_lines_and_tabs() -> None:
    """SEC-05"""
    redactor = Redactor()
    assert redactor.text("a\x1b[31m\r\0\x7f\x9b\u2028\u202e") == "a\\x1b[31m\\x0d\\x00\\x7f\\x9b\\u2028\\u202e"
    assert redactor.text("a\n\tb") == "a\n\tb"
    assert redactor.line("a\n\tb\r") == "a\\n\\tb\\x0d"


@given(st.text())
def test_a_line_is_one_line_and_printable(text: str) -> None:
    """SEC-05"""
    line = Redactor().line(text)
    assert len(line.splitlines()) <= 1
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in line)


@given(
    st.sampled_from(NAMES),
    st.text("abcdefXYZ0123456789!$%^*()-_+.,:;<>?/|~@#", min_size=8).filter(lambda secret: secret.strip(",;)]}")),
)
def test_no_secret_passes_as_json_header_or_query(name: str, secret: str) -> None:
    """SEC-04"""
    redactor = Redactor()
    for text in (json.dumps({name: secret}), json.dumps([json.dumps({name: secret})]), repr({name: secret})):
        assert secret not in redactor.text(text)


@pytest.mark.parametrize(
    "text",
    [
        "password" * 10_000,
        "a" * 100_000 + "token",
        "http://" * 10_000,
        "x://a:" * 10_000,
        "token='" * 10_000,
        "token: " + " " * 100_000,
        "token" + " " * 100_000,
        "bearer " * 10_000,
        "bearer " + "a" * 100_000,
        "cookie: " * 10_000,
    ],
    ids=range(10),
)
def test_a_hostile_text_takes_time_in_proportion(text: str) -> None:
    """SEC-07: no text stops the event loop."""
    redactor = Redactor()
    start = time.process_time()
    redactor.text(text)
    assert time.process_time() - start < 2


class Nested(BaseModel):
    password: str
    pin: SecretStr
    user: str = "ada-lovelace"


def test_what_is_learned_in_a_value_is_hidden_in_every_text() -> None:
    """SEC-04: secrets by type and texts by name, at any depth; what goes under another name stays."""
    redactor = Redactor()
    redactor.learn_in(
        {
            "token": "token-text",
            "cookies": [b"cookie-bytes", {"deeper": "cookie-deeper"}],
            "nested": Nested(password="nested-password", pin=SecretStr("nested-pin")),
            "max_tokens": 4096,
            "user": "grace-hopper",
        }
    )
    for secret in ("token-text", "cookie-bytes", "cookie-deeper", "nested-password", "nested-pin"):
        assert redactor.text(f"see {secret}!") == f"see {HIDDEN}!"
    for other in ("4096", "ada-lovelace", "grace-hopper", "**********"):
        assert redactor.text(other) == other


def test_asterisks_in_place_of_a_secret_are_none() -> None:
    """SEC-04: they are what is stored of one."""
    redactor = Redactor()
    redactor.learn_in({"password": "**********", "other": SecretStr("**********")})
    assert redactor.text("********** and *** stay") == "********** and *** stay"


def test_a_redactor_travels_with_what_it_knows() -> None:
    """SEC-04: to the processes that run bodies."""
    redactor = Redactor(["iban"])
    redactor.learn("known-secret")
    again = pickle.loads(pickle.dumps(redactor))
    assert again.text("known-secret, iban=DE12, user=ada") == "***, iban=***, user=ada"
