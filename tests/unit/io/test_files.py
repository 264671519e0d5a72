"""Values in files: what only this manager does."""

from __future__ import annotations

import errno
import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowstone_async.errors import ConfigError, StorageError
from flowstone_async.io.files import Files
from tests.unit.io.folders import everything, failing, folders, kept, shown
from tests.unit.io.refs import numbers, ref_of


async def test_a_value_has_a_file_of_its_own(tmp_path: Path) -> None:
    ref = ref_of(list[int], partition="us")

    stored = await Files(tmp_path).store(ref, [1, 2])

    assert stored.location == f".values/sales/orders/us/{ref.materialization}"
    assert everything(tmp_path) == [stored.location]
    assert json.loads((tmp_path / stored.location).read_bytes()) == [1, 2]


async def test_nothing_is_shown_before_the_commit(tmp_path: Path) -> None:
    await Files(tmp_path).store(ref_of(int), 7)

    assert shown(tmp_path) == []


async def test_the_current_value_is_shown_after_the_commit(tmp_path: Path) -> None:
    files = Files(tmp_path)

    await kept(files, 1, ref_of(int, partition=date(2025, 1, 15)))
    await kept(files, 2, ref_of(int, partition=date(2025, 1, 15)))

    assert shown(tmp_path) == ["sales/orders/2025-01-15.json"]
    assert json.loads((tmp_path / "sales/orders/2025-01-15.json").read_bytes()) == 2


async def test_an_asset_with_one_value_is_shown_under_its_name(tmp_path: Path) -> None:
    await kept(Files(tmp_path), 1, ref_of(int))

    assert shown(tmp_path) == ["sales/orders.json"]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"path": "{asset}-{partition}"}, "orders-us.json"),
        ({"path": "{asset}/{partition}.txt", "suffix": ".txt"}, "orders/us.txt"),
        ({"path": "latest.json"}, "latest.json"),
        ({"path": "latest", "suffix": ""}, "latest"),
        ({"path": lambda partition: f"by_region/{partition}"}, "by_region/us.json"),
        ({"suffix": ".data.json"}, "sales/orders/us.data.json"),
    ],
    ids=["template", "suffix in the template", "constant", "no suffix", "function", "suffix"],
)
async def test_the_path_and_the_suffix_can_be_chosen(tmp_path: Path, options: dict[str, Any], path: str) -> None:
    await kept(Files(tmp_path, **options), 1, ref_of(int, partition="us"))

    assert shown(tmp_path) == [path]


@pytest.mark.parametrize(
    "options", [{"path": "../{asset}"}, {"path": "{oops}"}, {"suffix": "json"}, {"suffix": "./x"}, {"suffix": "." * 9}]
)
def test_what_cannot_be_a_path_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Files(**options)


async def test_a_path_that_leaves_the_root_fails_before_anything_is_stored(tmp_path: Path) -> None:
    files = Files(tmp_path, path=lambda partition: f"../{partition}")

    with pytest.raises(StorageError, match="below the root"):
        await files.store(ref_of(int, partition="us"), 7)

    assert everything(tmp_path) == []


@given(st.text(max_size=300), st.text(max_size=300))
@example("b", "b.json")
@example("", "s:")
def test_two_keys_are_shown_in_two_places(one: str, other: str) -> None:
    files = Files("root")

    shown = {files._shown(ref_of(int, partition=each)) for each in (one, other)}

    assert len(shown) == len({one, other})


@pytest.mark.parametrize("partition", ["../../evil", "/etc/evil", "..", "a/../../b", "\0", ".values"])
async def test_no_key_leaves_its_folder(tmp_path: Path, partition: str) -> None:
    root = tmp_path / "root"

    await kept(Files(root), 1, ref_of(int, partition=partition))

    assert all(path.startswith("root/") for path in everything(tmp_path))
    assert len(shown(root)) == 1
    assert shown(root)[0].startswith("sales/orders/")


async def test_case_is_told_apart_where_the_file_system_does_not(tmp_path: Path) -> None:
    (tmp_path / ".VALUES").mkdir()  # as such a file system would have it
    files = Files(tmp_path)
    await files.store(ref_of(int), 0)

    for no, partition in enumerate(["us", "US", "Us"]):
        await kept(files, no, ref_of(int, partition=partition))

    assert len({path.lower() for path in shown(tmp_path) if path.startswith("sales/orders/")}) == 3
    assert "sales/orders/us.json" in shown(tmp_path)


async def test_the_root_is_fixed_when_the_manager_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = Files()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    await files.store(ref_of(int), 7)

    assert files.name == f"files:{tmp_path / 'data'}"
    assert len(everything(tmp_path / "data")) == 1


