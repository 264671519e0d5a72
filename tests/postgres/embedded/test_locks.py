"""File locks: who excludes whom, and what ends them."""

import os
import subprocess
from pathlib import Path

import pytest

from flowstone_async.errors import StoreUnavailable
from flowstone_async.store.embedded.locks import FileLock, exclusive, is_held


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_one_process_excludes_itself(path: Path) -> None:
    first, second = FileLock(path), FileLock(path)
    assert first.acquire()
    assert not second.acquire()
    assert not second.acquire(shared=True)
    first.release()
    assert second.acquire()
    second.release()
    assert not is_held(path)


def test_sharers_keep_each_other_from_having_it_alone(path: Path) -> None:
    first, second = FileLock(path), FileLock(path)
    assert first.acquire(shared=True)
    assert second.acquire(shared=True)
    assert not first.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_a_child_keeps_an_abandoned_lock_until_it_ends(path: Path) -> None:
    lock = FileLock(path)
    assert lock.acquire()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock.descriptor]) as child:
        lock.abandon()
        assert is_held(path)
        child.kill()
        child.communicate()
    assert not is_held(path)


def test_releasing_also_frees_what_a_child_inherited(path: Path) -> None:
    lock = FileLock(path)
    assert lock.acquire()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock.descriptor]):
        lock.release()
        assert not is_held(path)


def test_a_lock_on_a_removed_file_is_not_current(path: Path) -> None:
    lock = FileLock(path)
    assert lock.acquire()
    path.unlink()
    assert not lock.is_current
    path.touch()
    assert not lock.is_current
    assert lock.acquire()
    assert lock.is_current
    lock.release()


def test_what_is_not_locked_has_no_file(path: Path) -> None:
    lock = FileLock(path)
    lock.release()
    with pytest.raises(ValueError, match="is not locked"):
        _ = lock.descriptor
    assert not is_held(path)
    assert not path.exists()


def test_waiting_ends_when_the_holder_leaves(path: Path) -> None:
    holder, waiter = FileLock(path), FileLock(path)
    assert holder.acquire()
    assert not waiter.wait(0)
    holder.release()
    assert waiter.wait(0)
    assert path.stat().st_mode & 0o777 == 0o600
    waiter.release()


def test_an_exclusive_section_ends_with_its_block(path: Path) -> None:
    def enter() -> None:
        with exclusive(path, patience=0):
            assert is_held(path)
            raise ZeroDivisionError

    with exclusive(path, patience=0), pytest.raises(StoreUnavailable, match="has held"):
        enter()
    with pytest.raises(ZeroDivisionError):
        enter()
    assert not is_held(path)


def test_a_programs_children_inherit_no_lock_by_accident(path: Path) -> None:
    lock = FileLock(path)
    assert lock.acquire()
    assert not os.get_inheritable(lock.descriptor)
    lock.release()
