"""Files written as a whole."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flowstone_async.io.drafts import Draft, locked_file, read_from, remove_file, write_file


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_appears_with_all_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    draft = Draft(path)

    draft.write(b"one, ")
    draft.write(b"two")
    assert not path.exists()
    draft.publish()

    assert path.read_bytes() == b"one, two"
    assert names(tmp_path) == ["a", "a/b", "a/b/file"]


def test_an_earlier_file_stays_until_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"earlier and longer")
    draft = Draft(path)

    draft.write(b"later")
    assert path.read_bytes() == b"earlier and longer"
    draft.publish()

    assert path.read_bytes() == b"later"


def test_an_empty_file_can_be_published(tmp_path: Path) -> None:
    Draft(tmp_path / "file").publish()

    assert (tmp_path / "file").read_bytes() == b""


def test_a_discarded_draft_leaves_nothing_and_takes_nothing_more(tmp_path: Path) -> None:
    draft = Draft(tmp_path / "file")
    draft.write(b"x")

    draft.discard()
    draft.discard()

    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        draft.write(b"y")
    assert names(tmp_path) == []


def test_writes_that_the_system_cuts_short_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:3])))

    write_file(tmp_path / "file", b"0123456789")

    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_write_that_fails_halfway_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft(tmp_path / "file")
    draft.write(b"kept ")
    real = os.write
    calls = iter([3, None])

    def full(descriptor: int, data: bytes) -> int:
        count = next(calls)
        if count is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, bytes(data[:count]))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            draft.write(b"lost and longer")
    draft.write(b"again")
    draft.publish()

    assert (tmp_path / "file").read_bytes() == b"kept again"


@pytest.mark.parametrize("function", ["write", "fsync", "ftruncate"])
def test_a_file_that_cannot_be_written_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "file"
    write_file(path, b"earlier")

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, broken)
        with pytest.raises(OSError, match="Input/output"):
            write_file(path, b"later")

    assert path.read_bytes() == b"earlier"
    assert names(tmp_path) == ["file"]


def test_parts_of_a_file_are_read(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"0123456789")

    assert read_from(tmp_path / "file", 3, 4) == b"3456"
    assert read_from(tmp_path / "file", 8, 4) == b"89"
    assert read_from(tmp_path / "file", 20, 4) == b""


def test_removing_a_file_takes_the_folders_it_leaves_empty(tmp_path: Path) -> None:
    write_file(tmp_path / "root" / "a" / "b" / "one", b"")
    write_file(tmp_path / "root" / "a" / "two", b"")

    remove_file(tmp_path / "root" / "a" / "b" / "one", tmp_path / "root")
    remove_file(tmp_path / "root" / "a" / "b" / "one", tmp_path / "root")
    assert names(tmp_path) == ["root", "root/a", "root/a/two"]
    remove_file(tmp_path / "root" / "a" / "two", tmp_path / "root")

    assert names(tmp_path) == ["root"]


def test_files_are_written_while_others_remove_their_folder(tmp_path: Path) -> None:
    def work(no: int) -> bool:
        path = tmp_path / "shared" / "folder" / str(no)
        for _ in range(100):
            write_file(path, b"x")
            if path.read_bytes() != b"x":
                return False
            remove_file(path, tmp_path)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert names(tmp_path) == []


def test_one_holds_a_file_at_a_time_also_when_it_is_removed_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    inside: list[int] = []

    def work(no: int) -> bool:
        alone = True
        for _ in range(50):
            with locked_file(path):
                alone = alone and not inside
                inside.append(no)
                os.sched_yield()
                inside.remove(no)
                remove_file(path, tmp_path)
        return alone

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