async def test_deleting_a_value_takes_what_it_shows_and_empty_folders(tmp_path: Path) -> None:
    files = Files(tmp_path)
    ref = await kept(files, 1, ref_of(int, partition="us"))

    await files.delete(ref)

    assert folders(tmp_path) == []


async def test_deleting_an_earlier_value_leaves_what_the_later_one_shows(tmp_path: Path) -> None:
    files = Files(tmp_path)
    earlier = await kept(files, 1, ref_of(int))
    later = await kept(files, 2, ref_of(int))

    await files.delete(earlier)

    assert json.loads((tmp_path / "sales/orders.json").read_bytes()) == 2
    assert await files.load(later, None) == 2


async def test_a_value_that_is_superseded_and_deleted_is_not_shown(tmp_path: Path) -> None:
    files = Files(tmp_path)
    ref = ref_of(int)
    stored = await files.store(ref, 1)
    later = await kept(files, 2, ref_of(int))
    ref = ref._replace(location=stored.location)
    await files.delete(ref)

    await files.publish(ref)

    assert json.loads((tmp_path / "sales/orders.json").read_bytes()) == 2
    await files.delete(later)
    assert shown(tmp_path) == []


async def test_changing_what_is_shown_changes_no_value(tmp_path: Path) -> None:
    files = Files(tmp_path)
    ref = await kept(files, 1, ref_of(int))

    with (tmp_path / "sales/orders.json").open("r+b") as file:
        file.write(b"9999")

    assert await files.load(ref, None) == 1


@pytest.mark.parametrize("data", [b"", b" 8", b" 77"])
async def test_a_changed_file_is_found_out(tmp_path: Path, data: bytes) -> None:
    files = Files(tmp_path)
    ref = await kept(files, 7, ref_of(int))
    (tmp_path / ref.location).write_bytes(data)

    with pytest.raises(StorageError, match="checksum") as caught:
        await files.load(ref, None)

    assert str(tmp_path / ref.location) in caught.value.message
    assert "force=True" in str(caught.value)


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret", ".values/../../secret", "sales/orders.json", ".values/a/../../x", "."]
)
async def test_a_record_cannot_name_a_place_outside(tmp_path: Path, location: str) -> None:
    ref = ref_of(int)._replace(location=location)

    for call in (Files(tmp_path).load(ref, None), Files(tmp_path).delete(ref), Files(tmp_path).publish(ref)):
        with pytest.raises(StorageError, match="no place"):
            await call


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, (True, "Free space")),
        (errno.EDQUOT, (True, "Free space")),
        (errno.EIO, (True, "")),
        (errno.EMFILE, (True, "")),
        (errno.EACCES, (False, "read and write")),
        (errno.EROFS, (False, "read-only")),
        (errno.ENAMETOOLONG, (False, "")),
    ],
)
@pytest.mark.parametrize("function", ["write", "fsync", "open"])
async def test_a_value_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, expected: tuple[bool, str]
) -> None:
    files = Files(tmp_path)
    earlier = await kept(files, 1, ref_of(int))
    before = everything(tmp_path)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, failing(number))
        with pytest.raises(StorageError, match="cannot be written") as caught:
            await files.store(ref_of(int), 2)

    error = caught.value
    assert (error.retryable, error.asset) == (expected[0], "orders")
    assert expected[1] in str(error.hint)
    assert str(tmp_path) in error.message
    assert everything(tmp_path) == before
    assert await files.load(earlier, None) == 1


async def test_a_root_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"")

    with pytest.raises(StorageError, match="cannot be written"):
        await Files(tmp_path / "root").store(ref_of(int), 1)
    await Files(tmp_path / "root").delete(ref_of(int))
    with pytest.raises(StorageError):
        await Files(tmp_path / "root").load(ref_of(int), None)


async def test_what_cannot_be_shown_keeps_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path)
    await kept(files, 1, ref_of(int))
    ref = ref_of(int)
    await files.store(ref, 2)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(StorageError, match="cannot be published"):
            await files.publish(ref)

    assert json.loads((tmp_path / "sales/orders.json").read_bytes()) == 1
    assert shown(tmp_path) == ["sales/orders.json"]


def test_pickles_need_a_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key"):
        Files(tmp_path, format="pickle").signed(())


async def test_pickles_have_a_suffix_of_their_own(tmp_path: Path) -> None:
    files = Files(tmp_path, format="pickle").signed(b"key")

    ref = await kept(files, {1}, ref_of(set[int]))
    await kept(files, numbers(3), ref_of(int, partition="stream", stream=True))

    assert shown(tmp_path) == ["sales/orders.pickle", "sales/orders/stream.pickle"]
    assert await files.load(ref, None) == {1}
