"""Names of files: no key leaves its folder, and no two keys share a name (STORE-08)."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.definition.keys import encode_key
from flowstone_async.errors import ConfigError
from flowstone_async.io.paths import DEFAULT, checked_template, file_name, key_folder, public_path
from flowstone_async.types import AssetKey

HOSTILE = st.lists(st.sampled_from([*"aAzZ.~%,|/\\: \0é", "..", "nul", "CON.", "é", "\ud800", "x" * 70])).map("".join)
TEXTS = (st.text() | HOSTILE).filter(bool)


def key_of(partition: Any) -> AssetKey:
    return AssetKey("sales", "orders", encode_key(partition))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("us", "us"),
        ("New York", "New York"),
        ("2025-01-15", "2025-01-15"),
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        (".hidden", "%2Ehidden"),
        ("50%", "50%25"),
        ("nul", "%6Eul"),
        ("Com1.txt", "%43om1.txt"),
        ("console", "console"),
        ("a|b", "a,b"),
        ("a,b", "a%2Cb"),
        ("é", "%C3%A9"),
        ("end. ", "end.%20"),
        ("\0", "%00"),
    ],
)
def test_names_are_readable_where_they_can_be(text: str, name: str) -> None:
    assert file_name(text) == name


@given(TEXTS, st.booleans())
def test_a_name_is_one_portable_part_of_a_path(text: str, fold: bool) -> None:
    name = file_name(text, fold=fold)

    assert PurePosixPath("/root", name).parent == PurePosixPath("/root")
    assert PureWindowsPath("C:/root", name).parent == PureWindowsPath("C:/root")
    assert name.isascii()
    assert name.isprintable()
    assert len(name) <= 220
    assert name[0] not in ". "
    assert name[-1] not in ". "
    assert name.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@given(TEXTS, TEXTS)
def test_two_texts_have_two_names(one: str, other: str) -> None:
    if one != other:
        assert file_name(one) != file_name(other)


@given(HOSTILE.filter(bool))
def test_texts_that_differ_in_case_have_names_that_differ_in_more(text: str) -> None:
    other = text.swapcase()
    if other != text:
        assert file_name(text, fold=True).lower() != file_name(other, fold=True).lower()


@given(st.text(min_size=201), st.text(min_size=201))
def test_long_texts_are_cut_and_kept_apart(one: str, other: str) -> None:
    assert (file_name(one) == file_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("partition", "path"),
    [
        (None, "sales/orders"),
        ("us", "sales/orders/us"),
        (date(2025, 1, 15), "sales/orders/2025-01-15"),
        (datetime(2025, 1, 15, 12, tzinfo=UTC), "sales/orders/2025-01-15T12%3A00%3A00+00%3A00"),
        (7, "sales/orders/7"),
        ((date(2025, 1, 15), "us"), "sales/orders/2025-01-15,us"),
        ("../../etc/passwd", "sales/orders/%2E.%2F..%2Fetc%2Fpasswd"),
        ("/etc", "sales/orders/%2Fetc"),
    ],
)
def test_a_value_is_shown_under_pipeline_asset_and_partition(partition: Any, path: str) -> None:
    assert public_path(DEFAULT, key_of(partition), partition) == path


def test_a_template_may_put_fields_anywhere() -> None:
    shown = public_path("daily/day={partition}/{asset}", key_of("a/b"), "a/b")

    assert shown == "daily/day=a%2Fb/orders"


def test_a_function_of_the_partition_gives_the_path() -> None:
    def path(partition: date) -> str:
        return f"{partition:%Y/%m}/report"

    assert public_path(path, key_of(date(2025, 1, 15)), date(2025, 1, 15)) == "2025/01/report"


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "..", "\\x", "a\\..\\x", "", "/", None])
def test_a_function_cannot_leave_the_root(path: Any) -> None:
    with pytest.raises(ConfigError):
        public_path(lambda _: path, key_of("us"), "us")


@given(st.text())
def test_whatever_a_function_makes_of_a_key_stays_below_the_root(key: str) -> None:
    try:
        shown = public_path(lambda partition: f"reports/{partition}/x", key_of("us"), key)
    except ConfigError:
        return
    assert PurePosixPath(shown).parts[0] == "reports"
    assert ".." not in PurePosixPath(shown).parts


def test_a_path_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="names no file"):
        public_path("{partition}", key_of(None), None)


@pytest.mark.parametrize(
    "path", ["/abs/{asset}", "../{asset}", "{asset", "{other}", "{asset.__class__}", "{asset!r}", "{asset:>9}", "{}"]
)
def test_a_template_that_is_not_sound_is_refused(path: str) -> None:
    with pytest.raises(ConfigError):
        checked_template(path)


@given(TEXTS, TEXTS)
def test_two_keys_have_two_folders(one: str, other: str) -> None:
    if one != other:
        assert key_folder(AssetKey("sales", "orders", one)) != key_folder(AssetKey("sales", "orders", other))
